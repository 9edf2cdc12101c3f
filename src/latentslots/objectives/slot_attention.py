"""Training Slot Attention by reconstructing images (Locatello et al., 2020, Sec. 2.2).

https://arxiv.org/abs/2006.15055

Dimensions: B batch, H W pixels.
"""

from torch import Tensor
from torch.nn import functional as F

from latentslots.models import BroadcastDecoder, ResidualEncoder, SlotEncoder, UNetEncoder
from latentslots.objectives.base import Batch, Logs, SlotObjective, collapse_metrics
from latentslots.pipelines.inference import InferenceSettings
from latentslots.pipelines.slot_attention import SlotAutoencoderPipeline


class SlotAttentionObjective(SlotObjective):
    """The mean squared error of an image that is mixed from the reconstructions of every slot.

    Args:
        encoder: Image to feature map; trained.
        slot_encoder: Feature map to slots; trained.
        decoder: Slots to images; trained.
        resolution: Pixels per side of the images.
        inference: How the pipeline infers slots.

    Raises:
        ValueError: If the decoder cannot produce images of this size, or `inference` does not fit
            the slots.
    """

    learned = ("encoder", "slot_encoder", "decoder")
    pipeline_class = SlotAutoencoderPipeline

    def __init__(
        self,
        *,
        encoder: UNetEncoder | ResidualEncoder,
        slot_encoder: SlotEncoder,
        decoder: BroadcastDecoder,
        resolution: int,
        inference: InferenceSettings = InferenceSettings(),
    ) -> None:
        super().__init__()
        if resolution % decoder.size_multiple:
            raise ValueError(
                f"data.resolution must be a multiple of the decoder's {decoder.size_multiple} "
                f"pixels, got {resolution}"
            )
        inference.check(slot_encoder)
        self.encoder = encoder
        self.slot_encoder = slot_encoder
        self.decoder = decoder
        self.resolution = resolution
        self.inference = inference

    def forward(self, batch: Batch) -> tuple[Tensor, Logs]:
        """Compute the loss of `pixel_values` in [-1, 1]; `slot_noise` overrides the draw."""
        pixel_values = batch["pixel_values"]
        out = self.slot_encoder(self.encoder(pixel_values), noise=batch.get("slot_noise"))
        height, width = pixel_values.shape[-2:]
        decoded = self.decoder(out.slots, height=height, width=width)
        loss = F.mse_loss(decoded.mixture(), pixel_values.float())
        return loss, collapse_metrics(out.slots, out.attention)
