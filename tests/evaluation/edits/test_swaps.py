from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor

from latentslots.data import SceneOptions, load_dataset, make_scenes
from latentslots.evaluation.edits import swaps
from latentslots.evaluation.edits.pairs import METHODS, rows_before
from latentslots.evaluation.edits.swaps import evaluate_swaps
from latentslots.pipelines import LatentSlotDiffusionPipeline
from tests.evaluation.oracle import Oracle, key


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("pairs") / "parts"
    options = SceneOptions(kind="parts", size=32, edit_pairs=True)
    make_scenes(out, options, num_train=0, num_validation=16, workers=1)
    return load_dataset(out, split="validation")


@pytest.fixture(autouse=True)
def _short_inversion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentslots.pipelines.edit.NUM_INVERSION_STEPS", 4)


@pytest.fixture
def oracle(tiny_pipeline_dir: Path, pairs: Dataset) -> Oracle:
    pipe = Oracle.from_pretrained(tiny_pipeline_dir)
    pipe.set_progress_bar_config(disable=True)
    loaded = swaps._load(pairs, rows_before(pairs, "replaced", following=2), 32)
    pipe.truth = {}
    for images, parts in (
        (loaded.after, loaded.new_part),
        (loaded.giver, loaded.given_part),
        (loaded.before, loaded.old_part),
    ):
        pipe.truth |= {key(image): part for image, part in zip(images, parts, strict=True)}
    return pipe


def test_the_next_figure_gives_the_part(pairs: Dataset) -> None:
    rows = rows_before(pairs, "replaced", following=2)
    assert len(rows) >= 2
    loaded = swaps._load(pairs, rows, 32)
    for i, row in enumerate(rows):
        number = pairs[row]["edited_object"]
        before, after, giver = (pairs[row + k]["attributes"] for k in range(3))
        for name in ("shape_label", "scale", "pose", "color"):
            assert after[name][number - 1] == giver[name][number - 1]
            others = [k for k in range(5) if k != number - 1]
            assert [after[name][k] for k in others] == [before[name][k] for k in others]
        assert loaded.given_part[i].any()


def test_each_way_is_scored_on_the_parts_that_were_found(oracle: Oracle, pairs: Dataset) -> None:
    done: list[int] = []
    reports = evaluate_swaps(
        oracle, pairs, num_inference_steps=2, batch_size=2, progress=done.append
    )
    assert list(reports) == list(METHODS)
    count = len(rows_before(pairs, "replaced", following=2))
    assert sum(done) == count
    for report in reports.values():
        assert 2 <= report.num_found <= report.num_pairs == count
        assert report.placed == report.success == 0, "the oracle knows nothing of what was painted"
    assert reports["blending"].psnr > reports["plain"].psnr + 1
    one = evaluate_swaps(oracle, pairs, num_inference_steps=2, batch_size=1)
    assert one["plain"].psnr == pytest.approx(reports["plain"].psnr, abs=1e-2)


@pytest.mark.parametrize(("painter", "success"), [("after", 1), ("before", 0)])
def test_who_paints_the_truth_succeeds(
    oracle: Oracle,
    pairs: Dataset,
    painter: str,
    success: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = swaps._load(pairs, rows_before(pairs, "replaced", following=2), 32)
    known = {key(b): getattr(loaded, painter)[i] for i, b in enumerate(loaded.before)}

    def paint(pipe: Any, pixel_values: Tensor, *others: Any, **options: Any) -> Tensor:
        return (torch.stack([known[key(image)] for image in pixel_values]) + 1) / 2

    monkeypatch.setattr(swaps, "paint_edit", paint)
    report = evaluate_swaps(oracle, pairs)["plain"]
    assert report.colored == report.success == success
    assert (report.psnr > 59) == (painter == "after")


def test_data_without_swaps_is_one_sentence(
    tiny_pipeline: LatentSlotDiffusionPipeline, scenes_store: Path
) -> None:
    dataset = load_dataset(scenes_store, split="validation")
    with pytest.raises(ValueError, match="no pairs with a replaced part: make parts --edit-pairs"):
        evaluate_swaps(tiny_pipeline, dataset)
