"""What the numbers of a run may be."""

from dataclasses import fields, is_dataclass
from typing import Any

_MAY_BE_ZERO = frozenset(
    {
        "checkpointing_steps",
        "contrastive_start",
        "lora_rank",
        "lr_warmup_steps",
        "map_channels",
        "num_doublings",
        "num_inference_slots",
        "num_refinements",
        "num_registers",
        "num_workers",
        "patch_plain_steps",
        "preview_steps",
        "seed",
        "temperature_steps",
        "validation_steps",
    }
)
"""Whole numbers; all others count something that there must be."""
_AT_MOST_ONE = frozenset({"lr_decay_fraction"})
_BELOW_ONE = frozenset({"adam_beta1", "adam_beta2", "ema_decay"})


def check_ranges(config: Any, path: str = "") -> None:
    """Refuse numbers with which training goes backwards, or nowhere.

    Args:
        config: A dataclass of numbers, words and other such dataclasses.
        path: What its fields are called, up to their own names.

    Raises:
        ValueError: Names the first field that is out of its range.
    """
    for field in fields(config):
        value, name = getattr(config, field.name), f"{path}{field.name}"
        if is_dataclass(value):
            check_ranges(value, f"{name}.")
            continue
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            counts = isinstance(field.default, int | tuple) and field.name not in _MAY_BE_ZERO
            least = 1 if counts else 0
            if not number >= least:
                raise ValueError(f"{name} must be at least {least}, got {number}")
            if field.name in _AT_MOST_ONE and number > 1:
                raise ValueError(f"{name} must be from 0 to 1, got {number}")
            if field.name in _BELOW_ONE and number >= 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {number}")
