"""Frames of slots: where a slot is, and how large, as four numbers.

Slots with a position and a scale are those of Invariant Slot Attention (Biza et al., 2023,
https://arxiv.org/abs/2302.04973): mean and standard deviation of the positions that a slot attends
to. Here the frame is part of the slot, its last four channels: the center (y, x) and the scale
(y, x), from -1 at the image's upper left to 1 at its lower right. So files, libraries and edits of
slots have frames without knowing of them.

Dimensions: B batch, K slots, D slot channels (frame included), E of content, N cells of a grid, C
channels, S rows and columns of a crop, h w rows and columns of the grid.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from latentslots.models.position import cartesian_grid

FRAME_CHANNELS = 4
SMALLEST_SCALE = 0.04
"""About a pixel of an image of 64 pixels: the scale of a slot that attends to a single position."""
EXTENT = 2.5
"""Half of the side of a slot's crop, in units of its scale. A disc has a radius of 2, a square half
a side of 1.7; the rest is for context, and for errors of the frame."""
TOUCHING = 2.0
"""Distance of the centers of touching discs, in units of the sum of their scales."""


def split_frames(
    slots: Float[Tensor, "B K D"],
) -> tuple[Float[Tensor, "B K E"], Float[Tensor, "B K 4"]]:
    """Split slots into their content and their frames."""
    return slots[..., :-FRAME_CHANNELS], slots[..., -FRAME_CHANNELS:]


def join_frames(
    content: Float[Tensor, "B K E"], frames: Float[Tensor, "B K 4"]
) -> Float[Tensor, "B K D"]:
    """Return slots of the given content and frames; the inverse of `split_frames`."""
    return torch.cat([content, frames.to(content.dtype)], dim=-1)


def cell_centers(
    height: int, width: int, device: torch.device | None = None
) -> Float[Tensor, "N 2"]:
    """Return the centers (y, x) of the cells of a grid over the image, in (-1, 1), row by row."""
    return cartesian_grid(height, width, device)[:, :2] * 2 - 1


def measure_frames(
    shares: Float[Tensor, "B K N"], centers: Float[Tensor, "N 2"]
) -> Float[Tensor, "B K 4"]:
    """Measure the frame of each slot: mean and standard deviation of the positions of its share.

    Args:
        shares: What each slot has of every cell; they need not sum to 1.
        centers: The cells' centers.
    """
    weights = shares.float() + 1e-6
    weights = weights / weights.sum(dim=2, keepdim=True)
    mean = weights @ centers
    offsets = centers - mean[:, :, None]  # [B, K, N, 2]
    variance = (weights[..., None] * offsets.square()).sum(dim=2)
    return torch.cat([mean, variance.clamp(min=SMALLEST_SCALE**2).sqrt()], dim=2)


def in_frames(
    frames: Float[Tensor, "B K 4"], centers: Float[Tensor, "N 2"]
) -> Float[Tensor, "B K N 2"]:
    """Return every cell's position in every slot's frame, in units of its scale."""
    scale = frames[:, :, None, 2:].clamp(min=SMALLEST_SCALE)
    return (centers - frames[:, :, None, :2]) / scale


def touching(frames: Float[Tensor, "B K 4"]) -> Bool[Tensor, "B K K"]:
    """Return which slots are close enough to be parts of one object, also of themselves."""
    center, scale = frames.float().split(2, dim=2)
    distance = (center[:, :, None] - center[:, None]).abs()
    return (distance < TOUCHING * (scale[:, :, None] + scale[:, None])).all(dim=3)


def crop_positions(frames: Float[Tensor, "B K 4"], size: int) -> Float[Tensor, "B K S S 2"]:
    """Return the positions (y, x) in the image of the cells of every slot's crop."""
    inside = cell_centers(size, size, frames.device) * EXTENT
    scale = frames[:, :, None, 2:].clamp(min=SMALLEST_SCALE)
    return (frames[:, :, None, :2] + inside * scale).unflatten(2, (size, size))


def crop_image(
    image: Float[Tensor, "B C h w"], positions: Float[Tensor, "B K S S 2"]
) -> Float[Tensor, "B K C S S"]:
    """Crop an image for every slot, bilinearly; beyond its edge its border is repeated."""
    batch_size, num_slots, size = positions.shape[:3]
    crops = _sample(image, positions.reshape(batch_size, num_slots * size, size, 2))
    return crops.unflatten(2, (num_slots, size)).transpose(1, 2)


def crop_masks(
    masks: Float[Tensor, "B K h w"], positions: Float[Tensor, "B K S S 2"]
) -> Float[Tensor, "B K S S"]:
    """Crop every slot's own mask, as `crop_image` does."""
    crops = _sample(masks.flatten(0, 1)[:, None], positions.flatten(0, 1))
    return crops[:, 0].unflatten(0, masks.shape[:2])


def place(
    crops: Float[Tensor, "B K C S S"],
    frames: Float[Tensor, "B K 4"],
    centers: Float[Tensor, "N 2"],
) -> tuple[Float[Tensor, "B K C N"], Float[Tensor, "B K N"]]:
    """Place every slot's crop into the image; the inverse of `crop_image`.

    Returns:
        The crops at every cell, their borders repeated outward, and how far the cell lies beyond
        the crop, in units of half its side.
    """
    where = in_frames(frames, centers) / EXTENT
    sampled = F.grid_sample(
        crops.flatten(0, 1),
        where.flip(-1).flatten(0, 1)[:, None],
        padding_mode="border",
        align_corners=False,
    )
    beyond = (where.abs() - 1).clamp(min=0).square().sum(dim=-1).sqrt()
    return sampled[:, :, 0].unflatten(0, frames.shape[:2]), beyond


def _sample(
    images: Float[Tensor, "M C h w"], positions: Float[Tensor, "M P Q 2"]
) -> Float[Tensor, "M C P Q"]:
    """Sample images at positions (y, x)."""
    return F.grid_sample(
        images.to(positions.dtype),
        positions.flip(-1),
        padding_mode="border",
        align_corners=False,
    )
