"""Selecting slots by their masks.

Dimensions: B batch, K slots, D slot channels, L slots of another scene, H W and Y X pixels.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from latentslots.editing.indices import Indices, check_indices
from latentslots.editing.slots import swap

BackgroundRule = Literal["area", "border", "spread"]

SMALLEST_BACKGROUND = 0.05
"""Share of the pixels that a background must own by the rule `spread`."""


def background(
    masks: Float[Tensor, "B K H W"], *, rule: BackgroundRule = "area"
) -> Int[Tensor, " B"]:
    """Select the slot of the background by a rule, as models do not predict it.

    Args:
        masks: Soft masks that sum to 1 over K. A pixel belongs to the slot with the largest mask.
        rule: `area`: the slot with most pixels. `border`: the slot with most pixels along the
            image's edge. `spread`: the slot whose positions have the greatest variance (the least
            compact one), among those with a twentieth of all pixels or more.

    Raises:
        ValueError: If there is no such rule.
    """
    if rule not in get_args(BackgroundRule):
        raise ValueError(f"rule must be area, border or spread, got {rule!r}")
    height, width = masks.shape[-2:]
    owned = F.one_hot(masks.argmax(dim=1), masks.shape[1]).movedim(-1, 1).float()
    if rule == "border":
        inner = F.pad(owned.new_ones(max(height - 2, 0), max(width - 2, 0)), (1, 1, 1, 1))
        owned = owned * (1 - inner)
    area = owned.sum(dim=(2, 3))
    if rule != "spread":
        return area.argmax(dim=1)
    variance = torch.zeros_like(area)
    for axis, size in ((2, height), (3, width)):
        position = torch.arange(size, device=masks.device) / size
        share = owned.sum(dim=5 - axis) / area.clamp_min(1)[..., None]
        mean = (share * position).sum(dim=2, keepdim=True)
        variance += (share * (position - mean) ** 2).sum(dim=2)
    large = area >= SMALLEST_BACKGROUND * height * width
    return variance.masked_fill(~large, -1).argmax(dim=1)


def swap_background(
    slots: Float[Tensor, "B K D"],
    masks: Float[Tensor, "B K H W"],
    other: Float[Tensor, "B L D"],
    other_masks: Float[Tensor, "B L Y X"],
    *,
    rule: BackgroundRule = "area",
) -> tuple[Float[Tensor, "B K D"], Float[Tensor, "B L D"]]:
    """Exchange the backgrounds of two scenes.

    Args:
        slots: The scenes.
        masks: Their masks.
        other: As many other scenes.
        other_masks: Their masks.
        rule: See `background`.

    Returns:
        Both, edited.
    """
    return swap(slots, background(masks, rule=rule), other, background(other_masks, rule=rule))


def owned_pixels(masks: Float[Tensor, "B K H W"], index: Indices) -> Bool[Tensor, "B H W"]:
    """Return the pixels of one or several slots: those in which no other slot has a larger mask.

    Args:
        masks: Soft masks that sum to 1 over K.
        index: One slot, or several.

    Raises:
        ValueError: If a slot does not exist.
    """
    indices = check_indices(masks.flatten(2), index, unique=False)
    return (masks.argmax(dim=1)[:, None] == indices[:, :, None, None]).any(dim=1)


def select(
    masks: Float[Tensor, "B K H W"],
    *,
    at: tuple[int, int] | None = None,
    box: tuple[int, int, int, int] | None = None,
    region: Bool[Tensor, "H W"] | Bool[Tensor, "B H W"] | None = None,
) -> Int[Tensor, " B"]:
    """Select a slot by a pixel, a box or a region of its image.

    Args:
        masks: Soft masks, at the size of the image in whose pixels the others are given.
        at: Select the slot under a pixel (x, y), counted from 0 at the upper left.
        box: Select the slot whose pixels overlap most (IoU) with a box (left, top, right, bottom);
            right and bottom are the first pixels outside.
        region: Select the slot whose pixels overlap most (IoU) with the True ones.

    Raises:
        ValueError: If not exactly one of the three is given, it lies outside of the image, or it is
            empty.
    """
    if sum(given is not None for given in (at, box, region)) != 1:
        raise ValueError("pass one of at, box and region")
    height, width = masks.shape[-2:]
    if at is not None:
        x, y = at
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(f"pixel {x},{y} lies outside the image of {width} x {height} pixels")
        return masks[:, :, y, x].argmax(dim=1)
    if box is not None:
        left, top, right, bottom = box
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise ValueError(
                f"box {box} is empty or lies outside the image of {width} x {height} pixels"
            )
        region = torch.zeros(height, width, dtype=torch.bool)
        region[top:bottom, left:right] = True
    assert region is not None
    if region.shape[-2:] != (height, width):
        raise ValueError(
            f"the region must have the masks' {width} x {height} pixels, "
            f"got {region.shape[-1]} x {region.shape[-2]}"
        )
    if not region.flatten(-2).any(dim=-1).all():
        raise ValueError("the region is empty")
    region = region.to(masks.device).expand(len(masks), height, width)[:, None]
    owned = F.one_hot(masks.argmax(dim=1), masks.shape[1]).movedim(-1, 1).bool()
    shared, union = (owned & region).sum(dim=(2, 3)), (owned | region).sum(dim=(2, 3))
    return (shared / union).argmax(dim=1)
