"""The layout of slots and the scene as they render it, for a denoiser that is conditioned on them.

Dimensions: B batch, K slots, D slot channels, h w latent rows and columns, R channels.
"""

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from latentslots.models import PatchDecoder, SlotUNet, SpriteDecoder
from latentslots.models.stable_diffusion import StableDiffusionUNet


def predict_slot_layout(
    unet: SlotUNet | StableDiffusionUNet,
    patch_decoder: PatchDecoder | SpriteDecoder | None,
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


def render_slots(
    unet: SlotUNet | StableDiffusionUNet,
    patch_decoder: PatchDecoder | SpriteDecoder | None,
    slots: Float[Tensor, "B K D"],
    slots_mask: Bool[Tensor, "B K"] | None,
    size: Sequence[int],
) -> Float[Tensor, "B R h w"] | None:
    """Render scenes for a denoiser that is conditioned on the rendering (`rendering_factor`).

    Args:
        unet: The denoiser.
        patch_decoder: Renders the scenes.
        slots: The scenes.
        slots_mask: True for the slots that exist; by default all.
        size: Rows and columns of the latents.

    Returns:
        The colors of all pixels of every latent; `None` if the denoiser is not conditioned on them.

    Raises:
        ValueError: If the denoiser requires a rendering and there is no decoder of sprites.
    """
    factor = unet.rendering_factor
    if not factor:
        return None
    if not isinstance(patch_decoder, SpriteDecoder):
        raise ValueError("a denoiser with rendering_factor needs a decoder of sprites")
    height, width = (side * factor for side in size)
    pixels = patch_decoder.rendering(slots, height=height, width=width, slots_mask=slots_mask)
    return F.pixel_unshuffle(pixels, factor)
