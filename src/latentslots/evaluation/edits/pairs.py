"""Pairs of pictures before and after an edit: what all measures of edits share.

Dimensions: B pairs, K slots, H W pixels.
"""

from collections.abc import Iterable
from typing import Any

import torch
from datasets import Dataset
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor
from torch.nn import functional as F

from latentslots.metrics.reconstruction import ssim
from latentslots.models.autoencoder import decode_latents
from latentslots.pipelines.base import SlotOutput, upsample_masks

METHODS = {
    "plain": {"inversion": False, "blending": False},
    "inversion": {"inversion": True, "blending": False},
    "blending": {"inversion": False, "blending": True, "paste": False},
    "both": {"inversion": True, "blending": True, "paste": False},
    "blending-pasted": {"inversion": False, "blending": True},
    "both-pasted": {"inversion": True, "blending": True},
}
"""Ways to paint an edit: what `paint_edit` is told."""
FOUND = 0.5
"""IoU from which a slot has found an object."""
MARGIN = 3
"""Pixels around an edit that are not scored."""
SMALLEST_ERROR = 1e-6
"""Mean squared error that counts where there is less: 60 dB, about what eight bits can hold."""


def rows_before(dataset: Dataset, edit: str, *, following: int) -> list[int]:
    """Rows of the pictures before one kind of edit, in order; none where the data have no pairs.

    Args:
        dataset: As `latentslots data make --edit-pairs` makes it.
        edit: Such as `removed`.
        following: Rows that must stand behind such a row.
    """
    columns = {"edit", "edited_object", "frame"}
    if not columns <= set(dataset.column_names):
        return []
    table = dataset.select_columns(sorted(columns))
    wanted = dataset.features["edit"].str2int(edit)
    return [
        row
        for row, facts in enumerate(table)
        if facts["edit"] == wanted and facts["frame"] == 0 and row + following < len(dataset)
    ]


def existing(found: SlotOutput) -> Bool[Tensor, "B K"]:
    """Which slots exist, as a mask also where all do."""
    if found.slots_mask is not None:
        return found.slots_mask
    return torch.ones_like(found.slots[..., 0], dtype=torch.bool)


def through_autoencoder(pipe: Any, pixel_values: Float[Tensor, "B 3 H W"]) -> Tensor:
    """What the autoencoder alone makes of pictures, in [0, 1], on the CPU: the edits' ceiling."""
    kept = decode_latents(pipe.vae, pipe.encode_latents(pixel_values)).float()
    return ((kept + 1) / 2).clamp(0, 1).cpu()


def outside_scores(
    images: Float[Tensor, "B 3 H W"],
    truth: Float[Tensor, "B 3 H W"],
    outside: Bool[Tensor, "B 1 H W"],
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """PSNR (60 dB at most) and SSIM over the pixels outside of an object."""
    weight = outside.float()
    error = ((images - truth).square() * weight).sum(dim=(1, 2, 3)) / (
        3 * weight.sum(dim=(1, 2, 3))
    )
    # What is inside is made equal, so that it adds nothing but what the window's rim sees.
    same = torch.where(outside, images, truth)
    whole, share = ssim(same, truth), weight.mean(dim=(1, 2, 3))
    return -10 * error.clamp(min=SMALLEST_ERROR).log10(), 1 - (1 - whole) / share


def away_from(mask: Bool[Tensor, "B H W"]) -> Bool[Tensor, "B 1 H W"]:
    """Where neither a region is nor the 3 px around it."""
    return F.max_pool2d(mask[:, None].float(), 2 * MARGIN + 1, 1, MARGIN) == 0


def covering_slot(
    masks: Float[Tensor, "B K h w"], target: Bool[Tensor, "B H W"]
) -> tuple[Int[Tensor, " B"], Float[Tensor, " B"]]:
    """The slot that overlaps most with a region, and its IoU."""
    size = (target.shape[1], target.shape[2])
    ids = upsample_masks(masks, size).argmax(dim=1)
    owned = F.one_hot(ids, masks.shape[1]).movedim(-1, 1).bool()
    wanted = target[:, None].to(owned.device)
    shared, union = (owned & wanted).sum(dim=(2, 3)), (owned | wanted).sum(dim=(2, 3))
    overlap, slot = (shared / union.clamp(min=1)).max(dim=1)
    return slot, overlap


def generators(seeds: Iterable[int]) -> list[Generator]:
    """A source of randomness for each pair, so that its batch changes nothing."""
    return [Generator().manual_seed(seed) for seed in seeds]
