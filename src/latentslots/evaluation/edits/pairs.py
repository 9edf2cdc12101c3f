"""Functions that all evaluations of edits use, on pairs of images before and after a true edit.

Dimensions: B pairs, K slots, H W pixels.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor
from torch.nn import functional as F

from latentslots.config.sampling import Sampling
from latentslots.metrics.reconstruction import ssim
from latentslots.models.autoencoder import decode_latents
from latentslots.pipelines.slot_edit import SlotEdit
from latentslots.pipelines.slot_output import SlotOutput, upsample_masks

METHODS = {
    "plain": {"inversion": False, "blending": False},
    "inversion": {"inversion": True, "blending": False},
    "blending": {"inversion": False, "blending": True, "paste": False},
    "both": {"inversion": True, "blending": True, "paste": False},
    "blending-pasted": {"inversion": False, "blending": True},
    "both-pasted": {"inversion": True, "blending": True},
}
"""Ways to apply an edit: options of `LatentSlotDiffusionPipeline.edit`."""
COVERED = 0.5
"""IoU from which a slot covers an object."""
MARGIN = 3
"""Pixels around an edit that are not scored."""
SMALLEST_ERROR = 1e-6
"""Lower bound of the mean squared error: 60 dB, about the precision of eight bits."""


def rows_before(dataset: Dataset, edit: str, *, following: int) -> list[int]:
    """Rows of the images before one kind of edit, in order; empty if the data set has no pairs.

    Args:
        dataset: As `latentslots data make --edit-pairs` makes it.
        edit: Kind of edit, such as `removed`.
        following: Number of rows that must follow such a row.
    """
    columns = {"edit", "edited_object", "frame"}
    if not columns <= set(dataset.column_names):
        return []
    table = dataset.select_columns(sorted(columns))
    label = dataset.features["edit"].str2int(edit)
    return [
        row
        for row, facts in enumerate(table)
        if facts["edit"] == label and facts["frame"] == 0 and row + following < len(dataset)
    ]


def through_autoencoder(pipe: Any, pixel_values: Float[Tensor, "B 3 H W"]) -> Tensor:
    """Encode and decode images by the autoencoder alone; returns them in [0, 1], on the CPU.

    No edit can reproduce images better without pasting pixels.
    """
    decoded = decode_latents(pipe.vae, pipe.encode_latents(pixel_values)).float()
    return ((decoded + 1) / 2).clamp(0, 1).cpu()


def outside_scores(
    images: Float[Tensor, "B 3 H W"],
    truth: Float[Tensor, "B 3 H W"],
    outside: Bool[Tensor, "B 1 H W"],
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """PSNR (60 dB at most) and SSIM over the pixels outside of an edit."""
    weight = outside.float()
    error = ((images - truth).square() * weight).sum(dim=(1, 2, 3)) / (
        3 * weight.sum(dim=(1, 2, 3))
    )
    # Pixels inside are made equal, so that they affect only windows across the border.
    same_inside = torch.where(outside, images, truth)
    whole, share = ssim(same_inside, truth), weight.mean(dim=(1, 2, 3))
    return -10 * error.clamp(min=SMALLEST_ERROR).log10(), 1 - (1 - whole) / share


def away_from(mask: Bool[Tensor, "B H W"]) -> Bool[Tensor, "B 1 H W"]:
    """The pixels outside of a region and the 3 px around it."""
    return F.max_pool2d(mask[:, None].float(), 2 * MARGIN + 1, 1, MARGIN) == 0


def covering_slot(
    masks: Float[Tensor, "B K h w"], target: Bool[Tensor, "B H W"]
) -> tuple[Int[Tensor, " B"], Float[Tensor, " B"]]:
    """Find the slot that overlaps most with a region, and its IoU."""
    size = (target.shape[1], target.shape[2])
    ids = upsample_masks(masks, size).argmax(dim=1)
    owned = F.one_hot(ids, masks.shape[1]).movedim(-1, 1).bool()
    region = target[:, None].to(owned.device)
    shared, union = (owned & region).sum(dim=(2, 3)), (owned | region).sum(dim=(2, 3))
    overlap, slot = (shared / union.clamp(min=1)).max(dim=1)
    return slot, overlap


def take_scenes(scenes: SlotOutput, keep: Bool[Tensor, " B"]) -> SlotOutput:
    """Select scenes of a batch."""
    exist = scenes.slots_mask
    return SlotOutput(
        slots=scenes.slots[keep],
        masks=scenes.masks[keep],
        slots_mask=None if exist is None else exist[keep],
        has_frames=scenes.has_frames,
    )


def edit_in_all_ways(
    pipe: Any,
    images: Float[Tensor, "B 3 H W"],
    edit: SlotEdit,
    seeds: Sequence[int],
    sampling: Sampling,
) -> Iterator[tuple[str, Float[Tensor, "B 3 H W"]]]:
    """Edit images in [0, 1] by each of `METHODS`; yields its name and the images, in [0, 1]."""
    for name, method in METHODS.items():
        edited = pipe.edit(
            images,
            edit,
            generator=generators(seeds),
            guidance_scale=sampling.guidance_scale,
            num_inference_steps=sampling.num_inference_steps,
            output_type="pt",
            **method,
        ).images
        yield name, edited


def generators(seeds: Iterable[int]) -> list[Generator]:
    """Create a generator for each pair, so that results do not depend on batches."""
    return [Generator().manual_seed(seed) for seed in seeds]
