"""The layout of slots, for a denoiser that is conditioned on it.

Dimensions: B batch, K slots, D slot channels, h w latent rows and columns.
"""

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor

from latentslots.models import PatchDecoder, SlotUNet
from latentslots.models.stable_diffusion import StableDiffusionUNet


def predict_slot_layout(
    unet: SlotUNet | StableDiffusionUNet,
    patch_decoder: PatchDecoder | None,
    slots: Float[Tensor, "B K D"],
    slots_mask: Bool[Tensor, "B K"] | None,
    size: Sequence[int],
) -> Float[Tensor, "B K h w"] | None:
    """Predict where slots lie, for a denoiser that is conditioned on it (`map_channels`).

    Args:
        unet: The denoiser.
        patch_decoder: Predicts the layout.
        slots: The scenes.
        slots_mask: True for the slots that exist; by default all.
        size: Rows and columns of the latents.

    Returns:
        Soft masks that sum to 1 over the slots that exist; `None` if the denoiser is not
        conditioned on a layout.

    Raises:
        ValueError: If the denoiser requires a layout and there is no patch decoder.
    """
    if not unet.map_channels:
        return None
    if patch_decoder is None:
        raise ValueError("a denoiser with map_channels needs a patch decoder")
    return patch_decoder.slot_layout(slots, height=size[0], width=size[1], slots_mask=slots_mask)
