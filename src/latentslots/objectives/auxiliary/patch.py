"""The patch decoder's loss: slots must also reconstruct the image's colors, patch by patch.

A denoiser works almost equally well whichever slot represents what; an MLP that mixes slots cell by
cell does not, so it makes slots bind to objects (docs/lab-notes.md). Its masks can also train the
slots' attention, as in SPOT (Kakogeorgiou et al., 2024, https://arxiv.org/abs/2312.00648), but
with soft masks that depend on the image, and from the first step on, without a trained teacher.

Dimensions: B batch, K slots, D slot channels, h w token grid, N cells.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from latentslots.models import PatchDecoder, SpriteDecoder
from latentslots.objectives.auxiliary.base import AuxiliaryLoss, DenoisingContext


class PatchLoss(AuxiliaryLoss):
    """The squared error of the patch decoder, and the cross-entropy of attention from its masks.

    Args:
        patch_decoder: Predicts the mean colors of patches from slots.
        weight: Weight of its squared error, in units of its `color_scale`.
        distillation_weight: Weight of the cross-entropy from its responsibilities, which are held
            fixed, to the attention; 0 for none.
        patch_size: Pixels per side of a patch.
        num_patches: Patches of an image that are reconstructed per step, drawn anew each time.
        plain_steps: Steps in which each slot has one color; over as many further steps, the color
            gradually becomes free to vary with the position. 0: it is free from the start.
        resolution: Pixels per side of the images.

    Raises:
        ValueError: If a number is out of its range.
    """

    def __init__(
        self,
        patch_decoder: PatchDecoder | SpriteDecoder,
        *,
        weight: float,
        distillation_weight: float = 0.0,
        patch_size: int = 2,
        num_patches: int = 256,
        plain_steps: int = 0,
        resolution: int,
    ) -> None:
        if not weight > 0:
            raise ValueError(f"patch_decoder_weight must be above 0, got {weight:g}")
        if not distillation_weight >= 0:
            raise ValueError(
                f"mask_distillation_weight must be 0 or above, got {distillation_weight:g}"
            )
        if patch_size < 1 or resolution % patch_size:
            raise ValueError(
                f"patch_size must divide the resolution of {resolution} pixels, got {patch_size}"
            )
        if num_patches < 1:
            raise ValueError(f"num_patches must be 1 or more, got {num_patches}")
        if plain_steps < 0:
            raise ValueError(f"patch_plain_steps must be 0 or more, got {plain_steps}")
        self.patch_decoder = patch_decoder
        self.weight = weight
        self.distillation_weight = distillation_weight
        self.patch_size = patch_size
        self.num_patches = num_patches
        self.plain_steps = plain_steps

    def begin_step(self, step: int) -> None:
        """Let colors vary with the position once slots have had time to separate."""
        plain = self.plain_steps
        freedom = 1.0 if plain == 0 else min(1.0, max(0.0, step / plain - 1))
        self.patch_decoder.freedom.fill_(freedom)

    def loss(self, context: DenoisingContext) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the error on some patches; `cells` in the batch overrides their draw."""
        patches = F.avg_pool2d(context.batch["pixel_values"].float(), self.patch_size)
        height, width = patches.shape[-2:]
        cells = context.batch.get("cells")
        if cells is None:
            cells = torch.randperm(height * width, device=patches.device)[: self.num_patches]
        target = patches.flatten(2)[:, :, cells].transpose(1, 2)
        if context.scene is not None and context.scene.masks.shape[2] == height * width:
            predicted = context.scene.at(cells)
        else:
            absent = {} if context.slots_mask is None else {"slots_mask": context.slots_mask}
            predicted = self.patch_decoder(
                context.slots, height=height, width=width, cells=cells, **absent
            )
        scale = self.patch_decoder.config.color_scale
        error = F.mse_loss(predicted.mixture(), target) / scale**2
        term, logs = self.weight * error, {"patch_loss": error.detach()}
        if self.distillation_weight:
            fine = height >= context.attention.shape[2]
            masks = F.interpolate(
                context.attention, (height, width), mode="bilinear" if fine else "area"
            )
            cross_entropy = mask_cross_entropy(
                masks.flatten(2)[:, :, cells], predicted.responsibilities(target).detach()
            )
            term = term + self.distillation_weight * cross_entropy
            logs["distillation_loss"] = cross_entropy.detach()
        return term, logs


def mask_cross_entropy(
    masks: Float[Tensor, "B K N"], targets: Float[Tensor, "B K N"]
) -> Float[Tensor, ""]:
    """Cross-entropy of soft masks from target masks, in nats per cell.

    A cell is weighted by the certainty of its target, from 0 (all slots alike) to 1 (one slot):
    uniform targets contain no information.
    """
    entropy = -(targets * targets.clamp(min=1e-9).log()).sum(dim=1)
    certainty = 1 - entropy / math.log(max(targets.shape[1], 2))
    cross_entropy = -(targets * masks.clamp(min=1e-6).log()).sum(dim=1)
    return (certainty * cross_entropy).mean()
