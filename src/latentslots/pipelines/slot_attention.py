"""The pipeline of Slot Attention, with a decoder that decodes every slot separately.

Dimensions: B batch, K slots, D slot channels, h w token grid, H W pixels.
"""

from typing import Any

import torch
from diffusers import ImagePipelineOutput
from diffusers.image_processor import VaeImageProcessor
from jaxtyping import Bool, Float
from torch import Tensor

from latentslots.models import BroadcastDecoder, ResidualEncoder, SlotEncoder, UNetEncoder
from latentslots.pipelines.base import SlotPipeline
from latentslots.pipelines.inference import InferenceSettings


class SlotAutoencoderPipeline(SlotPipeline):
    """Images to slots, and slots to images, deterministically.

    Args:
        encoder: Image to feature map.
        slot_encoder: Feature map to slots.
        decoder: Slots to images; its masks are the scene's.
        resolution: Pixels per side of the training images.
        inference: How slots are inferred.
        decoder_masks: Whether masks are the decoder's, as in the paper, or the slots' attention.
    """

    def __init__(
        self,
        encoder: UNetEncoder | ResidualEncoder,
        slot_encoder: SlotEncoder,
        decoder: BroadcastDecoder,
        resolution: int = 64,
        inference: InferenceSettings | dict[str, Any] | None = None,
        decoder_masks: bool = True,
    ) -> None:
        super().__init__()
        self.register_modules(encoder=encoder, slot_encoder=slot_encoder, decoder=decoder)
        self.register_inference(resolution, inference)
        self.register_to_config(decoder_masks=decoder_masks)
        self.image_processor = VaeImageProcessor()

    @torch.no_grad()
    def __call__(
        self,
        slots: Float[Tensor, "B K D"],
        *,
        slots_mask: Bool[Tensor, "B K"] | None = None,
        height: int | None = None,
        width: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Paint the image that a set of slots describes.

        Args:
            slots: Scenes, as `encode` returns them or as editing made them.
            slots_mask: True for the slots that exist, where scenes differ in their number.
            height: Height of the images in pixels; the trained resolution when absent.
            width: Width of the images in pixels; the trained resolution when absent.
            output_type: `pil`, `np` or `pt` (both in [0, 1]).
            return_dict: Whether to wrap the images as diffusers does.

        Raises:
            ValueError: If shapes do not fit.
        """
        self.check_painting(slots, output_type)
        decoded = self.decoder(
            slots.to(self.device, self.decoder.dtype),
            height=height or self.resolution,
            width=width or self.resolution,
            slots_mask=None if slots_mask is None else slots_mask.to(self.device),
        )
        pixels = decoded.mixture().clamp(-1, 1)
        images = self.image_processor.postprocess(pixels, output_type=output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    @property
    def mask_source(self) -> str:
        """`decoder`, or `attention` if `decoder_masks` is off."""
        return "decoder" if self.config.decoder_masks else "attention"

    def use_attention_masks(self) -> None:
        """Use the slots' attention as masks from now on, also once saved."""
        self.register_to_config(decoder_masks=False)

    def masks_of(
        self,
        slots: Float[Tensor, "B K D"],
        attention: Float[Tensor, "B K h w"],
        pixel_values: Float[Tensor, "B 3 H W"],
    ) -> Float[Tensor, "B K _ _"]:
        """Compute the decoder's masks, unless `decoder_masks` is off."""
        if not self.config.decoder_masks:
            return attention
        height, width = pixel_values.shape[-2:]
        return self.decoder(slots, height=height, width=width).masks
