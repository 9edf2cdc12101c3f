"""Four steps are two steps, a save, a load, and two steps: bit for bit, on the CPU."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from latentslots.config import TrainConfig
from tests.training.runs import assert_same_run, rewind, run, with_changes

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "flips": {"data.random_flip": True},
    "live-latents": {"data.cache_latents": False, "data.random_flip": True},
    "worker": {"data.num_workers": 1, "data.random_flip": True},
    "dropout": {"method.condition_dropout": 0.5},
    "registers-learned-slots": {
        "method.num_registers": 2,
        "method.slot_init": "learned",
        "method.bi_level": True,
        "method.position": "learned",
    },
    "bf16": {"mixed_precision": "bf16"},
    "accumulation": {"gradient_accumulation_steps": 2, "train_batch_size": 3},
    "contiguous": {"channels_last": False, "optim.ema_decay": 0.0},
    "cosine": {"optim.lr_scheduler": "cosine", "optim.encoder_lr_scale": 0.5},
    "checkpointing": {"gradient_checkpointing": True},
    "validation-previews": {
        "data.validation_split": "validation",
        "validation_steps": 1,
        "preview_steps": 3,
    },
}


@pytest.mark.parametrize("changes", OPTIONS.values(), ids=OPTIONS.keys())
def test_resume_is_exact(config: TrainConfig, tmp_path: Path, changes: dict[str, Any]) -> None:
    config = with_changes(config, changes)
    run(config, tmp_path / "whole")
    run(config, rewind(tmp_path / "whole", 2, tmp_path / "resumed"), resume=True)
    assert_same_run(tmp_path / "resumed", tmp_path / "whole", step=4)


@pytest.mark.parametrize("step", [1, 3, 4])
def test_resume_is_exact_wherever_in_an_epoch(
    config: TrainConfig, tmp_path: Path, step: int
) -> None:
    """An epoch has three steps: inside the first, at its end, inside the second."""
    config = with_changes(config, {"checkpointing_steps": 1, "max_train_steps": 7})
    config = with_changes(config, {"checkpoints_total_limit": 7, "data.random_flip": True})
    run(config, tmp_path / "whole")
    run(config, rewind(tmp_path / "whole", step, tmp_path / "resumed"), resume=True)
    assert_same_run(tmp_path / "resumed", tmp_path / "whole", step=7)


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
