"""Training DINOSAUR: slots that reconstruct a frozen transformer's features.

Seitzer et al., 2023 (https://arxiv.org/abs/2209.14860, Sec. 3).

Dimensions: B batch, C feature channels, h w rows and columns of patches.
"""

from torch import Tensor
from torch.nn import functional as F

from latentslots.models import AutoregressiveDecoder, FeatureDecoder, SlotEncoder
from latentslots.models.dinov2_encoder import DINOv2Encoder
from latentslots.objectives.base import Batch, Logs, SlotObjective, collapse_metrics
from latentslots.pipelines.dinosaur import DinosaurPipeline
from latentslots.pipelines.inference import InferenceSettings


class DinosaurObjective(SlotObjective):
    """The mean squared error of the features that a decoder predicts from slots.

    Args:
        encoder: Image to features; frozen.
        slot_encoder: Features to slots; trained.
        decoder: Slots to features, of each patch independently or one after the other; trained.
        resolution: Pixels per side of the images.
        inference: How the pipeline infers slots.

    Raises:
        ValueError: If `inference` does not fit the slots.
    """

    learned = ("slot_encoder", "decoder")
    frozen = ("encoder",)
    pipeline_class = DinosaurPipeline

    def __init__(
        self,
        *,
        encoder: DINOv2Encoder,
        slot_encoder: SlotEncoder,
        decoder: FeatureDecoder | AutoregressiveDecoder,
        resolution: int,
        inference: InferenceSettings = InferenceSettings(),
    ) -> None:
        super().__init__()
        inference.check(slot_encoder)
        self.encoder = encoder
        self.slot_encoder = slot_encoder
        self.decoder = decoder
        self.resolution = resolution
        self.inference = inference
        self.freeze(encoder)

    def forward(self, batch: Batch) -> tuple[Tensor, Logs]:
        """Compute the loss of `pixel_values` in [-1, 1], or of cached `features`.

        `slot_noise` overrides the draw of initial slots.
        """
        features = batch["features"] if "features" in batch else self.encoder(batch["pixel_values"])
        out = self.slot_encoder(features, noise=batch.get("slot_noise"))
        height, width = features.shape[-2:]
        if isinstance(self.decoder, FeatureDecoder):
            predicted = self.decoder(out.slots, height=height, width=width).features
        else:
            tokens = self.decoder(features.flatten(2).transpose(1, 2), out.slots)
            predicted = tokens.transpose(1, 2).unflatten(2, (height, width))
        loss = F.mse_loss(predicted.float(), features.float())
        return loss, collapse_metrics(out.slots, out.attention)
