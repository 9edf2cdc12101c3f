"""Training SLATE: image patches as discrete tokens, predicted by a transformer from slots.

Singh et al., 2022 (https://arxiv.org/abs/2110.11405, Sec. 3).

Dimensions: B batch, V tokens of the vocabulary, N patches.
"""

import math

from torch import Tensor
from torch.nn import functional as F

from latentslots.models import (
    AutoregressiveDecoder,
    DiscreteVAE,
    ResidualEncoder,
    SlotEncoder,
    UNetEncoder,
)
from latentslots.objectives.base import Batch, Logs, SlotObjective, collapse_metrics
from latentslots.pipelines.inference import InferenceSettings
from latentslots.pipelines.slate import SlatePipeline

FIRST_TEMPERATURE, LAST_TEMPERATURE = 1.0, 0.1


class SlateObjective(SlotObjective):
    """The squared error of the discrete autoencoder, and the cross-entropy of its tokens.

    The autoencoder is trained with a relaxation (Gumbel-softmax, Jang et al., 2017,
    https://arxiv.org/abs/1611.01144) whose temperature decreases along a cosine; backbone, slots
    and transformer are trained to predict its tokens, without gradients to the autoencoder.

    Differs from the paper: slots come from the features of an image backbone, as in its successor
    for videos (Singh et al., 2022, https://arxiv.org/abs/2205.14065), instead of from the tokens'
    embeddings, so that methods are compared on the same backbone; the transformer's tokens are the
    most probable of the relaxed ones, instead of a separate draw; and both losses are means instead
    of sums, which makes no difference to the optimizer.

    Args:
        encoder: Image to feature map; trained.
        slot_encoder: Feature map to slots; trained.
        dvae: Image to tokens, and back; trained.
        decoder: Slots to tokens; trained.
        resolution: Pixels per side of the images.
        temperature_steps: Steps in which the relaxation's temperature decreases from 1 to 0.1.
        inference: How the pipeline infers slots.

    Raises:
        ValueError: If `temperature_steps` is below 1, or `inference` does not fit the slots.
    """

    learned = ("encoder", "slot_encoder", "dvae", "decoder")
    pipeline_class = SlatePipeline

    def __init__(
        self,
        *,
        encoder: UNetEncoder | ResidualEncoder,
        slot_encoder: SlotEncoder,
        dvae: DiscreteVAE,
        decoder: AutoregressiveDecoder,
        resolution: int,
        temperature_steps: int = 30_000,
        inference: InferenceSettings = InferenceSettings(),
    ) -> None:
        super().__init__()
        if temperature_steps < 1:
            raise ValueError(f"temperature_steps must be at least 1, got {temperature_steps}")
        inference.check(slot_encoder)
        self.encoder = encoder
        self.slot_encoder = slot_encoder
        self.dvae = dvae
        self.decoder = decoder
        self.resolution = resolution
        self.temperature_steps = temperature_steps
        self.inference = inference
        self.temperature = FIRST_TEMPERATURE

    def begin_step(self, step: int) -> None:
        """Decrease the temperature."""
        progress = min(step / self.temperature_steps, 1.0)
        span = FIRST_TEMPERATURE - LAST_TEMPERATURE
        self.temperature = LAST_TEMPERATURE + span * (1 + math.cos(math.pi * progress)) / 2

    def forward(self, batch: Batch) -> tuple[Tensor, Logs]:
        """Compute the loss of one batch of `pixel_values` in [-1, 1].

        `slot_noise` overrides the draw of initial slots. Tokens are drawn in training mode, and
        are the most likely ones in evaluation mode.
        """
        pixel_values = batch["pixel_values"]
        logits = self.dvae.encode(pixel_values).float()
        relaxed, tokens = self._tokens(logits)
        mse = F.mse_loss(self.dvae.decode(relaxed).float(), pixel_values.float())

        out = self.slot_encoder(self.encoder(pixel_values), noise=batch.get("slot_noise"))
        target = tokens.flatten(2).transpose(1, 2)  # [B, N, V], one-hot
        predicted = self.decoder(target, out.slots).float()
        cross_entropy = F.cross_entropy(predicted.flatten(0, 1), target.flatten(0, 1).argmax(dim=1))
        logs = collapse_metrics(out.slots, out.attention)
        logs |= {"mse": mse.detach(), "cross_entropy": cross_entropy.detach()}
        return mse + cross_entropy, logs

    def _tokens(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens `[B, V, h, w]`, relaxed for the autoencoder and one-hot for the decoder."""
        relaxed = F.gumbel_softmax(logits, tau=self.temperature, dim=1) if self.training else logits
        tokens = F.one_hot(relaxed.argmax(dim=1), logits.shape[1]).permute(0, 3, 1, 2).to(logits)
        return (relaxed if self.training else tokens), tokens
