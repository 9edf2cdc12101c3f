"""Where slots are, for a denoiser that sees a map of them.

Dimensions: B batch, K slots, D slot channels, h w latent rows and columns.
"""

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor

from latentslots.models import PatchDecoder, SlotUNet
from latentslots.models.stable_diffusion import StableDiffusionUNet


def slot_places(
    unet: SlotUNet | StableDiffusionUNet,
    patch_decoder: PatchDecoder | None,
    slots: Float[Tensor, "B K D"],
    slots_mask: Bool[Tensor, "B K"] | None,
    size: Sequence[int],
) -> Float[Tensor, "B K h w"] | None:
    """Where slots are, for a denoiser that asks.

    Args:
        unet: The denoiser.
        patch_decoder: Who knows.
        slots: The scenes.
        slots_mask: True for the slots that exist; by default all.
        size: Rows and columns of the latents.

    Raises:
        ValueError: If it asks, and nobody knows.
    """
    if not unet.map_channels:
        return None
    if patch_decoder is None:
        raise ValueError("a denoiser with map_channels needs a patch decoder")
    return patch_decoder.places(slots, height=size[0], width=size[1], slots_mask=slots_mask)
