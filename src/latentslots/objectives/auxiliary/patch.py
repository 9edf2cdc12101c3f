"""What a patch decoder adds to a loss: slots that can paint the image's colors part by part.

Dimensions: B batch, K slots, D slot channels, h w token grid, N cells.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from latentslots.models import PatchDecoder
from latentslots.objectives.base import Batch, Logs

NUM_CELLS = 256
"""Patches of an image that the patch decoder paints per step, drawn anew each time."""


def mask_cross_entropy(
    masks: Float[Tensor, "B K N"], targets: Float[Tensor, "B K N"]
) -> Float[Tensor, ""]:
    """How badly soft masks foretell others, in nats per cell where the others are sure.

    A cell counts by how sure the targets are of its slot, from 0 (all slots alike) to 1 (one
    slot): targets that know nothing yet teach nothing.
    """
    entropy = -(targets * targets.clamp(min=1e-9).log()).sum(dim=1)
    sureness = 1 - entropy / math.log(max(targets.shape[1], 2))
    cross_entropy = -(targets * masks.clamp(min=1e-6).log()).sum(dim=1)
    return (sureness * cross_entropy).mean()


def patch_loss(
    patch_decoder: PatchDecoder,
    batch: Batch,
    slots: Float[Tensor, "B K D"],
    attention: Float[Tensor, "B K h w"],
    *,
    patch_size: int,
    weight: float,
    distillation_weight: float,
) -> tuple[Tensor, Logs]:
    """The weighted sum of the patch decoder's error and what it teaches the attention.

    Args:
        patch_decoder: Paints the mean colors of patches.
        batch: `pixel_values`; `cells` overrides the draw of patches.
        slots: What it paints from.
        attention: What it teaches.
        patch_size: Pixels per side of a patch.
        weight: Of its squared error, in units of its `color_scale`.
        distillation_weight: Of the cross-entropy from its responsibilities, which are held fixed,
            to the attention.
    """
    patches = F.avg_pool2d(batch["pixel_values"].float(), patch_size)
    height, width = patches.shape[-2:]
    cells = batch.get("cells")
    if cells is None:
        cells = torch.randperm(height * width, device=patches.device)[:NUM_CELLS]
    target = patches.flatten(2)[:, :, cells].transpose(1, 2)
    painted = patch_decoder(slots, height=height, width=width, cells=cells)
    error = F.mse_loss(painted.mixture(), target) / patch_decoder.config.color_scale**2
    loss, logs = weight * error, {"patch_loss": error.detach()}
    if distillation_weight:
        fine = height >= attention.shape[2]
        masks = F.interpolate(attention, (height, width), mode="bilinear" if fine else "area")
        distillation_loss = mask_cross_entropy(
            masks.flatten(2)[:, :, cells], painted.responsibilities(target).detach()
        )
        loss = loss + distillation_weight * distillation_loss
        logs["distillation_loss"] = distillation_loss.detach()
    return loss, logs


def check_patch_decoder(
    patch_decoder: PatchDecoder | None,
    patch_decoder_weight: float,
    mask_distillation_weight: float,
    patch_size: int,
    resolution: int,
) -> None:
    """Refuse numbers that do not fit each other.

    Raises:
        ValueError: If so.
    """
    weights = {
        "patch_decoder_weight": patch_decoder_weight,
        "mask_distillation_weight": mask_distillation_weight,
    }
    for name, weight in weights.items():
        if not weight >= 0:
            raise ValueError(f"{name} must be 0 or above, got {weight:g}")
    if mask_distillation_weight and patch_decoder is None:
        raise ValueError(
            "mask_distillation_weight needs a patch decoder, whose masks teach: set "
            "patch_decoder_weight above 0, or both to 0"
        )
    if patch_decoder is not None and (patch_size < 1 or resolution % patch_size):
        raise ValueError(
            f"patch_size must divide the resolution of {resolution} pixels, got {patch_size}"
        )
    learns = patch_decoder is not None and any(p.requires_grad for p in patch_decoder.parameters())
    if (learns and patch_decoder_weight == 0) or (patch_decoder is None and patch_decoder_weight):
        raise ValueError("patch_decoder and patch_decoder_weight are given together, or neither")


def check_needed(numbers: dict[str, int], patch_decoder: PatchDecoder | None) -> None:
    """Refuse what means something only with a patch decoder.

    Args:
        numbers: By the names of their knobs; 0 where the knob is off.
        patch_decoder: What they need.

    Raises:
        ValueError: If one is below 0, or is on without a patch decoder.
    """
    for name, number in numbers.items():
        if number < 0:
            raise ValueError(f"{name} must be 0 or more, got {number}")
        if number and patch_decoder is None:
            raise ValueError(
                f"{name} needs a patch decoder: set patch_decoder_weight above 0, or both to 0"
            )
