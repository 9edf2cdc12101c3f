"""A step of several micro-batches is the step of one batch that holds all their images."""

from pathlib import Path

import pytest
import torch

from latentslots.config import TrainConfig
from tests.training.runs import build_trainer, rows, saved, training_rows, weights, with_changes

NUM_STEPS = 3


def fit(config: TrainConfig, run_dir: Path, *, size: int, count: int) -> Path:
    """Train with `count` micro-batches of `size` images, whose noise depends on the image alone."""
    changes = {"train_batch_size": size, "gradient_accumulation_steps": count}
    config = with_changes(config, {**changes, "checkpointing_steps": 1, "max_train_steps": 3})
    trainer = build_trainer(config, run_dir, dataset=training_rows(config))
    trainer.fit()
    trainer.run_log.close()
    assert trainer.num_batches == NUM_STEPS * count
    return run_dir


@pytest.fixture(scope="module")
def whole(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(config, tmp_path_factory.mktemp("accumulation") / "whole", size=4, count=1)


@pytest.fixture(scope="module", params=[(2, 2), (1, 4)], ids=["2x2", "1x4"])
def parts(
    config: TrainConfig, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Path:
    size, count = request.param
    return fit(config, tmp_path_factory.mktemp("accumulation") / "parts", size=size, count=count)


def test_gradients_are_the_same(whole: Path, parts: Path) -> None:
    expected, found = saved(whole, 1), saved(parts, 1)
    moments = [name for name in expected if name.endswith(".exp_avg")]
    scale = max(expected[name].abs().max() for name in moments)
    assert scale > 0
    for name in moments:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5 * scale)


def test_weights_are_the_same_after_several_steps(whole: Path, parts: Path) -> None:
    """As a whole: Adam makes steps of the rounding errors of a gradient that should be zero."""
    start, expected, found = (
        torch.cat([value.flatten() for value in weights(run_dir, step).values()])
        for run_dir, step in ((whole, 1), (whole, NUM_STEPS), (parts, NUM_STEPS))
    )
    assert (found - expected).norm() < 1e-3 * (expected - start).norm()


def test_the_optimizer_steps_once_per_step(parts: Path) -> None:
    steps = {v.item() for k, v in saved(parts, NUM_STEPS).items() if k.endswith(".step")}
    assert steps == {NUM_STEPS}
    assert [row["step"] for row in rows(parts)] == [1, 2, 3]


def test_the_log_is_the_mean_over_micro_batches(whole: Path, parts: Path) -> None:
    for found, expected in zip(rows(parts), rows(whole), strict=True):
        assert found == pytest.approx(expected, rel=1e-4)
