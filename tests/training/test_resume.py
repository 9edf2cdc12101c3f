"""Four steps are two steps, a save, a load, and two steps: bit for bit, on the CPU."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from latentslots.config import TrainConfig
from latentslots.training.run import RunError
from tests.training.runs import assert_same_run, rewind, run, with_changes

MIXED = {
    "data.num_workers": 1,
    "data.random_flip": True,
    "data.validation_split": "validation",
    "gradient_accumulation_steps": 2,
    "method.condition_dropout": 0.5,
    "mixed_precision": "bf16",
    "preview_steps": 3,
    "train_batch_size": 3,
    "validation_steps": 1,
}
LEARNED = {
    "method.num_registers": 2,
    "method.slot_init": "learned",
    "method.bi_level": True,
    "method.position": "learned",
}
STREAMED = {
    "data.streaming": True,
    "data.shuffle_buffer": 5,
    "data.num_workers": 1,
    "data.random_flip": True,
}
ALONE: dict[str, dict[str, Any]] = {
    "flips": {"data.random_flip": True},
    "live-latents": {"data.cache_latents": False, "data.random_flip": True},
    "worker": {"data.num_workers": 1},
    "dropout": {"method.condition_dropout": 0.5},
    "learned": LEARNED,
    "bf16": {"mixed_precision": "bf16"},
    "accumulation": {"gradient_accumulation_steps": 2, "train_batch_size": 3},
    "cosine": {"optim.lr_scheduler": "cosine", "optim.encoder_lr_scale": 0.5},
    "checkpointing": {"gradient_checkpointing": True},
    "validation-previews": {
        "data.validation_split": "validation",
        "validation_steps": 1,
        "preview_steps": 3,
    },
}


def resumed_after_two(config: TrainConfig, folder: Path) -> None:
    """Compare four steps with the first two of them and two after a resume."""
    run(config, folder / "whole")
    run(config, rewind(folder / "whole", 2, folder / "resumed"), resume=True)
    assert_same_run(folder / "resumed", folder / "whole", step=4)


def test_resume_is_exact(config: TrainConfig, finished: Path, tmp_path: Path) -> None:
    run(config, rewind(finished, 2, tmp_path / "resumed"), resume=True)
    assert_same_run(tmp_path / "resumed", finished, step=4)


def test_resume_is_exact_with_many_options_on(config: TrainConfig, tmp_path: Path) -> None:
    resumed_after_two(with_changes(config, MIXED), tmp_path)


def test_resume_is_exact_with_many_options_off(config: TrainConfig, tmp_path: Path) -> None:
    off = {"channels_last": False, "data.cache_latents": False, "optim.ema_decay": 0.0}
    resumed_after_two(with_changes(config, {**off, **LEARNED}), tmp_path)


def test_resume_is_exact_inside_a_stream(config: TrainConfig, tmp_path: Path) -> None:
    config = with_changes(config, STREAMED)
    resumed_after_two(config, tmp_path)
    with pytest.raises(RunError, match=r"data\.num_workers: 1 -> 0"):
        run(with_changes(config, {"data.num_workers": 0}), tmp_path / "resumed", resume=True)


def test_resume_is_exact_with_whitened_latents(config: TrainConfig, tmp_path: Path) -> None:
    resumed_after_two(with_changes(config, {"method.whiten_latents": True}), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("changes", ALONE.values(), ids=ALONE.keys())
def test_resume_is_exact_with(config: TrainConfig, tmp_path: Path, changes: dict[str, Any]) -> None:
    resumed_after_two(with_changes(config, changes), tmp_path)


@pytest.fixture(scope="module")
def flipping(config: TrainConfig) -> TrainConfig:
    """Two epochs and a step, all saved."""
    changes = {"checkpointing_steps": 1, "max_train_steps": 7, "checkpoints_total_limit": 7}
    return with_changes(config, {**changes, "data.random_flip": True})


@pytest.fixture(scope="module")
def epochs(flipping: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("epochs") / "run"
    run(flipping, run_dir)
    return run_dir


@pytest.mark.parametrize("step", [3, 5])
def test_resume_is_exact_at_any_point_of_an_epoch(
    flipping: TrainConfig, epochs: Path, tmp_path: Path, step: int
) -> None:
    """At the end of the first, and inside the second."""
    run(flipping, rewind(epochs, step, tmp_path / "resumed"), resume=True)
    assert_same_run(tmp_path / "resumed", epochs, step=7)


@pytest.mark.slow
def test_a_run_can_be_resumed_again_and_again(config: TrainConfig, tmp_path: Path) -> None:
    config = with_changes(config, {"checkpointing_steps": 1})
    run(config, tmp_path / "whole")
    latest = tmp_path / "whole"
    for step in (1, 2, 3):
        latest = rewind(latest, step, tmp_path / f"resumed_{step}")
        run(config, latest, resume=True)
    assert_same_run(latest, tmp_path / "whole", step=4)


def test_other_seeds_give_other_weights(
    config: TrainConfig, finished: Path, tmp_path: Path
) -> None:
    """What makes the tests above able to fail: runs do not agree by themselves."""
    run(with_changes(config, {"seed": 1}), tmp_path / "other")
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "other", finished, step=4)


def test_resuming_a_finished_run_trains_no_further(
    config: TrainConfig, finished: Path, tmp_path: Path
) -> None:
    resumed = shutil.copytree(finished, tmp_path / "resumed")
    run(config, resumed, resume=True)
    assert_same_run(resumed, finished, step=4)


def test_a_finished_run_can_be_made_longer(config: TrainConfig, tmp_path: Path) -> None:
    config = with_changes(config, {"optim.lr_scheduler": "constant"})
    longer = with_changes(config, {"max_train_steps": 6})
    run(longer, tmp_path / "whole")
    run(config, tmp_path / "resumed")
    run(longer, tmp_path / "resumed", resume=True)
    assert_same_run(tmp_path / "resumed", tmp_path / "whole", step=6)
