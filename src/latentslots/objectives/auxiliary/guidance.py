"""Attention guidance: a denoiser's cross-attention is trained to agree with slot attention.

After SlotAdapt (Akan and Yemez, 2025, https://arxiv.org/abs/2501.15878), whose authors describe
such a loss in words; its exact form here is ours. Gradients reach slots through the queries and
keys of cross-attention, not through slot attention, which is the target. If both were trained, they
would converge to their best agreement, in which one slot takes everything (docs/lab-notes.md).

Dimensions: B batch, K slots, N tokens, S conditioning vectors, h w rows and columns.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from latentslots.models.cross_attention import start_recording, stop_recording, token_grids
from latentslots.objectives.auxiliary.base import AuxiliaryLoss, DenoisingContext


class GuidanceLoss(AuxiliaryLoss):
    """The distance between the denoiser's cross-attention and slot attention.

    Args:
        unet: The denoiser.
        weight: Weight of the distance.
        blocks: Blocks of the denoiser whose cross-attention is compared; all when empty.

    Raises:
        ValueError: If the weight is not above 0, or the denoiser lacks one of the blocks.
    """

    def __init__(
        self, unet: Any, *, weight: float, blocks: Sequence[str] = ("up_blocks.2",)
    ) -> None:
        if not weight > 0:
            raise ValueError(f"guidance_weight must be above 0, got {weight:g}")
        self.unet, self.weight, self.blocks = unet, weight, tuple(blocks)
        self.layers: list[Tensor] = []
        start_recording(unet, self.blocks)  # refuses unknown blocks
        stop_recording(unet)

    @contextmanager
    def observe(self) -> Iterator[None]:
        """Record cross-attention while the denoiser runs.

        With gradient checkpointing, the backward pass computes the layers once more and requires
        the same operations, so recording continues, but stores nothing.
        """
        recorded = start_recording(self.unet, self.blocks)
        try:
            yield
        except BaseException:
            stop_recording(self.unet)
            raise
        self.layers = list(recorded)
        if torch.is_grad_enabled() and self.unet.is_gradient_checkpointing:
            start_recording(self.unet, self.blocks, keep=False)
        else:
            stop_recording(self.unet)

    def reset(self) -> None:
        """Stop the recording that a backward pass requires."""
        stop_recording(self.unet)
        self.layers = []

    def loss(self, context: DenoisingContext) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the distance; images that were denoised without their slots do not count."""
        height, width = context.noisy.latents.shape[2:]
        grids = token_grids(height, width, self.unet.num_levels)
        attention, dropped = context.attention, context.dropped
        counts = torch.ones(len(attention)) if dropped is None else (~dropped).float()
        layers, self.layers = self.layers, []
        distance = attention_distance(layers, attention, grids, counts.to(attention.device))
        return self.weight * distance, {"guidance_loss": distance.detach()}


def attention_distance(
    layers: Sequence[Float[Tensor, "B _ S"]],
    masks: Float[Tensor, "B K h w"],
    grids: Mapping[int, tuple[int, int]],
    weights: Float[Tensor, " B"],
) -> Float[Tensor, ""]:
    """Binary cross-entropy between cross-attention and slot attention, averaged over tokens.

    For each token, a slot's share of the cross-attention to all slots is compared with its share of
    slot attention at that place, which is held fixed.

    Args:
        layers: Cross-attention of the denoiser's layers, `[B, N, S]` each; of the S vectors the
            first K are slots.
        masks: Slot attention.
        grids: Rows and columns by number of tokens.
        weights: Weight of each image.
    """
    weights = weights / weights.sum().clamp(min=1e-6)
    total = masks.new_zeros((), dtype=torch.float32)
    for attention in layers:
        height, width = grids[attention.shape[1]]
        shares = attention[..., : masks.shape[1]].float().transpose(1, 2)
        shares = shares / shares.sum(dim=1, keepdim=True).clamp(min=1e-6)
        target = masks.detach().float()
        fine = height >= masks.shape[2]
        target = F.interpolate(target, (height, width), mode="bilinear" if fine else "area")
        target = target.flatten(2)
        shares = shares.clamp(1e-6, 1 - 1e-6)
        entropy = -(target * shares.log() + (1 - target) * (1 - shares).log())
        total = total + (entropy.mean(dim=(1, 2)) * weights).sum()
    return total / max(len(layers), 1)
