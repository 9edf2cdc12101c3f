"""The pipeline of SLATE (Singh et al., 2022, https://arxiv.org/abs/2110.11405).

Dimensions: B batch, K slots, D slot channels, h w rows and columns of tokens.
"""

from typing import Any

import torch
from diffusers import ImagePipelineOutput
from diffusers.image_processor import VaeImageProcessor
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from latentslots.models import (
    AutoregressiveDecoder,
    DiscreteVAE,
    ResidualEncoder,
    SlotEncoder,
    UNetEncoder,
)
from latentslots.pipelines.base import SlotPipeline
from latentslots.pipelines.inference import InferenceSettings


class SlatePipeline(SlotPipeline):
    """Images to slots, and slots to images token by token, each the most likely one.

    Args:
        encoder: Image to feature map.
        slot_encoder: Feature map to slots.
        dvae: Tokens to images.
        decoder: Slots to tokens.
        resolution: Pixels per side of the training images, and of those that are painted.
        inference: How slots are inferred.
    """

    def __init__(
        self,
        encoder: UNetEncoder | ResidualEncoder,
        slot_encoder: SlotEncoder,
        dvae: DiscreteVAE,
        decoder: AutoregressiveDecoder,
        resolution: int = 64,
        inference: InferenceSettings | dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            encoder=encoder, slot_encoder=slot_encoder, dvae=dvae, decoder=decoder
        )
        self.register_inference(resolution, inference)
        self.image_processor = VaeImageProcessor()

    @torch.no_grad()
    def __call__(
        self,
        slots: Float[Tensor, "B K D"],
        *,
        slots_mask: Bool[Tensor, "B K"] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Paint the image that a set of slots describes, deterministically.

        Args:
            slots: Scenes, as `encode` returns them or as editing made them.
            slots_mask: True for the slots that exist, where scenes differ in their number.
            output_type: `pil`, `np` or `pt` (both in [0, 1]).
            return_dict: Whether to wrap the images as diffusers does.

        Raises:
            ValueError: If shapes do not fit.
        """
        self.check_painting(slots, output_type)
        exist = None if slots_mask is None else slots_mask.to(self.device)
        cache = self.decoder.begin(slots.to(self.device, self.decoder.dtype), slots_mask=exist)
        tokens: list[Tensor] = []
        previous = None
        for _ in range(self.decoder.config.num_tokens):
            token = self.decoder.step(previous, cache).argmax(dim=1)
            previous = F.one_hot(token, self.dvae.config.vocab_size).to(self.decoder.dtype)
            tokens.append(token)
        side = self.resolution // self.dvae.config.patch_size
        grid = torch.stack(tokens, dim=1).unflatten(1, (side, side))
        pixels = self.dvae.decode_tokens(grid).float().clamp(-1, 1)
        images = self.image_processor.postprocess(pixels, output_type=output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)
