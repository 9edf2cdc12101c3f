"""Slots that are the mean color of a region, and paint it, so that merging is predictable."""

import torch
from torch import Tensor

from latentslots.models import SlotEncoder, SpriteDecoder
from latentslots.models.frames import cell_centers, measure_frames

SIDE = 16
GRAY, RED, BLUE = (0.0, 0.0, 0.0), (0.8, -0.5, -0.5), (-0.5, -0.5, 0.8)


class MeanColors(SlotEncoder):
    """A slot is the mean color of a region, the region itself, and its frame."""

    def encode_masks(self, features: Tensor, masks: Tensor, *, pixel_values: Tensor) -> Tensor:
        shares = masks.flatten(2)
        colors = shares @ pixel_values.flatten(2).transpose(1, 2) / shares.sum(2, keepdim=True)
        frames = measure_frames(shares, cell_centers(SIDE, SIDE))
        return torch.cat([colors, shares, frames], dim=2)


class PaintedRegions(SpriteDecoder):
    """Paints the slots of `MeanColors`."""

    def layers(
        self, slots: Tensor, *, height: int, width: int, cells: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        assert (height, width, cells) == (SIDE, SIDE, None)
        colors, shares, _ = slots.split([3, SIDE**2, 4], dim=2)
        return colors[:, :, None].expand(-1, -1, SIDE**2, -1), 40 * (shares - 0.5)


def box(rows: slice, columns: slice) -> Tensor:
    mask = torch.zeros(SIDE, SIDE)
    mask[rows, columns] = 1
    return mask


LEFT, RIGHT = box(slice(2, 8), slice(2, 5)), box(slice(2, 8), slice(5, 9))
FAR, OTHER = box(slice(11, 15), slice(11, 15)), box(slice(9, 13), slice(2, 6))


def scene(*parts: tuple[Tensor, tuple[float, float, float]]) -> tuple[Tensor, Tensor]:
    """An image of parts on gray, and their masks; the first is the background's."""
    image = torch.zeros(3, SIDE, SIDE)
    for mask, color in parts:
        image = torch.where(mask > 0, torch.tensor(color)[:, None, None], image)
    masks = torch.stack([mask for mask, _ in parts])
    return image, torch.cat([1 - masks.sum(dim=0, keepdim=True), masks])


def encode(images: Tensor, masks: Tensor) -> Tensor:
    return MeanColors().encode_masks(images, masks, pixel_values=images)


def regions(slots: Tensor) -> Tensor:
    return slots[..., 3:-4].unflatten(-1, (SIDE, SIDE))
