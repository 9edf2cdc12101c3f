"""A loss that is not finite costs one step, not the run."""

import math
from pathlib import Path

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor

from latentslots.config import TrainConfig
from latentslots.data.loading.loader import Request, Sample
from latentslots.training import Trainer, TrainingError
from tests.training.runs import (
    GivenDraws,
    assert_same,
    build_trainer,
    rows,
    saved,
    training_rows,
    with_changes,
)


class Poisoned(GivenDraws):
    """Some images, counted in the order in which they are read, bring noise that is not finite."""

    num_read = 0
    bad: range = range(0)

    def __getitem__(self, request: Request | int) -> Sample:
        sample = super().__getitem__(request)
        if self.num_read in self.bad:
            sample["noise"] = torch.full_like(sample["noise"], math.nan)
        self.num_read += 1
        return sample


def poisoned(config: TrainConfig, run_dir: Path, bad: range) -> Trainer:
    dataset = training_rows(config, Poisoned)
    assert isinstance(dataset, Poisoned)
    dataset.bad = bad
    return build_trainer(config, run_dir, dataset=dataset)


def state(trainer: Trainer) -> dict[str, Tensor]:
    assert trainer.ema is not None
    moments = trainer.optimizer.state_dict()["state"]
    return {
        **{f"weights/{i}": p.detach().clone() for i, p in enumerate(trainer.trainable)},
        **{f"ema/{i}": p.clone() for i, p in enumerate(trainer.ema.shadow_params)},
        **{f"exp_avg/{i}": values["exp_avg"].clone() for i, values in moments.items()},
        "lr": torch.tensor(trainer.lr_scheduler.get_last_lr()),
        "ema_step": torch.tensor(trainer.ema.optimization_step),
    }


@pytest.mark.parametrize("count", [1, 2])
def test_a_step_without_a_finite_loss_is_skipped_and_counted(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    """With accumulation, one bad micro-batch spoils its step and no other."""
    changes = {"gradient_accumulation_steps": count, "train_batch_size": 4 // count}
    config = with_changes(config, changes)
    trainer = poisoned(config, tmp_path / "bad", bad=range(5, 6))
    trainer.fit()
    trainer.run_log.close()
    assert trainer.num_bad_steps == 1
    assert trainer.num_batches == (config.max_train_steps + 1) * count
    assert [row["num_bad_steps"] for row in rows(tmp_path / "bad")] == [0, 1, 1, 1]
    assert all(math.isfinite(row["loss"]) for row in rows(tmp_path / "bad"))
    assert "step 2: the loss is nan" in capsys.readouterr().err
    assert all(value.isfinite().all() for value in saved(tmp_path / "bad", 4).values())


def test_a_skipped_step_changes_nothing(config: TrainConfig, tmp_path: Path) -> None:
    """The run goes on as if the images had not been there."""
    trainer = poisoned(with_changes(config, {"max_train_steps": 1}), tmp_path / "run", range(4, 16))
    trainer.fit()
    before = state(trainer)
    trainer.config = with_changes(config, {"max_train_steps": 2})
    seen = []
    trainer.model.register_forward_pre_hook(lambda *_: seen.append(state(trainer)))
    trainer.fit()
    trainer.run_log.close()
    assert len(seen) == 4  # three bad batches, and a good one
    for now in seen:
        assert_same(now, before)
    assert trainer.step == 2
    with pytest.raises(AssertionError):
        assert_same(state(trainer), before)


def test_a_gradient_that_is_not_finite_counts_as_well(config: TrainConfig, tmp_path: Path) -> None:
    trainer = build_trainer(config, tmp_path / "run", dataset=training_rows(config))
    calls = iter(range(100))
    trainer.trainable[0].register_hook(lambda g: g / 0 if next(calls) == 1 else g)
    trainer.fit()
    trainer.run_log.close()
    assert trainer.num_bad_steps == 1
    assert all(value.isfinite().all() for value in saved(tmp_path / "run", 4).values())


def test_ten_in_a_row_end_the_run_and_keep_its_checkpoint(
    config: TrainConfig, tmp_path: Path
) -> None:
    trainer = poisoned(config, tmp_path / "run", bad=range(8, 1000))
    with pytest.raises(TrainingError, match=r"10 times in a row, after step 2; .*step_0000002"):
        trainer.fit()
    trainer.run_log.close()
    assert [p.name for p in (tmp_path / "run" / "state").iterdir()] == ["step_0000002"]
    assert all(value.isfinite().all() for value in saved(tmp_path / "run", 2).values())
    assert trainer.num_batches == 12


def test_nine_in_a_row_do_not(config: TrainConfig, tmp_path: Path) -> None:
    trainer = poisoned(config, tmp_path / "run", bad=range(8, 8 + 9 * 4))
    trainer.fit()
    trainer.run_log.close()
    assert (trainer.step, trainer.num_bad_steps, trainer.bad_in_a_row) == (4, 9, 0)


def test_ten_at_the_start_report_that_there_is_no_checkpoint(
    config: TrainConfig, tmp_path: Path
) -> None:
    trainer = poisoned(config, tmp_path / "run", bad=range(1000))
    with pytest.raises(TrainingError, match="after step 0; there is no checkpoint"):
        trainer.fit()
    trainer.run_log.close()


def test_the_count_survives_a_resume(config: TrainConfig, tmp_path: Path) -> None:
    trainer = poisoned(config, tmp_path / "run", bad=range(5, 6))
    trainer.fit()
    trainer.run_log.close()
    resumed = poisoned(config, tmp_path / "run", bad=range(0))
    resumed.load(tmp_path / "run" / "state" / "step_0000002")
    resumed.run_log.close()
    assert resumed.num_bad_steps == 1


def test_steps_that_the_loss_scaler_skips_are_not_counted(
    config: TrainConfig, tmp_path: Path
) -> None:
    """As on a GPU in fp16: what the fused optimizer leaves out is no step for anybody."""
    trainer = build_trainer(config, tmp_path / "run", dataset=training_rows(config))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    trainer.accelerator.scaler = scaler
    trainer.optimizer = AcceleratedOptimizer(trainer.optimizer.optimizer, scaler=scaler)
    trainer.fit()
    trainer.run_log.close()
    assert scaler.get_scale() < 2.0**127
    assert trainer.num_batches > trainer.step == config.max_train_steps
    assert trainer.num_bad_steps == 0
    assert trainer.ema is not None
    assert trainer.ema.optimization_step == config.max_train_steps
    moved = {state["step"].item() for state in trainer.optimizer.optimizer.state.values()}
    assert moved == {config.max_train_steps}
