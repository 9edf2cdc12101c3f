"""Every option has an effect, or is refused in one sentence."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from latentslots.build.methods import build_objective
from latentslots.config import TrainConfig
from latentslots.config.io import dumps
from latentslots.pipelines import LatentSlotDiffusionPipeline
from latentslots.recipes import recipe
from latentslots.training import RunError
from tests.training.runs import (
    build_trainer,
    losses,
    rows,
    run,
    start,
    training_rows,
    weights,
    with_changes,
)


def saved_tensors(config: TrainConfig) -> tuple[int, list[torch.Tensor], torch.Tensor]:
    """Bytes that one forward pass keeps for the backward pass; the gradients; the loss."""
    torch.manual_seed(0)
    objective = build_objective(config)
    rows = training_rows(config)
    batch = torch.utils.data.default_collate([rows[i] for i in range(4)])
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, _ = objective(batch)
    loss.backward()
    return sum(kept.values()), [p.grad for p in objective.trained_parameters()], loss.detach()


def test_gradient_checkpointing_saves_fewer_tensors_and_computes_the_same(
    config: TrainConfig,
) -> None:
    config = with_changes(config, {"method.condition_dropout": 0.5})
    kept, gradients, loss = saved_tensors(config)
    kept_less, same, same_loss = saved_tensors(
        with_changes(config, {"gradient_checkpointing": True})
    )
    assert kept_less < 0.7 * kept
    assert torch.equal(same_loss, loss)
    for found, expected in zip(same, gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("channels_last", [False, True])
def test_channels_last(config: TrainConfig, tmp_path: Path, channels_last: bool) -> None:
    """Convolutions hold their weights so, and are given their images so."""
    config = with_changes(config, {"channels_last": channels_last, "max_train_steps": 1})
    trainer = build_trainer(config, tmp_path / "run", dataset=training_rows(config))
    layouts = {
        parameter.is_contiguous(memory_format=torch.channels_last)
        for parameter in trainer.trainable
        if parameter.ndim == 4 and parameter.shape[1] > 1 and parameter.shape[2] > 1
    }
    assert layouts == {channels_last}
    pixel_values = next(trainer.batches())["pixel_values"]
    assert pixel_values.is_contiguous(memory_format=torch.channels_last) == channels_last
    trainer.fit()
    trainer.run_log.close()


def test_the_layout_changes_no_number(config: TrainConfig, tmp_path: Path) -> None:
    """Gradients, clipping, fused AdamW and the average all walk through memory as it lies."""
    for channels_last in (False, True):
        changed = with_changes(config, {"channels_last": channels_last, "optim.adam_epsilon": 1e-4})
        run(changed, tmp_path / str(channels_last))
    expected, found = weights(tmp_path / "False", 4), weights(tmp_path / "True", 4)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5)
    assert losses(tmp_path / "True") == pytest.approx(losses(tmp_path / "False"), rel=1e-4)


def test_bf16_computes_in_bf16(config: TrainConfig, tmp_path: Path) -> None:
    """Inside, not in the weights and not in the loss."""
    config = with_changes(config, {"mixed_precision": "bf16", "max_train_steps": 1})
    trainer = build_trainer(config, tmp_path / "run", dataset=training_rows(config))
    seen = set()
    for module in trainer.objective.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda _, __, out: seen.add(out.dtype))
    loss, _ = trainer.model(next(trainer.batches()))
    trainer.run_log.close()
    assert torch.bfloat16 in seen
    assert loss.dtype == torch.float32
    assert {parameter.dtype for parameter in trainer.trainable} == {torch.float32}


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 works there")
def test_fp16_needs_a_gpu(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="needs a GPU; on a CPU use 'bf16' or 'no'"):
        run(with_changes(config, {"mixed_precision": "fp16"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_compile_gives_the_same_loss(config: TrainConfig, tmp_path: Path) -> None:
    """In a process of its own: the shape checks of the tests cannot be compiled.

    With learned slots, because noise that is drawn inside of what is compiled is other noise.
    """
    smallest = {
        "method.slot_init": "learned",
        "method.num_iterations": 1,
        "method.unet.block_out_channels": [8],
        "method.unet.attention_levels": [True],
        "max_train_steps": 2,
    }
    config = with_changes(config, smallest)
    run(config, tmp_path / "eager")
    config_file = tmp_path / "config.json"
    config_file.write_text(dumps(with_changes(config, {"compile": True})))
    run_dir, cache = tmp_path / "compiled", tmp_path / "cache"
    command = ["train", "--config", config_file, "--output-dir", run_dir]
    process = start(*command, TORCHINDUCTOR_CACHE_DIR=str(cache))
    _, said = process.communicate(timeout=500)
    assert process.returncode == 0, said
    assert list(cache.rglob("*.so"))
    assert losses(run_dir) == pytest.approx(losses(tmp_path / "eager"), rel=1e-3)
    # Names of tensors are those of a run that is not compiled, so that either can go on.
    assert weights(run_dir, 2).keys() == weights(tmp_path / "eager", 2).keys()


def test_tensorboard_gets_numbers_and_images(config: TrainConfig, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    changes = {"data.validation_split": "validation", "preview_steps": 2, "validation_steps": 2}
    run(with_changes(config, {**changes, "report_to": "tensorboard"}), tmp_path / "run")
    (file,) = (tmp_path / "run").rglob("events.out.tfevents*")
    events = EventAccumulator(str(file))
    events.Reload()
    assert events.Images("preview")[0].step == 2
    assert events.Images("preview")[0].width > 100
    for name in ("loss", "lr", "grad_norm", "slot_cosine"):
        expected = {row["step"]: row[name] for row in rows(tmp_path / "run") if name in row}
        found = {event.step: event.value for event in events.Scalars(name)}
        assert found == pytest.approx(expected, rel=1e-6)
    assert [event.step for event in events.Scalars("validation/fg_ari")] == [2, 4]


@pytest.mark.skipif(find_spec("wandb") is not None, reason="it is installed")
@pytest.mark.parametrize("report_to", ["wandb", "all"])
def test_a_tracker_that_is_missing_is_named(
    config: TrainConfig, tmp_path: Path, report_to: str
) -> None:
    with pytest.raises(RunError, match=r"needs wandb: pip install 'latentslots\[tracking\]'"):
        run(with_changes(config, {"report_to": report_to}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_min_snr_weighs_the_loss(config: TrainConfig, finished: Path, tmp_path: Path) -> None:
    """The same draws, another weight: the logged loss is another one."""
    run(with_changes(config, {"method.snr_gamma": 5.0, "max_train_steps": 1}), tmp_path / "run")
    assert losses(tmp_path / "run")[0] < losses(finished)[0]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_prediction_type_reaches_the_pipeline(
    config: TrainConfig, tmp_path: Path, prediction_type: str
) -> None:
    changes = {"method.prediction_type": prediction_type, "max_train_steps": 1}
    run(with_changes(config, changes), tmp_path / "run")
    scheduler = tmp_path / "run" / "pipeline" / "scheduler" / "scheduler_config.json"
    assert json.loads(scheduler.read_text())["prediction_type"] == prediction_type


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_fp16_skips_steps_whose_scale_is_too_large(config: TrainConfig, tmp_path: Path) -> None:
    """The learning rate and the average wait with the weights, and nothing counts as bad."""
    config = with_changes(config, {"mixed_precision": "fp16", "max_train_steps": 6})
    run(config, tmp_path / "run")
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, 7))
    assert rows(tmp_path / "run")[-1]["num_bad_steps"] == 0
    assert np.isfinite(losses(tmp_path / "run")).all()


def test_gradient_checkpointing_without_effect_is_refused(config: TrainConfig) -> None:
    other = replace(recipe("slate-64"), data=config.data, gradient_checkpointing=True)
    with pytest.raises(ValueError, match="no part of slate can recompute its activations"):
        build_objective(other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method.sprite_size": 8}, "sprite_size needs slots with frames: set glimpse_size"),
        ({"method.unet.rendering": True}, "rendering needs sprites: set sprite_size above 0"),
        ({"method.glimpse_size": 9}, "glimpse_size must be a power of two, 4 or more, got 9"),
        (
            {"method.glimpse_size": 8, "method.sprite_size": 12},
            "sprite_size must be a power of two, 4 or more, got 12",
        ),
        (
            {"method.glimpse_size": 8, "method.slot_init": "learned"},
            "slots with frames start from a Gaussian, not 'learned'",
        ),
        (
            {
                "method.sprite_size": 8,
                "method.patch_decoder_weight": 0.0,
                "method.mask_distillation_weight": 0.0,
                "method.patch_plain_steps": 0,
                "method.unet.map_channels": 0,
            },
            "method.sprite_size needs a patch decoder",
        ),
    ],
)
def test_options_of_frames_that_contradict_each_other(
    config: TrainConfig, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_objective(with_changes(config, changes))


def test_slots_with_frames_train(config: TrainConfig, tmp_path: Path) -> None:
    """All losses fall, gradients of the denoiser reach the sprites, and the model is saved."""
    frames = {
        "method.position": "none",
        "method.glimpse_size": 8,
        "method.sprite_size": 8,
        "method.patch_size": 1,
        "method.num_patches": 512,
        "method.unet.rendering": True,
        "optim.clip_parts": True,
    }
    config = with_changes(config, frames)
    objective = build_objective(config)
    batch = torch.utils.data.default_collate([training_rows(config)[i] for i in range(4)])
    objective.auxiliary = ()
    loss, _ = objective(batch)
    loss.backward()
    decoder = objective.patch_decoder
    assert decoder is not None
    gradient = decoder.slot_in.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0
    run(config, tmp_path / "run")
    logged = losses(tmp_path / "run")
    assert logged
    pipe = LatentSlotDiffusionPipeline.from_pretrained(tmp_path / "run")
    assert pipe.has_frames
    assert pipe.unet.rendering_factor > 0
