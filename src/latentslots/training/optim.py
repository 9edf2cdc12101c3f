"""AdamW, its parameter groups, and the learning rate over time."""

import math
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from latentslots.config import OptimConfig
from latentslots.objectives import Objective

# Initial slots, registers and position tables are not weight matrices: decay would pull them to 0.
_NO_DECAY = ("slot_mean", "slot_log_std", "registers", "null", "table", "gain")


def build_optimizer(objective: Objective, config: OptimConfig) -> AdamW:
    """Build AdamW over the parameters that an objective trains.

    Groups differ in learning rate (encoder and decoder have factors of their own) and in weight
    decay (none on norms, biases and initial slots).
    """
    scale = config.decoder_lr_scale
    factors = {"encoder": config.encoder_lr_scale, "unet": scale, "decoder": scale}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for part, module in objective.trained().items():
        lr = config.learning_rate * factors.get(part, 1.0)
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            decays = parameter.ndim > 1 and name.split(".")[-1] not in _NO_DECAY
            decay = config.adam_weight_decay if decays else 0.0
            groups.setdefault((lr, decay), []).append(parameter)
    return AdamW(
        [{"params": p, "lr": lr, "weight_decay": decay} for (lr, decay), p in groups.items()],
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        fused=True,
    )


def lr_factor(config: OptimConfig, max_train_steps: int) -> Callable[[int], float]:
    """Return the schedule: the learning rate at a step from 0 on, as a share of its peak."""

    def factor(step: int) -> float:
        if step < config.lr_warmup_steps:
            return (step + 1) / config.lr_warmup_steps
        if config.lr_scheduler == "constant":
            return 1.0
        if config.lr_scheduler == "cosine":
            length = max(max_train_steps - config.lr_warmup_steps, 1)
            progress = min((step - config.lr_warmup_steps) / length, 1.0)
            return 0.5 * (1 + math.cos(math.pi * progress))
        left = (max_train_steps - step) / max(max_train_steps * config.lr_decay_fraction, 1)
        return min(max(left, 0.0), 1.0)

    return factor


def build_lr_scheduler(
    optimizer: AdamW, config: OptimConfig, max_train_steps: int, *, step: int = 0
) -> LambdaLR:
    """Build the schedule, which must not be passed to Accelerate: it would step once per process.

    Args:
        optimizer: The optimizer whose learning rates are scheduled.
        config: Shape of the schedule.
        max_train_steps: Length of the schedule.
        step: Steps that were taken already.
    """
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return LambdaLR(optimizer, lr_factor(config, max_train_steps), last_epoch=step - 1)


def clip_gradients(
    accelerator: Accelerator, objective: Objective, config: OptimConfig
) -> dict[str, float]:
    """Clip gradients, all together or those of each part by themselves.

    Args:
        accelerator: Removes the loss scale of fp16 from the gradients.
        objective: Its trained parts have the gradients.
        config: The limit, and whether it applies to each part.

    Returns:
        `grad_norm`, the norm of all gradients before; with `clip_parts`, also `grad_norm/PART`.
    """
    limit = config.max_grad_norm or math.inf
    if not config.clip_parts:
        return {
            "grad_norm": float(accelerator.clip_grad_norm_(objective.trained_parameters(), limit))
        }
    accelerator.unscale_gradients()
    parts = objective.trained()
    norms = [
        nn.utils.clip_grad_norm_([p for p in part.parameters() if p.requires_grad], limit)
        for part in parts.values()
    ]
    values = torch.stack(norms).tolist()
    by_part = {f"grad_norm/{name}": norm for name, norm in zip(parts, values, strict=True)}
    return {"grad_norm": math.hypot(*values), **by_part}
