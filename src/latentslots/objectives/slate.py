"""Training SLATE: words for patches, and a transformer that writes them from slots.

Singh et al., 2022 (https://arxiv.org/abs/2110.11405, Sec. 3).

Dimensions: B batch, V words of the vocabulary, N tokens.
"""

import math

from torch import Tensor, nn
from torch.nn import functional as F

from latentslots.models import (
    AutoregressiveDecoder,
    DiscreteVAE,
    ResidualEncoder,
    SlotEncoder,
    UNetEncoder,
)
from latentslots.objectives.base import Batch, Logs, SlotObjective, collapse_alarms
from latentslots.pipelines.merging import check_inference
from latentslots.pipelines.slate import SlatePipeline

FIRST_TEMPERATURE, LAST_TEMPERATURE = 1.0, 0.1


class SlateObjective(SlotObjective):
    """The squared error of the discrete autoencoder, and the cross-entropy of its words.

    The autoencoder learns by a relaxation (Gumbel-softmax, Jang et al., 2017,
    https://arxiv.org/abs/1611.01144) whose temperature falls along a cosine; backbone, slots and
    transformer learn to foretell its words. No gradient goes from these to the autoencoder.

    Differs from the paper: slots are found in the features of an image backbone, as in its
    successor for videos (Singh et al., 2022, https://arxiv.org/abs/2205.14065), instead of in the
    words' embeddings, so that methods are compared on the same backbone; the transformer's words
    are the strongest of the relaxed ones, instead of a draw of their own; and both losses are means
    instead of sums, which the optimizer does not see.

    Args:
        encoder: Image to feature map; learns.
        slot_encoder: Feature map to slots; learns.
        dvae: Image to words, and back; learns.
        decoder: Slots to words; learns.
        resolution: Pixels per side of the images.
        temperature_steps: Steps in which the relaxation's temperature falls from 1 to 0.1.
        num_inference_slots: For the pipeline: slots to look for; 0 for as many as in training.
        merge_overlap: For the pipeline: slots whose masks overlap more become one; 0 for never.
    """

    def __init__(
        self,
        *,
        encoder: UNetEncoder | ResidualEncoder,
        slot_encoder: SlotEncoder,
        dvae: DiscreteVAE,
        decoder: AutoregressiveDecoder,
        resolution: int,
        temperature_steps: int = 30_000,
        num_inference_slots: int = 0,
        merge_overlap: float = 0.0,
    ) -> None:
        super().__init__()
        if temperature_steps < 1:
            raise ValueError(f"temperature_steps must be at least 1, got {temperature_steps}")
        check_inference(slot_encoder, num_inference_slots, merge_overlap)
        self.encoder = encoder
        self.slot_encoder = slot_encoder
        self.dvae = dvae
        self.decoder = decoder
        self.resolution = resolution
        self.temperature_steps = temperature_steps
        self.num_inference_slots = num_inference_slots
        self.merge_overlap = merge_overlap
        self.temperature = FIRST_TEMPERATURE

    def trained(self) -> dict[str, nn.Module]:
        """All of it, from scratch, jointly."""
        return {
            "encoder": self.encoder,
            "slot_encoder": self.slot_encoder,
            "dvae": self.dvae,
            "decoder": self.decoder,
        }

    def begin_step(self, step: int) -> None:
        """Lower the temperature."""
        progress = min(step / self.temperature_steps, 1.0)
        span = FIRST_TEMPERATURE - LAST_TEMPERATURE
        self.temperature = LAST_TEMPERATURE + span * (1 + math.cos(math.pi * progress)) / 2

    def forward(self, batch: Batch) -> tuple[Tensor, Logs]:
        """The loss of one batch of `pixel_values` in [-1, 1].

        `slot_noise` overrides the slots' draw. Words are drawn while the objective trains, and the
        likeliest while it is measured.
        """
        pixel_values = batch["pixel_values"]
        logits = self.dvae.encode(pixel_values).float()
        relaxed, words = self._words(logits)
        mse = F.mse_loss(self.dvae.decode(relaxed).float(), pixel_values.float())

        out = self.slot_encoder(self.encoder(pixel_values), noise=batch.get("slot_noise"))
        written = words.flatten(2).transpose(1, 2)  # [B, N, V], one word each
        said = self.decoder(written, out.slots).float()
        cross_entropy = F.cross_entropy(said.flatten(0, 1), written.flatten(0, 1).argmax(dim=1))
        logs = collapse_alarms(out.slots, out.attention)
        logs |= {"mse": mse.detach(), "cross_entropy": cross_entropy.detach()}
        return mse + cross_entropy, logs

    def _words(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """For the painter, and for the transformer: words `[B, V, h, w]`, relaxed and one-hot."""
        relaxed = F.gumbel_softmax(logits, tau=self.temperature, dim=1) if self.training else logits
        words = F.one_hot(relaxed.argmax(dim=1), logits.shape[1]).permute(0, 3, 1, 2).to(logits)
        return (relaxed if self.training else words), words

    def to_pipeline(self) -> SlatePipeline:
        """The model as a pipeline that shares these weights."""
        return SlatePipeline(
            encoder=self.encoder,
            slot_encoder=self.slot_encoder,
            dvae=self.dvae,
            decoder=self.decoder,
            resolution=self.resolution,
            num_inference_slots=self.num_inference_slots,
            merge_overlap=self.merge_overlap,
        )
