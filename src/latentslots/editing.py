"""Editing scenes: pure functions on slots, which never change their input.

A scene is a set of slots, so an edit is a matter of leaving vectors out, adding them, or exchanging
them; the vectors that are not named come out bit for bit as they went in. Slots are numbered from
0. A batch is edited alike in all its scenes.

Dimensions: B batch, K slots, D slot channels, N slots that are put in.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Indices = int | Sequence[int]


def remove(slots: Float[Tensor, "B K D"], index: Indices) -> Float[Tensor, "B N D"]:
    """Leave slots out; those after them move up.

    Args:
        slots: The scenes.
        index: One slot, or several, in any order.

    Raises:
        ValueError: If there is no such slot, one is named twice, or none would be left.
    """
    indices = _indices(slots, index)
    kept = [i for i in range(slots.shape[1]) if i not in indices]
    if not kept:
        raise ValueError(f"all {slots.shape[1]} slots would be removed, and none be left")
    return slots[:, kept]


def insert(
    slots: Float[Tensor, "B K D"],
    new: Float[Tensor, "..."],
    index: int | None = None,
) -> Float[Tensor, "B M D"]:
    """Add slots, such as an object of another scene.

    Args:
        slots: The scenes.
        new: What to add, [B, N, D], or [B, D] for one slot: `other.slots[:, 5]`.
        index: Number that the first of them gets, from 0 to K; at the end when absent.

    Raises:
        ValueError: If the place does not exist, or the new slots are for other scenes.
    """
    new = _new(slots, new)
    count = slots.shape[1]
    index = count if index is None else index
    if not 0 <= index <= count:
        raise ValueError(f"a slot can be inserted at 0 to {count}, got {index}")
    return torch.cat([slots[:, :index], new.to(slots), slots[:, index:]], dim=1)


def replace(
    slots: Float[Tensor, "B K D"],
    index: Indices,
    new: Float[Tensor, "..."],
) -> Float[Tensor, "B K D"]:
    """Put other slots in the place of slots.

    Args:
        slots: The scenes.
        index: One slot, or several.
        new: As many new slots, [B, N, D] in the order of `index`, or [B, D] for one.

    Raises:
        ValueError: If there is no such slot, one is named twice, or the new slots do not fit.
    """
    indices, new = _indices(slots, index), _new(slots, new)
    if new.shape[1] != len(indices):
        raise ValueError(f"{len(indices)} slots are to be replaced, but {new.shape[1]} were given")
    edited = slots.clone()
    edited[:, indices] = new.to(slots)
    return edited


def swap(
    slots: Float[Tensor, "B K D"],
    index: Indices,
    other: Float[Tensor, "B L D"],
    other_index: Indices,
) -> tuple[Float[Tensor, "B K D"], Float[Tensor, "B L D"]]:
    """Exchange slots between two scenes.

    Args:
        slots: The scenes.
        index: What they give away: one slot, or several.
        other: The other scenes, as many.
        other_index: What those give away, as many slots.

    Returns:
        Both, edited.

    Raises:
        ValueError: If there is no such slot, one is named twice, or the numbers differ.
    """
    mine = slots[:, _indices(slots, index)]
    theirs = other[:, _indices(other, other_index)]
    return replace(slots, index, theirs), replace(other, other_index, mine)


def _indices(slots: Tensor, index: Indices) -> list[int]:
    """Checked numbers of slots."""
    count = slots.shape[1]
    indices = [index] if isinstance(index, int) else list(index)
    for one in indices:
        if not 0 <= one < count:
            raise ValueError(f"there is no slot {one}: the scene has slots 0 to {count - 1}")
    if len(set(indices)) < len(indices):
        raise ValueError(f"a slot is named twice in {indices}")
    return indices


def _new(slots: Tensor, new: Tensor) -> Tensor:
    """New slots as `[B, N, D]`."""
    new = new[:, None] if new.ndim == 2 else new
    batch_size, _, width = slots.shape
    if new.ndim != 3 or new.shape[0] != batch_size or new.shape[2] != width:
        raise ValueError(
            f"new slots must have shape [{batch_size}, N, {width}], got {list(new.shape)}"
        )
    return new
