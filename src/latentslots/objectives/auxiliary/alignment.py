"""Two losses beside denoising that tie slots to things, for pretrained denoisers.

Dimensions: B batch, P images of it that make pairs, K slots, D slot channels, N tokens, S
conditioning vectors, h w rows and columns.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """How much of each.

    Args:
        contrastive_weight: Weight of the denoising error with half of the slots taken from another
            image, which is subtracted (CODA, Nguyen et al., 2026,
            https://arxiv.org/abs/2601.01224): slots of another image should not do. 0 for none.
        contrastive_start: Steps before that begins.
        guidance_weight: Weight of the distance between slot attention and the denoiser's
            cross-attention (after SlotAdapt, Akan and Yemez, 2025,
            https://arxiv.org/abs/2501.15878). 0 for none.
        guidance_blocks: Blocks of the denoiser whose cross-attention it is; all when empty.

    Raises:
        ValueError: If a number is below 0.
    """

    contrastive_weight: float = 0.0
    contrastive_start: int = 0
    guidance_weight: float = 0.0
    guidance_blocks: tuple[str, ...] = ("up_blocks.2",)

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        for name in ("contrastive_weight", "contrastive_start", "guidance_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or above, got {getattr(self, name):g}")


def share_noise(noise: Float[Tensor, "B K D"]) -> Float[Tensor, "B K D"]:
    """The first half's noise for the second half, too: slot k starts alike in both of a pair."""
    half = len(noise) // 2
    return torch.cat([noise[:half], noise[:half], noise[2 * half :]])


def choose_half(slots: Float[Tensor, "B K D"]) -> Bool[Tensor, "P K"]:
    """Half of the slots of each pair of images, drawn anew; the same in both."""
    batch_size, num_slots, _ = slots.shape
    order = torch.rand(batch_size // 2, num_slots, device=slots.device).argsort(dim=1)
    chosen = order < num_slots // 2
    return torch.cat([chosen, chosen])


def swap_slots(
    slots: Float[Tensor, "B K D"], chosen: Bool[Tensor, "P K"]
) -> Float[Tensor, "P K D"]:
    """Scenes of which some slots are those of the other image of their pair.

    Args:
        slots: Of a batch, whose image i makes a pair with image i + B // 2; the last image of an
            odd batch is left out.
        chosen: Which are swapped.
    """
    half = len(slots) // 2
    pairs = slots[: 2 * half]
    return torch.where(chosen[..., None], pairs.roll(half, dims=0), pairs)


class FixedTwin:
    """A module that shares another one's weights, and from whose answers they do not learn.

    To switch learning off for one call is not enough: gradient checkpoints compute the call again
    in the backward pass, when it is on again.
    """

    def __init__(self) -> None:
        self._twin: nn.Module | None = None

    def of(self, module: nn.Module) -> nn.Module:
        """The twin, made anew where the module's weights have moved."""
        weights = list(module.parameters())
        if self._twin is not None:
            pairs = zip(weights, self._twin.parameters(), strict=True)
            if all(one.is_set_to(other) for one, other in pairs):
                return self._twin
        shared: dict[int, Any] = {
            id(p): nn.Parameter(p.detach(), requires_grad=False) for p in weights
        }
        shared |= {id(buffer): buffer for buffer in module.buffers()}
        self._twin = copy.deepcopy(module, shared)
        if module._compiled_call_impl is not None:  # which a copy does not have
            self._twin.compile()
        return self._twin


def attention_distance(
    layers: Sequence[Float[Tensor, "B _ S"]],
    masks: Float[Tensor, "B K h w"],
    grids: Mapping[int, tuple[int, int]],
    weights: Float[Tensor, " B"],
) -> Float[Tensor, ""]:
    """How badly cross-attention says of each place whose it is, the mean over layers and places.

    The binary cross-entropy between a slot's share of what a token looks at, of all slots together,
    and its share of that place in slot attention. SlotAdapt's authors describe such a loss in
    words; its exact form here is ours: slot attention teaches, and gradients reach slots through
    what the denoiser looks for. Were masks to learn, too, the nearest they can come to each other
    is one slot for everything, and they go there (docs/lab-notes.md).

    Args:
        layers: Cross-attention of the denoiser's layers, `[B, N, S]` each; of the S vectors the
            first K are slots.
        masks: Slot attention, which does not learn from this.
        grids: Rows and columns behind every number of tokens.
        weights: How much each image counts.
    """
    weights = weights / weights.sum().clamp(min=1e-6)
    total = masks.new_zeros((), dtype=torch.float32)
    for attention in layers:
        height, width = grids[attention.shape[1]]
        looked = attention[..., : masks.shape[1]].float().transpose(1, 2)
        looked = looked / looked.sum(dim=1, keepdim=True).clamp(min=1e-6)
        owned = masks.detach().float()
        fine = height >= masks.shape[2]
        owned = F.interpolate(owned, (height, width), mode="bilinear" if fine else "area")
        owned = owned.flatten(2)
        looked = looked.clamp(1e-6, 1 - 1e-6)
        entropy = -(owned * looked.log() + (1 - owned) * (1 - looked).log())
        total = total + (entropy.mean(dim=(1, 2)) * weights).sum()
    return total / max(len(layers), 1)
