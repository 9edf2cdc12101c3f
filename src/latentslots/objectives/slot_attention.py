"""Training Slot Attention by painting images (Locatello et al., 2020, Sec. 2.2).

https://arxiv.org/abs/2006.15055

Dimensions: B batch, H W pixels.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from latentslots.models import BroadcastDecoder, ResidualEncoder, SlotEncoder, UNetEncoder
from latentslots.objectives.base import Batch, Logs, SlotObjective, collapse_alarms
from latentslots.pipelines.merging import check_inference
from latentslots.pipelines.slot_attention import SlotAutoencoderPipeline


class SlotAutoencoderObjective(SlotObjective):
    """The mean squared error of an image that is mixed from what every slot paints.

    Args:
        encoder: Image to feature map; learns.
        slot_encoder: Feature map to slots; learns.
        decoder: Slots to images; learns.
        resolution: Pixels per side of the images.
        num_inference_slots: For the pipeline: slots to look for; 0 for as many as in training.
        merge_overlap: For the pipeline: slots whose masks overlap more become one; 0 for never.
    """

    def __init__(
        self,
        *,
        encoder: UNetEncoder | ResidualEncoder,
        slot_encoder: SlotEncoder,
        decoder: BroadcastDecoder,
        resolution: int,
        num_inference_slots: int = 0,
        merge_overlap: float = 0.0,
    ) -> None:
        super().__init__()
        if resolution % decoder.size_multiple:
            raise ValueError(
                f"data.resolution must be a multiple of the decoder's {decoder.size_multiple} "
                f"pixels, got {resolution}"
            )
        check_inference(slot_encoder, num_inference_slots, merge_overlap)
        self.encoder = encoder
        self.slot_encoder = slot_encoder
        self.decoder = decoder
        self.resolution = resolution
        self.num_inference_slots = num_inference_slots
        self.merge_overlap = merge_overlap

    def trained(self) -> dict[str, nn.Module]:
        """Encoder, slots and decoder: all from scratch, jointly."""
        return {
            "encoder": self.encoder,
            "slot_encoder": self.slot_encoder,
            "decoder": self.decoder,
        }

    def forward(self, batch: Batch) -> tuple[Tensor, Logs]:
        """The loss of one batch of `pixel_values` in [-1, 1]; `slot_noise` overrides the draw."""
        pixel_values = batch["pixel_values"]
        out = self.slot_encoder(self.encoder(pixel_values), noise=batch.get("slot_noise"))
        height, width = pixel_values.shape[-2:]
        painted = self.decoder(out.slots, height=height, width=width)
        loss = F.mse_loss(painted.mixture(), pixel_values.float())
        return loss, collapse_alarms(out.slots, out.attention)

    def to_pipeline(self) -> SlotAutoencoderPipeline:
        """The model as a pipeline that shares these weights."""
        return SlotAutoencoderPipeline(
            encoder=self.encoder,
            slot_encoder=self.slot_encoder,
            decoder=self.decoder,
            resolution=self.resolution,
            num_inference_slots=self.num_inference_slots,
            merge_overlap=self.merge_overlap,
        )
