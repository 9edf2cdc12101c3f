"""Contrast: with slots of another image, denoising must be worse (CODA, Nguyen et al., 2026).

https://arxiv.org/abs/2601.01224. The error with half of the slots from another image is
subtracted; only slots receive its gradients.

Dimensions: B batch, P images of it that form pairs, K slots, D slot channels.
"""

import copy
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from latentslots.models import SlotEncoder
from latentslots.objectives.auxiliary.base import AuxiliaryLoss, DenoisingContext, NoisyLatents


class ContrastLoss(AuxiliaryLoss):
    """The negative denoising error with half of the slots from the other image of a pair.

    Args:
        unet: The denoiser.
        slot_encoder: Draws the initial slots.
        weight: Weight of the error.
        start: Steps before the loss is added.

    Raises:
        ValueError: If the weight is not above 0, or `start` is negative.
    """

    def __init__(
        self, unet: Any, slot_encoder: SlotEncoder, *, weight: float, start: int = 0
    ) -> None:
        if not weight > 0:
            raise ValueError(f"contrastive_weight must be above 0, got {weight:g}")
        if not start >= 0:
            raise ValueError(f"contrastive_start must be 0 or above, got {start}")
        self.unet, self.slot_encoder, self.weight, self.start = unet, slot_encoder, weight, start
        self.active = False
        self.frozen_view = FrozenView()

    def begin_step(self, step: int) -> None:
        """Activate the loss from step `start` on."""
        self.active = step >= self.start

    def slot_noise(self, batch: dict[str, Any]) -> Float[Tensor, "B K D"] | None:
        """Draw the same initial slots for both images of a pair, so that their slots correspond."""
        if not self.active or self.slot_encoder.slot_log_std is None:
            return None
        return share_noise(self.slot_encoder.draw_noise(len(batch["pixel_values"])))

    def loss(self, context: DenoisingContext) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the error; `swapped` in the batch overrides which slots are exchanged."""
        slots = context.slots
        if not self.active or len(slots) < 2 or slots.shape[1] < 2:
            return slots.new_zeros((), dtype=torch.float32), {}
        chosen = context.batch.get("swapped")
        if chosen is None:
            chosen = choose_half(slots)
        swapped = swap_slots(slots, chosen)
        condition = context.condition(swapped)
        own, registers = condition.states.tensor_split([slots.shape[1]], dim=1)
        # Registers belong to the denoiser, which must not receive gradients of this loss.
        condition = condition._replace(states=torch.cat([own, registers.detach()], dim=1))
        pairs = NoisyLatents(*(part[: len(swapped)] for part in context.noisy))
        error = context.error(pairs, condition, unet=self.frozen_view.of(self.unet)).mean()
        return -self.weight * error, {"contrastive_loss": error.detach()}


def share_noise(noise: Float[Tensor, "B K D"]) -> Float[Tensor, "B K D"]:
    """Repeat the first half's noise in the second half: both images of a pair start alike."""
    half = len(noise) // 2
    return torch.cat([noise[:half], noise[:half], noise[2 * half :]])


def choose_half(slots: Float[Tensor, "B K D"]) -> Bool[Tensor, "P K"]:
    """Choose half of the slots of each pair of images at random; the same in both."""
    batch_size, num_slots, _ = slots.shape
    order = torch.rand(batch_size // 2, num_slots, device=slots.device).argsort(dim=1)
    chosen = order < num_slots // 2
    return torch.cat([chosen, chosen])


def swap_slots(
    slots: Float[Tensor, "B K D"], chosen: Bool[Tensor, "P K"]
) -> Float[Tensor, "P K D"]:
    """Exchange some slots with the other image of a pair.

    Args:
        slots: Slots of a batch, whose image i forms a pair with image i + B // 2; the last image
            of an odd batch is left out.
        chosen: True for the slots that are exchanged.
    """
    half = len(slots) // 2
    pairs = slots[: 2 * half]
    return torch.where(chosen[..., None], pairs.roll(half, dims=0), pairs)


class FrozenView:
    """A module that shares another one's weights, which receive no gradients through it.

    To disable gradients for one call is not enough: gradient checkpoints compute the call again in
    the backward pass, when they are enabled again.
    """

    def __init__(self) -> None:
        self._view: nn.Module | None = None

    def of(self, module: nn.Module) -> nn.Module:
        """Return the view, rebuilt if the module's weights have moved."""
        weights = list(module.parameters())
        if self._view is not None:
            pairs = zip(weights, self._view.parameters(), strict=True)
            if all(one.is_set_to(other) for one, other in pairs):
                return self._view
        shared: dict[int, Any] = {
            id(p): nn.Parameter(p.detach(), requires_grad=False) for p in weights
        }
        shared |= {id(buffer): buffer for buffer in module.buffers()}
        self._view = copy.deepcopy(module, shared)
        if module._compiled_call_impl is not None:  # which a copy does not have
            self._view.compile()
        return self._view
