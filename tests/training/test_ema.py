"""Averaged weights are validated, previewed and saved; training continues with the raw ones."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from latentslots.build.methods import build_objective
from latentslots.config import TrainConfig
from latentslots.pipelines import LatentSlotDiffusionPipeline
from tests.training.runs import (
    assert_same,
    build_trainer,
    rows,
    run,
    saved,
    training_rows,
    weights,
    with_changes,
)


def pipeline_weights(run_dir: Path) -> list[Tensor]:
    """Trained parameters of a pipeline folder, in the objective's order."""
    pipe = LatentSlotDiffusionPipeline.from_pretrained(run_dir / "pipeline")
    parts = (pipe.encoder, pipe.slot_encoder, pipe.unet, pipe.patch_decoder)
    return [p.detach() for part in parts for p in part.parameters()]


def averages(run_dir: Path, step: int) -> list[Tensor]:
    return [v for k, v in sorted(saved(run_dir, step).items()) if k.startswith("ema/")]


def test_the_average_is_that_of_the_formula(config: TrainConfig, tmp_path: Path) -> None:
    """`d a + (1 - d) w` after step n, with d = n / (n + 9), at most the decay, and 0 for n = 1."""
    config = with_changes(config, {"optim.ema_decay": 0.2, "checkpointing_steps": 1})
    run(config, tmp_path / "run")
    torch.manual_seed(config.seed)
    expected = [p.detach().clone() for p in build_objective(config).trained_parameters()]
    objective = build_objective(config)
    for step in range(1, 5):
        state = load_file(tmp_path / "run" / "state" / f"step_{step:07d}" / "model.safetensors")
        objective.load_trained_state(state)
        decay = min(step / (step + 9), 0.2) if step > 1 else 0.0
        for average, weight in zip(expected, objective.trained_parameters(), strict=True):
            average.mul_(decay).add_(weight.detach(), alpha=1 - decay)
        for found, average in zip(averages(tmp_path / "run", step), expected, strict=True):
            torch.testing.assert_close(found, average, rtol=1e-5, atol=1e-7)


def test_the_pipeline_holds_the_averages(finished: Path) -> None:
    held = pipeline_weights(finished)
    expected = averages(finished, 4)
    for found, average in zip(held, expected, strict=True):
        assert torch.equal(found, average)
    raw = pipeline_weights_of_state(finished)
    assert any(not torch.equal(a, b) for a, b in zip(raw, expected, strict=True))


def pipeline_weights_of_state(run_dir: Path) -> list[Tensor]:
    """The raw weights, in the same order: every parameter of the model is in its state."""
    state = {k.removeprefix("model/"): v for k, v in weights(run_dir, 4).items()}
    pipe = LatentSlotDiffusionPipeline.from_pretrained(run_dir / "pipeline")
    names = ("encoder", "slot_encoder", "unet", "patch_decoder")
    parts = {name: getattr(pipe, name) for name in names}
    return [state[f"{n}.{k}"] for n, part in parts.items() for k, _ in part.named_parameters()]


def test_averaging_does_not_change_training(
    config: TrainConfig, finished: Path, tmp_path: Path
) -> None:
    """Saving with the averages in place leaves the raw weights as they were."""
    run(with_changes(config, {"optim.ema_decay": 0.0}), tmp_path / "raw")
    assert_same(weights(tmp_path / "raw", 4), weights(finished, 4))
    raw = pipeline_weights_of_state(tmp_path / "raw")
    for found, weight in zip(pipeline_weights(tmp_path / "raw"), raw, strict=True):
        assert torch.equal(found, weight)


def test_validation_measures_the_averages(config: TrainConfig, tmp_path: Path) -> None:
    """With a decay of nearly 1 the average lags behind the weights, and so does its loss."""
    changes = {"data.validation_split": "validation", "optim.learning_rate": 1e-2}
    config = with_changes(config, {**changes, "optim.lr_warmup_steps": 0, "validation_steps": 1})
    found = {}
    for decay in (0.0, 0.9999):
        run_dir = tmp_path / str(decay)
        run(with_changes(config, {"optim.ema_decay": decay}), run_dir)
        found[decay] = [r["validation/loss"] for r in rows(run_dir) if "validation/loss" in r]
    assert found[0.9999][-1] != pytest.approx(found[0.0][-1], rel=1e-3)
    assert_same(weights(tmp_path / "0.0", 4), weights(tmp_path / "0.9999", 4))


def test_averages_are_in_place_inside_the_context_only(config: TrainConfig, tmp_path: Path) -> None:
    trainer = build_trainer(config, tmp_path / "run", dataset=training_rows(config))
    trainer.fit()
    trainer.run_log.close()
    assert trainer.ema is not None
    raw = [p.detach().clone() for p in trainer.trainable]
    state = torch.get_rng_state()
    with trainer.averaged():
        assert not trainer.objective.training
        for now, average in zip(trainer.trainable, trainer.ema.shadow_params, strict=True):
            assert torch.equal(now, average)
        torch.rand(1)
    for now, before in zip(trainer.trainable, raw, strict=True):
        assert torch.equal(now, before)
    assert trainer.objective.training
    assert not trainer.objective.vae.training
    assert torch.equal(torch.get_rng_state(), state)


def test_the_pipeline_paints(finished: Path, tmp_path: Path) -> None:
    """The folder alone is enough: it may be moved."""
    folder = shutil.copytree(finished / "pipeline", tmp_path / "elsewhere")
    pipe = LatentSlotDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    slots = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))
    images = pipe(slots=slots, num_inference_steps=2, output_type="pt").images
    assert images.shape == (2, 3, 32, 32)
    assert images.isfinite().all()
