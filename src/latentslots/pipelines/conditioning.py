"""The conditioning of the denoiser, with classifier-free guidance.

Ho and Salimans, 2022 (https://arxiv.org/abs/2207.12598).

Dimensions: B batch, G batch with the unconditional branch, K slots, D slot channels, S conditioning
vectors, X their channels, C latent channels, R channels of the rendering, h w latent size.
"""

import logging
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from latentslots.models import SlotEncoder, SlotUNet
from latentslots.models.slot_attention import pad_states
from latentslots.models.stable_diffusion import StableDiffusionUNet

logger = logging.getLogger(__name__)


class Condition(NamedTuple):
    """The inputs that condition the denoiser; with guidance, the unconditional branch follows."""

    states: Float[Tensor, "G S X"]
    mask: Bool[Tensor, "G S"] | None
    slot_layout: Float[Tensor, "B K h w"] | None
    rendering: Float[Tensor, "B R h w"] | None = None


def guided_states(
    slot_encoder: SlotEncoder,
    slots: Float[Tensor, "B K D"],
    slots_mask: Bool[Tensor, "B K"] | None,
    guidance_scale: float,
) -> tuple[Float[Tensor, "G S X"], Bool[Tensor, "G S"] | None]:
    """Project slots to conditioning; with guidance, append the unconditional branch.

    Args:
        slot_encoder: Projects slots, and holds the unconditional branch.
        slots: The scenes.
        slots_mask: True for the slots that exist; by default all.
        guidance_scale: 1 for no guidance.
    """
    states, mask = slot_encoder.condition(slots, slots_mask)
    if guidance_scale == 1.0:
        return states, mask
    if slot_encoder.can_drop_condition:
        dropped = torch.ones(slots.shape[0], dtype=torch.bool, device=slots.device)
        other, other_mask = slot_encoder.condition(slots, slots_mask, dropped=dropped)
    else:
        logger.warning(
            "guidance_scale=%g on a model that was trained without condition dropout: its "
            "unconditional branch is conditioned on zeros",
            guidance_scale,
        )
        other, other_mask = torch.zeros_like(states), mask
    states, mask = pad_states(states, mask, other.shape[1])
    if (mask is None) != (other_mask is None):
        all_exist = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        mask = all_exist if mask is None else mask
        other_mask = all_exist if other_mask is None else other_mask
    if mask is None or other_mask is None:
        return torch.cat([states, other]), None
    return torch.cat([states, other]), torch.cat([mask, other_mask])


def predict_guided(
    unet: SlotUNet | StableDiffusionUNet,
    latents: Float[Tensor, "B C h w"],
    timestep: Tensor,
    *,
    condition: Condition,
    guidance_scale: float,
) -> Float[Tensor, "B C h w"]:
    """Predict with the denoiser; guided where the states include the unconditional branch."""
    states, mask, *places = condition
    guided = states.shape[0] != latents.shape[0]
    if guided:
        latents = torch.cat([latents, latents])
        places = [None if place is None else torch.cat([place, place]) for place in places]
    prediction = unet(latents, timestep, states, mask, *places).sample
    if guided:
        conditional, unconditional = prediction.chunk(2)
        prediction = unconditional + guidance_scale * (conditional - unconditional)
    return prediction
