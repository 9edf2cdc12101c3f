"""Parameter groups of the optimizer, and the learning rate against explicit formulas."""

import math
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from latentslots.build.methods import build_objective
from latentslots.config import OptimConfig, TrainConfig
from latentslots.training.optim import build_lr_scheduler, build_optimizer, clip_gradients
from tests.training.runs import rows, run, saved, with_changes

STARTS = {"slot_mean", "slot_log_std", "registers", "null", "table", "gain"}


@pytest.mark.parametrize("slot_init", ["gaussian", "learned"])
@pytest.mark.parametrize("num_registers", [0, 2])
@pytest.mark.parametrize("position", ["cartesian", "learned"])
def test_norms_biases_and_initial_slots_have_no_weight_decay(
    config: TrainConfig, slot_init: str, num_registers: int, position: str
) -> None:
    changes = {"slot_init": slot_init, "num_registers": num_registers, "position": position}
    config = with_changes(config, {f"method.{name}": value for name, value in changes.items()})
    objective = build_objective(config)
    decays = {
        id(parameter): group["weight_decay"]
        for group in build_optimizer(objective, config.optim).param_groups
        for parameter in group["params"]
    }
    assert len(decays) == len(objective.trained_parameters())
    norms = (nn.LayerNorm, nn.GroupNorm)
    spared = 0
    for module in objective.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            is_spared = isinstance(module, norms) or "bias" in name or name in STARTS
            if isinstance(module, nn.Linear | nn.Conv2d) and name == "weight":
                assert decays[id(parameter)] == config.optim.adam_weight_decay, name
            elif is_spared:
                assert decays[id(parameter)] == 0, name
                spared += 1
    assert spared > 50
    start = [n for n, _ in objective.named_parameters() if n.split(".")[-1] in STARTS]
    assert len(start) >= 2  # there is a start to be spared: slots, and the null vector or registers


@pytest.mark.parametrize("clip_parts", [False, True])
def test_gradients_are_clipped_together_or_by_part(config: TrainConfig, clip_parts: bool) -> None:
    objective = build_objective(config)
    parts = objective.trained()
    for factor, part in enumerate(parts.values(), start=1):
        for parameter in part.parameters():
            parameter.grad = torch.randn_like(parameter) * factor
    before = {
        name: torch.cat([p.grad.flatten() for p in part.parameters()])
        for name, part in parts.items()
    }
    norms = {name: grad.norm().item() for name, grad in before.items()}
    total = math.hypot(*norms.values())
    options = OptimConfig(max_grad_norm=0.5, clip_parts=clip_parts)
    found = clip_gradients(Accelerator(cpu=True), objective, options)
    logged = {f"grad_norm/{name}": norm for name, norm in norms.items()} if clip_parts else {}
    assert found == pytest.approx({"grad_norm": total, **logged}, rel=1e-5)
    assert len(parts) == 4
    for name, part in parts.items():
        after = torch.cat([p.grad.flatten() for p in part.parameters()])
        expected = before[name] * 0.5 / (norms[name] if clip_parts else total)
        torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-7)


def test_the_norms_of_parts_are_logged(config: TrainConfig, tmp_path: Path) -> None:
    run(with_changes(config, {"optim.clip_parts": True, "max_train_steps": 1}), tmp_path / "run")
    (row,) = rows(tmp_path / "run")
    norms = [
        row[f"grad_norm/{name}"] for name in ("encoder", "slot_encoder", "unet", "patch_decoder")
    ]
    assert row["grad_norm"] == pytest.approx(math.hypot(*norms), rel=1e-5)


def test_weight_decay_shrinks_the_weights_of_its_group(config: TrainConfig, tmp_path: Path) -> None:
    """Decoupled decay shrinks weights by `lr x decay` a step, beside what the gradient does."""
    config = with_changes(config, {"optim.decoder_lr_scale": 1.0})
    with_decay = {"optim.adam_weight_decay": 0.5, "max_train_steps": 1, "optim.ema_decay": 0.0}
    run(with_changes(config, {**with_decay, "checkpointing_steps": 1}), tmp_path / "decay")
    run(with_changes(config, {**with_decay, "optim.adam_weight_decay": 0.0}), tmp_path / "none")
    torch.manual_seed(config.seed)
    lr = config.optim.learning_rate / config.optim.lr_warmup_steps
    start = {f"model/{k}": v for k, v in build_objective(config).trained_state().items()}
    decayed, plain = saved(tmp_path / "decay", 1), saved(tmp_path / "none", 1)
    conv = next(k for k in start if k.endswith("conv_in.weight"))
    norm = next(k for k in start if k.endswith("norm_slots.weight"))
    torch.testing.assert_close(
        plain[conv] - decayed[conv], start[conv] * lr * 0.5, rtol=1e-3, atol=1e-7
    )
    assert torch.equal(plain[norm], decayed[norm])


def test_encoder_and_denoiser_have_their_own_learning_rates(config: TrainConfig) -> None:
    config = with_changes(config, {"optim.encoder_lr_scale": 0.25, "optim.decoder_lr_scale": 2.0})
    objective = build_objective(config)
    rates = {
        id(parameter): group["lr"]
        for group in build_optimizer(objective, config.optim).param_groups
        for parameter in group["params"]
    }
    for part, module in objective.trained().items():
        expected = 1e-3 * {"encoder": 0.25, "unet": 2.0}.get(part, 1)
        assert {rates[id(p)] for p in module.parameters()} == {expected}


def test_the_schedule_scales_all_groups(config: TrainConfig) -> None:
    scales = {"optim.encoder_lr_scale": 0.25, "optim.decoder_lr_scale": 3.0}
    config = with_changes(config, {**scales, "optim.lr_warmup_steps": 4})
    optimizer = build_optimizer(build_objective(config), config.optim)
    build_lr_scheduler(optimizer, config.optim, 10)
    found = sorted({group["lr"] for group in optimizer.param_groups})
    assert found == pytest.approx([0.25e-3 / 4, 1e-3 / 4, 3e-3 / 4])


def constant(step: int) -> float:
    return 1.0


def cosine(step: int) -> float:
    return (1 + math.cos(math.pi * (step - 5) / 15)) / 2


def linear_decay(step: int) -> float:
    return min((20 - step) / (0.3 * 20), 1.0)


@pytest.mark.parametrize("formula", [constant, cosine, linear_decay])
@pytest.mark.parametrize("start", [0, 3, 5, 12, 19])
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_learning_rate_over_time(formula, start: int) -> None:
    """Five steps of warm-up in twenty, from the beginning and gone on with in the middle."""
    config = OptimConfig(
        learning_rate=0.1, lr_scheduler=formula.__name__, lr_warmup_steps=5, lr_decay_fraction=0.3
    )
    parameter = nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.AdamW([parameter], lr=config.learning_rate)
    scheduler = build_lr_scheduler(optimizer, config, 20, step=start)
    for step in range(start, 20):
        expected = (step + 1) / 5 if step < 5 else formula(step)
        assert scheduler.get_last_lr() == pytest.approx([0.1 * expected])
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * expected)
        scheduler.step()


def test_the_logged_learning_rate_is_that_of_the_step(finished: Path) -> None:
    """Two steps of warm-up to 1e-3, then 30 % of four steps down to zero."""
    expected = [0.5e-3, 1e-3, 1e-3, 1e-3 / 1.2]
    assert [row["lr"] for row in rows(finished)] == pytest.approx(expected)


def test_gradients_are_clipped(config: TrainConfig, tmp_path: Path) -> None:
    """Adam's first mean is a tenth of the gradient, clipped to 0.01."""
    once = {"max_train_steps": 1, "optim.max_grad_norm": 0.01}
    run(with_changes(config, once), tmp_path / "run")
    means = [v for k, v in saved(tmp_path / "run", 1).items() if k.endswith(".exp_avg")]
    norm = torch.sqrt(sum(mean.square().sum() for mean in means)) * 10
    assert norm.item() == pytest.approx(0.01, rel=1e-3)
    (row,) = rows(tmp_path / "run")
    assert row["grad_norm"] > 0.1  # the log says what it was before
