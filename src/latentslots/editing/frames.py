"""Moving and scaling slots that have frames.

The last four channels of such a slot are its center (y, x), from -1 at the image's upper left to 1
at its lower right, and its scale (`latentslots.models.frames`). All other channels are returned bit
for bit: what a slot looks like does not depend on where it is.

Dimensions: B batch, K slots, D slot channels, N slots of an index, H W pixels.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from latentslots.editing.indices import Indices, check_indices
from latentslots.editing.slots import insert, interpolate, replace, take

Shift = tuple[float, float] | Float[Tensor, "B 2"]


def move(slots: Float[Tensor, "B K D"], index: Indices, by: Shift) -> Float[Tensor, "B K D"]:
    """Move slots; beyond the image's edge, too.

    >>> move(torch.tensor([[[7.0, 0.0, 0.5, 0.1, 0.1]]]), 0, (0.25, -0.5))[0, 0].tolist()[:3]
    [7.0, -0.5, 0.75]

    Args:
        slots: The scenes, of slots with frames.
        index: One slot, or several.
        by: Distance to the right and down, in halves of the image's width and height; for each
            scene, if it is a tensor.

    Raises:
        ValueError: If a slot does not exist or is named twice, or the distance is not finite.
    """
    moved = take(slots, check_indices(slots, index)).clone()
    moved[..., -4:-2] += _down_and_right(slots, by, "distance")
    return replace(slots, index, moved)


def place(slots: Float[Tensor, "B K D"], index: Indices, at: Shift) -> Float[Tensor, "B K D"]:
    """Move the centers of slots to a point.

    Args:
        slots: The scenes, of slots with frames.
        index: One slot, or several.
        at: The point (x, y), from -1 at the image's upper left to 1 at its lower right; for each
            scene, if it is a tensor.

    Raises:
        ValueError: If a slot does not exist or is named twice, or the point is not finite.
    """
    moved = take(slots, check_indices(slots, index)).clone()
    moved[..., -4:-2] = _down_and_right(slots, at, "point")
    return replace(slots, index, moved)


def scale(
    slots: Float[Tensor, "B K D"], index: Indices, factor: float | Float[Tensor, " B"]
) -> Float[Tensor, "B K D"]:
    """Enlarge or shrink slots around their centers.

    Args:
        slots: The scenes, of slots with frames.
        index: One slot, or several.
        factor: New size by old size, above 0; for each scene, if it is a tensor.

    Raises:
        ValueError: If a slot does not exist or is named twice, or a factor is not above 0.
    """
    factors = torch.as_tensor(factor, dtype=slots.dtype, device=slots.device)
    if not (factors > 0).all() or not factors.isfinite().all():
        raise ValueError(f"a slot is scaled by a factor above 0, got {factor}")
    scaled = take(slots, check_indices(slots, index)).clone()
    scaled[..., -2:] *= factors.reshape(-1, 1, 1)
    return replace(slots, index, scaled)


def copy(slots: Float[Tensor, "B K D"], index: Indices, at: Shift) -> Float[Tensor, "B M D"]:
    """Add copies of slots, behind all others, with their centers at a point.

    Args:
        slots: The scenes, of slots with frames.
        index: One slot, or several.
        at: The point (x, y), as for `place`.

    Raises:
        ValueError: If a slot does not exist or is named twice, or the point is not finite.
    """
    return insert(slots, take(place(slots, index, at), index))


def exchange(
    slots: Float[Tensor, "B K D"], index: Indices, new: Float[Tensor, "..."]
) -> Float[Tensor, "B K D"]:
    """Replace slots by others, which stand where the old ones stood; they keep their own size.

    >>> old, new = torch.tensor([[[7, 0, 0.5, 1, 1]]]), torch.tensor([[9, 0.75, 0.75, 2, 2]])
    >>> exchange(old, 0, new)[0, 0].tolist()
    [9.0, 0.0, 0.5, 2.0, 2.0]

    Args:
        slots: The scenes, of slots with frames.
        index: One slot, or several.
        new: As many new slots, [B, N, D] in the order of `index`, or [B, D] for one.

    Raises:
        ValueError: If a slot does not exist or is named twice, or the new slots do not fit.
    """
    return mix(slots, index, new, 1.0)


def mix(
    slots: Float[Tensor, "B K D"], index: Indices, new: Float[Tensor, "..."], weight: float
) -> Float[Tensor, "B K D"]:
    """Mix slots with others in what they look like and in their size, where they stand.

    Args:
        slots: The scenes, of slots with frames.
        index: One slot, or several.
        new: As many new slots, [B, N, D] in the order of `index`, or [B, D] for one.
        weight: From 0, the old slots, to 1, the new ones.

    Raises:
        ValueError: If a slot does not exist or is named twice, the new slots do not fit, or the
            weight is out of its range.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"slots are mixed with a weight from 0 to 1, got {weight}")
    old = take(slots, check_indices(slots, index))
    there = replace(slots, index, new)  # which checks them
    mixed = interpolate(old, take(there, index), weight).clone()
    mixed[..., -4:-2] = old[..., -4:-2]
    return replace(slots, index, mixed)


def carry_masks(
    masks: Float[Tensor, "B K H W"],
    before: Float[Tensor, "B K D"],
    after: Float[Tensor, "B K D"],
) -> Float[Tensor, "B K H W"]:
    """Move masks as their slots' frames have moved; what was outside of the image is empty.

    Args:
        masks: Masks of the slots before.
        before: The scenes, of slots with frames.
        after: The same slots in other frames.
    """
    old, new = before[..., -4:], after[..., -4:]
    unmoved = (old == new).all(dim=-1)[..., None, None]
    zoom = old[..., 2:] / new[..., 2:]
    offset = old[..., :2] - zoom * new[..., :2]
    y, x = torch.zeros_like(zoom[..., 0]), torch.zeros_like(zoom[..., 0])
    rows = [
        torch.stack([zoom[..., 1], y, offset[..., 1]], dim=-1),
        torch.stack([x, zoom[..., 0], offset[..., 0]], dim=-1),
    ]
    theta = torch.stack(rows, dim=-2).flatten(0, 1)  # [B * K, 2, 3]
    flat = masks.flatten(0, 1)[:, None]
    grid = F.affine_grid(theta, list(flat.shape), align_corners=False)
    carried = F.grid_sample(flat, grid.to(flat), align_corners=False)
    return torch.where(unmoved, masks, carried[:, 0].unflatten(0, masks.shape[:2]))


def _down_and_right(slots: Tensor, point: Shift, what: str) -> Float[Tensor, "B 1 2"]:
    """Convert (x, y) to (y, x), one for each scene."""
    pair = torch.as_tensor(point, dtype=slots.dtype, device=slots.device)
    if pair.shape not in ((2,), (len(slots), 2)):
        raise ValueError(f"a {what} is (x, y), or one for each scene, got {list(pair.shape)}")
    if not pair.isfinite().all():
        raise ValueError(f"a {what} must be finite, got {point}")
    return pair.flip(-1).expand(len(slots), 2)[:, None]
