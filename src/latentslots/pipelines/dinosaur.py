"""The pipeline of DINOSAUR (Seitzer et al., 2023, https://arxiv.org/abs/2209.14860).

Dimensions: B batch, K slots, D slot channels, h w rows and columns of patches, H W pixels.
"""

from typing import Any, NoReturn

from jaxtyping import Float
from torch import Tensor

from latentslots.models import AutoregressiveDecoder, FeatureDecoder, SlotEncoder
from latentslots.models.dinov2_encoder import DINOv2Encoder
from latentslots.pipelines.base import SlotPipeline
from latentslots.pipelines.inference import InferenceSettings


class DinosaurPipeline(SlotPipeline):
    """Images to slots and masks, but not back: the decoder predicts features, not pixels.

    Args:
        encoder: Image to features.
        slot_encoder: Features to slots.
        decoder: Slots to features. An MLP decoder's masks are the scene's, as in the paper; with a
            transformer, masks are the slots' attention.
        resolution: Pixels per side of the training images.
        inference: How slots are inferred.
        decoder_masks: Whether to use the decoder's masks, if it has any.
    """

    paints = False

    def __init__(
        self,
        encoder: DINOv2Encoder,
        slot_encoder: SlotEncoder,
        decoder: FeatureDecoder | AutoregressiveDecoder,
        resolution: int = 224,
        inference: InferenceSettings | dict[str, Any] | None = None,
        decoder_masks: bool = True,
    ) -> None:
        super().__init__()
        self.register_modules(encoder=encoder, slot_encoder=slot_encoder, decoder=decoder)
        self.register_inference(resolution, inference)
        self.register_to_config(decoder_masks=decoder_masks)

    def __call__(self, slots: Float[Tensor, "B K D"], **options: Any) -> NoReturn:
        """Refuse to paint: the decoder predicts features, not pixels.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "DINOSAUR cannot paint: its decoder predicts a vision transformer's features, not "
            "pixels"
        )

    @property
    def mask_source(self) -> str:
        """`decoder` if it predicts masks and `decoder_masks` is on, else `attention`."""
        return "decoder" if self._has_decoder_masks() else "attention"

    def use_attention_masks(self) -> None:
        """Use the slots' attention as masks from now on, also once saved."""
        self.register_to_config(decoder_masks=False)

    def masks_of(
        self,
        slots: Float[Tensor, "B K D"],
        attention: Float[Tensor, "B K h w"],
        pixel_values: Float[Tensor, "B 3 H W"],
    ) -> Float[Tensor, "B K _ _"]:
        """Compute an MLP decoder's masks, or the slots' attention."""
        if not self._has_decoder_masks():
            return attention
        height, width = attention.shape[-2:]
        return self.decoder(slots, height=height, width=width).masks

    def _has_decoder_masks(self) -> bool:
        return self.config.decoder_masks and isinstance(self.decoder, FeatureDecoder)
