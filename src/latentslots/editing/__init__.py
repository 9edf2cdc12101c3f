"""Editing scenes: pure functions on slots, which never change their input."""

from latentslots.editing.frames import Shift, carry_masks, copy, exchange, mix, move, place, scale
from latentslots.editing.indices import Indices
from latentslots.editing.masks import (
    BackgroundRule,
    background,
    owned_pixels,
    select,
    swap_background,
)
from latentslots.editing.slots import (
    insert,
    interpolate,
    match,
    pad,
    remove,
    replace,
    swap,
    take,
)

__all__ = [
    "BackgroundRule",
    "Indices",
    "Shift",
    "background",
    "carry_masks",
    "copy",
    "exchange",
    "insert",
    "interpolate",
    "match",
    "mix",
    "move",
    "owned_pixels",
    "pad",
    "place",
    "remove",
    "replace",
    "scale",
    "select",
    "swap",
    "swap_background",
    "take",
]
