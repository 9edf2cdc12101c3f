"""Validation and previews: what they measure, and that they do not change training."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from latentslots.build.data import build_split
from latentslots.config import TrainConfig
from latentslots.evaluation import evaluate
from latentslots.models.autoencoder import load_vae
from latentslots.pipelines import LatentSlotDiffusionPipeline
from latentslots.recipes import recipe
from latentslots.training.validation import Validator, fixed_subset
from tests.training.runs import assert_same, losses, rewind, rows, run, saved, with_changes


@pytest.fixture(scope="module")
def validated(config: TrainConfig) -> TrainConfig:
    return with_changes(config, {"data.validation_split": "validation", "validation_steps": 2})


def measured(run_dir: Path) -> list[dict[str, Any]]:
    return [row for row in rows(run_dir) if "validation/loss" in row]


@pytest.fixture(scope="module")
def plain(validated: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that validates twice, and draws only at its end."""
    run_dir = tmp_path_factory.mktemp("validated") / "run"
    run(validated, run_dir)
    return run_dir


@pytest.fixture(scope="module")
def busy(validated: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that validates and draws at every step."""
    run_dir = tmp_path_factory.mktemp("busy") / "run"
    run(with_changes(validated, {"validation_steps": 1, "preview_steps": 1}), run_dir)
    return run_dir


def test_it_runs_at_its_interval_and_at_the_end(plain: Path, busy: Path) -> None:
    assert [row["step"] for row in measured(plain)] == [2, 4]
    assert [row["step"] for row in measured(busy)] == [1, 2, 3, 4]
    assert [p.name for p in sorted((plain / "previews").iterdir())] == ["step_0000004.png"]
    assert len(list((busy / "previews").iterdir())) == 4


def test_previews_do_not_change_it(plain: Path, busy: Path) -> None:
    assert measured(plain) == measured(busy)[1::2]


def test_training_does_not_depend_on_it(finished: Path, plain: Path, busy: Path) -> None:
    assert losses(finished) == losses(plain) == losses(busy)
    assert_same(saved(plain, 4), saved(finished, 4))
    assert_same(saved(busy, 4), saved(finished, 4))


def test_it_measures_what_evaluate_measures(validated: TrainConfig, plain: Path) -> None:
    pipe = LatentSlotDiffusionPipeline.from_pretrained(plain / "pipeline")
    report = evaluate(pipe, build_split(validated.data, "validation"), progress=False)
    found = measured(plain)[-1]
    for name in ("fg_ari", "ari", "miou_objects", "mbo_objects"):
        assert found[f"validation/{name}"] == pytest.approx(getattr(report, name), abs=1e-6)


def test_images_without_masks_have_a_loss_only(
    validated: TrainConfig, tmp_path: Path, squares_store: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for index, row in enumerate(build_split(validated.data, "train")):
        row["image"].save(images / f"{index}.png")
    config = with_changes(validated, {"data.path": str(images), "max_train_steps": 1})
    run(config, tmp_path / "run")
    (found,) = measured(tmp_path / "run")
    losses = {"validation/loss", "validation/loss_average_slot", "validation/loss_no_slots"}
    assert found.keys() == {"step"} | losses


def test_condition_dropout_has_no_effect(validated: TrainConfig, tmp_path: Path) -> None:
    """No image is dropped in validation: nearly all dropped in training changes nothing here."""
    found = []
    for share in (0.01, 0.99):
        changes = {"method.condition_dropout": share, "optim.learning_rate": 0.0}
        run_dir = tmp_path / str(share)
        run(with_changes(validated, {**changes, "max_train_steps": 1}), run_dir)
        found += measured(run_dir)
    assert found[0] == found[1]


def test_the_subset_is_spread_evenly(validated: TrainConfig) -> None:
    dataset = build_split(validated.data, "train").add_column("row", list(range(12)))
    assert fixed_subset(dataset, 4)["row"][:] == [0, 3, 6, 9]
    assert fixed_subset(dataset, 5)["row"][:] == [0, 2, 4, 7, 9]
    assert fixed_subset(dataset, 50)["row"][:] == list(range(12))


def test_the_preview_shows_all_its_images(busy: Path) -> None:
    """Four rows, each at least 32 px high and with image, overlay, two paintings, four slots."""
    with Image.open(busy / "previews" / "step_0000001.png") as page:
        assert page.height >= 4 * 32
        assert page.width >= 8 * 32
        assert len(page.convert("RGB").getcolors(1 << 16) or []) > 100


@pytest.mark.parametrize("split", ["validation", "none"])
def test_an_autoencoder_gets_its_scale_from_the_data(
    validated: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    """Latents divided by their deviation; without a validation split that of training images."""
    config = with_changes(
        recipe("autoencoder"),
        {
            "method.block_out_channels": [8, 8],
            "method.norm_num_groups": 4,
            "data.path": validated.data.path,
            "data.validation_split": split,
            "data.resolution": 32,
            "data.num_workers": 0,
            "train_batch_size": 4,
            "max_train_steps": 2,
            "num_validation_images": 4,
            "validation_steps": 1,
            "mixed_precision": "no",
        },
    )
    said = run(config, tmp_path / "run")
    assert ("measuring on training images" in said) == (split == "none")
    row = rows(tmp_path / "run")[-1]
    assert row.keys() == {"step", "validation/psnr", "validation/ssim", "validation/latent_std"}
    vae = load_vae(str(tmp_path / "run"))
    std = vae.config.latents_std
    assert sum(std) / len(std) == pytest.approx(row["validation/latent_std"])
    resumed = rewind(tmp_path / "run", 2, tmp_path / "resumed")
    monkeypatch.setattr(Validator, "__call__", lambda *_: {})
    run(with_changes(config, {"max_train_steps": 3}), resumed, resume=True)
    saved_alone = load_vae(str(resumed)).config.latents_std
    assert saved_alone == pytest.approx(std, rel=0.1)
