"""Refactors change no number: losses of small runs of every method, recorded in tests/golden.

To record them again after an intended change: `python -m tests.training.test_loss_trace`.
"""

import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from latentslots.recipes import recipe
from tests import tiny
from tests.training.runs import rows, run
from tests.training.test_recipes_run import shrink

GOLDEN = Path(__file__).parents[1] / "golden" / "losses.json"
STEPS = {
    "lsd-scenes-64": 20,
    "lsd-movi-e": 6,
    "stable-lsd-coco-plus": 6,
    "slot-attention-64": 6,
    "slate-64": 6,
    "dinosaur-coco": 6,
    "autoencoder-small": 6,
}
TOLERANCE = 1e-3
"""Relative; other processors round differently, and every step adds to it."""


def trace(name: str, store: Path, vae: Path, vit: Path, diffusion: Path, out: Path) -> Any:
    """What a small run of a recipe logs, step by step, and what it is validated to."""
    config = shrink(recipe(name), store, vae, vit, diffusion)
    config = replace(
        config,
        max_train_steps=STEPS[name],
        checkpointing_steps=0,
        validation_steps=0,
        preview_steps=0,
        mixed_precision="no",
    )
    run(config, out)
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows(out)]


@pytest.mark.parametrize("name", STEPS)
def test_losses_are_those_recorded(
    name: str,
    squares_store: Path,
    tiny_vae_dir: Path,
    tiny_vit_dir: Path,
    tiny_diffusion_dir: Path,
    tmp_path: Path,
) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))[name]
    found = trace(name, squares_store, tiny_vae_dir, tiny_vit_dir, tiny_diffusion_dir, tmp_path)
    assert [row.keys() for row in found] == [row.keys() for row in golden]
    for row, expected in zip(found, golden, strict=True):
        for key, value in expected.items():
            # Segmentation scores are of an argmax over an untrained model: see its losses.
            if not key.startswith("validation/") or "loss" in key:
                assert math.isclose(row[key], value, rel_tol=TOLERANCE, abs_tol=1e-4), (key, row)


if __name__ == "__main__":
    from examples.tiny_pretrained import write_stable_diffusion

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = tiny.write_squares(folder / "store", num_train=12, num_validation=4)
        tiny.tiny_autoencoder().save_pretrained(folder / "vae")
        tiny.tiny_vit_encoder().model.save_pretrained(folder / "vit")
        write_stable_diffusion(folder / "diffusion")
        parts = [store, *(folder / part for part in ("vae", "vit", "diffusion"))]
        traces = {recipe: trace(recipe, *parts, folder / "runs" / recipe) for recipe in STEPS}
    GOLDEN.write_text(json.dumps(traces, indent=1) + "\n", encoding="utf-8")
