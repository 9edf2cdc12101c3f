"""The layout of slots and the scene as they render it, for a denoiser that is conditioned on them.

Dimensions: B batch, K slots, D slot channels, h w latent rows and columns, R channels.
"""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from latentslots.models import PatchDecoder, SlotUNet, SpriteDecoder
from latentslots.models.patch_decoder import PatchDecoderOutput
from latentslots.models.stable_diffusion import StableDiffusionUNet


class SlotPlaces(NamedTuple):
    """Where slots lie, as far as a denoiser requires it.

    Attributes:
        slot_layout: Soft masks that sum to 1 over the slots that exist; `None` without
            `map_channels`.
        rendering: The colors of all pixels of every latent; `None` without `rendering_factor`.
        scene: The decoded pixels that both are made of; `None` without a rendering.
    """

    slot_layout: Float[Tensor, "B K h w"] | None
    rendering: Float[Tensor, "B R h w"] | None
    scene: PatchDecoderOutput | None = None

    @property
    def inputs(self) -> tuple[Float[Tensor, "B K h w"] | None, Float[Tensor, "B R h w"] | None]:
        """The inputs of the denoiser, in the order of `Condition`."""
        return self.slot_layout, self.rendering


def place_slots(
    unet: SlotUNet | StableDiffusionUNet,
    patch_decoder: PatchDecoder | SpriteDecoder | None,
    slots: Float[Tensor, "B K D"],
    slots_mask: Bool[Tensor, "B K"] | None,
    size: Sequence[int],
) -> SlotPlaces:
    """Predict where slots lie, and render them.

    Args:
        unet: The denoiser.
        patch_decoder: Predicts the layout, and renders scenes if it decodes sprites.
        slots: The scenes.
        slots_mask: True for the slots that exist; by default all.
        size: Rows and columns of the latents.

    Raises:
        ValueError: If the denoiser requires a layout and there is no patch decoder, or a rendering
            and there is no decoder of sprites.
    """
    if not unet.map_channels and not unet.rendering_factor:
        return SlotPlaces(None, None)
    if patch_decoder is None:
        raise ValueError("a denoiser with map_channels needs a patch decoder")
    factor = unet.rendering_factor
    if not factor:
        layout = patch_decoder.slot_layout(
            slots, height=size[0], width=size[1], slots_mask=slots_mask
        )
        return SlotPlaces(layout, None)
    if not isinstance(patch_decoder, SpriteDecoder):
        raise ValueError("a denoiser with rendering_factor needs a decoder of sprites")
    height, width = (side * factor for side in size)
    scene = patch_decoder(slots, height=height, width=width, slots_mask=slots_mask)
    pixels = scene.mixture().transpose(1, 2).unflatten(2, (height, width))
    masks = scene.masks.unflatten(2, (height, width))
    coarse = F.avg_pool2d(masks, factor) if unet.map_channels else None
    return SlotPlaces(coarse, F.pixel_unshuffle(pixels, factor), scene)
