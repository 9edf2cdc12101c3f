"""Training DINOSAUR: slots that explain a frozen transformer's features.

Seitzer et al., 2023 (https://arxiv.org/abs/2209.14860, Sec. 3).

Dimensions: B batch, C feature channels, h w rows and columns of patches.
"""

from functools import cached_property

from torch import Tensor, nn
from torch.nn import functional as F

from latentslots.fingerprint import model_fingerprint
from latentslots.models import AutoregressiveDecoder, FeatureDecoder, SlotEncoder
from latentslots.models.dinov2_encoder import DINOv2Encoder
from latentslots.objectives.base import Batch, Logs, SlotObjective, collapse_alarms
from latentslots.pipelines.dinosaur import DinosaurPipeline
from latentslots.pipelines.merging import check_inference


class DinosaurObjective(SlotObjective):
    """The mean squared error of the features that a decoder says from slots.

    Args:
        encoder: Image to features; frozen.
        slot_encoder: Features to slots; learns.
        decoder: Slots to features, patch by patch, or one after the other; learns.
        resolution: Pixels per side of the images.
        num_inference_slots: For the pipeline: slots to look for; 0 for as many as in training.
        merge_overlap: For the pipeline: slots whose masks overlap more become one; 0 for never.
    """

    def __init__(
        self,
        *,
        encoder: DINOv2Encoder,
        slot_encoder: SlotEncoder,
        decoder: FeatureDecoder | AutoregressiveDecoder,
        resolution: int,
        num_inference_slots: int = 0,
        merge_overlap: float = 0.0,
    ) -> None:
        super().__init__()
        check_inference(slot_encoder, num_inference_slots, merge_overlap)
        self.encoder = encoder
        self.slot_encoder = slot_encoder
        self.decoder = decoder
        self.resolution = resolution
        self.num_inference_slots = num_inference_slots
        self.merge_overlap = merge_overlap
        self.freeze(encoder)

    def trained(self) -> dict[str, nn.Module]:
        """Slots and decoder; the features are given."""
        return {"slot_encoder": self.slot_encoder, "decoder": self.decoder}

    def frozen_hashes(self) -> dict[str, str]:
        """As for all: of the transformer."""
        return {"encoder": self._encoder_hash}

    @cached_property
    def _encoder_hash(self) -> str:
        return model_fingerprint(self.encoder)

    def forward(self, batch: Batch) -> tuple[Tensor, Logs]:
        """The loss of one batch of `pixel_values` in [-1, 1], or of cached `features`.

        `slot_noise` overrides the draw.
        """
        features = batch["features"] if "features" in batch else self.encoder(batch["pixel_values"])
        out = self.slot_encoder(features, noise=batch.get("slot_noise"))
        height, width = features.shape[-2:]
        if isinstance(self.decoder, FeatureDecoder):
            said = self.decoder(out.slots, height=height, width=width).features
        else:
            tokens = self.decoder(features.flatten(2).transpose(1, 2), out.slots)
            said = tokens.transpose(1, 2).unflatten(2, (height, width))
        loss = F.mse_loss(said.float(), features.float())
        return loss, collapse_alarms(out.slots, out.attention)

    def to_pipeline(self) -> DinosaurPipeline:
        """The model as a pipeline that shares these weights."""
        return DinosaurPipeline(
            encoder=self.encoder,
            slot_encoder=self.slot_encoder,
            decoder=self.decoder,
            resolution=self.resolution,
            num_inference_slots=self.num_inference_slots,
            merge_overlap=self.merge_overlap,
        )
