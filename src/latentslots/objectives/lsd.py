"""Training Latent Slot Diffusion (Jiang et al., 2023, Sec. 3): denoise latents, given the slots.

https://arxiv.org/abs/2303.10834. Differs from the paper where auxiliary losses are added.

Dimensions: B batch, K slots, D slot channels, C latent channels, h w latent size.
"""

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from diffusers.training_utils import compute_snr
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from latentslots.models import SpriteDecoder
from latentslots.objectives.auxiliary import DenoisingContext, NoisyLatents
from latentslots.objectives.base import Batch, Logs, collapse_metrics
from latentslots.objectives.latent import LatentObjective
from latentslots.objectives.unions import unite_pairs
from latentslots.pipelines.conditioning import Condition
from latentslots.pipelines.slot_layout import SlotPlaces, place_slots


class LatentSlotDiffusionObjective(LatentObjective):
    """The mean squared error of a denoiser that is conditioned on the image's slots alone.

    Args:
        snr_gamma: Min-SNR weighting (Hang et al., 2023, https://arxiv.org/abs/2303.09556); 0 = off.
        timestep_shift: Draw timesteps toward high noise (Esser et al., 2024, Eq. 23,
            https://arxiv.org/abs/2403.03206); 1 draws them uniformly.
        condition_dropout: Share of images that are denoised without their slots.
        unite_error: In training, parts of objects are united if that raises the error of the
            painted image by at most this (see `unite_pairs`); 0 for never.
        unite_from: Steps before any are united: a decoder that cannot paint objects yet paints any
            union as well as its parts.
        **parts: Networks, noise schedule, auxiliary losses: see `LatentObjective`.
    """

    def __init__(
        self,
        *,
        snr_gamma: float = 0.0,
        timestep_shift: float = 1.0,
        condition_dropout: float = 0.0,
        unite_error: float = 0.0,
        unite_from: int = 0,
        **parts: Any,
    ) -> None:
        super().__init__(**parts)
        if not 0 <= condition_dropout < 1:
            raise ValueError(f"condition_dropout must be in [0, 1), got {condition_dropout}")
        if timestep_shift <= 0:
            raise ValueError(f"timestep_shift must be more than 0, got {timestep_shift}")
        self.snr_gamma, self.timestep_shift = snr_gamma, timestep_shift
        self.condition_dropout = condition_dropout
        if not unite_error >= 0:
            raise ValueError(f"unite_error must be 0 or above, got {unite_error:g}")
        if unite_error and not isinstance(self.patch_decoder, SpriteDecoder):
            raise ValueError("unite_error needs sprites: set sprite_size above 0, or both to 0")
        self.unite_error, self.unite_from = unite_error, unite_from
        self.unites = unite_error > 0 and unite_from == 0

    def begin_step(self, step: int) -> None:
        """Advance the schedules of auxiliary losses, and unite parts from some step on."""
        super().begin_step(step)
        self.unites = self.unite_error > 0 and step >= self.unite_from

    def forward(self, batch: Batch) -> tuple[Tensor, Logs]:
        """Compute the loss of one batch (Eq. 5).

        Args:
            batch: `pixel_values` [B, 3, H, W] in [-1, 1]; optionally `latents` (in the denoiser's
                units) or `latent_mean` and `latent_std` (in the VAE's), and `features`, in place of
                the encoder's. `posterior_noise`, `noise`, `timesteps`, `slot_noise`, `dropped`,
                `pair_draws` [B, K * K] and those of auxiliary losses override the draws.

        Returns:
            The loss, and logs: the collapse metrics and, with auxiliary losses, `denoising_loss`
            and the unweighted parts of these losses.
        """
        noisy = self.add_noise(batch)
        size = (noisy.latents.shape[2], noisy.latents.shape[3])
        features = batch["features"] if "features" in batch else self.encoder(batch["pixel_values"])
        out = self.slot_encoder(
            features, pixel_values=batch.get("pixel_values"), noise=self.slot_noise(batch)
        )
        dropped = self.drop(batch)
        attention = out.attention.unflatten(2, features.shape[-2:])
        slots, exist = self.unite(out.slots, attention, features, batch)
        places = self.places(slots, size, exist)
        with ExitStack() as observers:
            for added in self.auxiliary:
                observers.enter_context(added.observe())
            condition = self.condition(slots, size, dropped, exist=exist, places=places)
            loss = self.error(noisy, condition).mean()

        logs = collapse_metrics(out.slots, out.attention)
        if exist is not None:
            logs["united"] = (~exist).any(dim=1).float().mean()
        if self.auxiliary:
            logs["denoising_loss"] = loss.detach()
            context = DenoisingContext(
                batch,
                slots,
                attention,
                noisy,
                dropped,
                condition=partial(self.condition, size=size),
                error=self.error,
                slots_mask=exist,
                scene=places.scene,
            )
            for added in self.auxiliary:
                term, parts = added.loss(context)
                loss, logs = loss + term, logs | parts
        return loss, logs

    def add_noise(self, batch: Batch) -> NoisyLatents:
        """Draw noise and timesteps; compute the noisy latents and the regression target."""
        latents = self.latents(batch)
        noise, timesteps = batch.get("noise"), batch.get("timesteps")
        if noise is None:
            # Not randn_like, which draws in the order of memory: channels_last would change it.
            noise = torch.randn(latents.shape, device=latents.device)
        if timesteps is None:
            timesteps = self.draw_timesteps(latents)
        target = noise
        if self.noise_schedule.config.prediction_type == "v_prediction":
            target = self.noise_schedule.get_velocity(latents, noise, timesteps)
        noisy_latents = self.noise_schedule.add_noise(latents, noise, timesteps)
        return NoisyLatents(noisy_latents, timesteps, target)

    def draw_timesteps(self, latents: Float[Tensor, "B C h w"]) -> Int[Tensor, " B"]:
        """Draw a timestep per image."""
        steps = self.noise_schedule.config.num_train_timesteps
        if self.timestep_shift == 1:
            return torch.randint(steps, (len(latents),), device=latents.device)
        share = torch.rand(len(latents), device=latents.device)
        share = self.timestep_shift * share / (1 + (self.timestep_shift - 1) * share)
        return (share * steps).long().clamp(max=steps - 1)

    def drop(self, batch: Batch) -> Bool[Tensor, " B"] | None:
        """Draw the images that are denoised without their slots (classifier-free guidance)."""
        if self.condition_dropout == 0:
            return None
        if "dropped" in batch:
            return batch["dropped"]
        pixel_values = batch["pixel_values"]
        return torch.rand(len(pixel_values), device=pixel_values.device) < self.condition_dropout

    def unite(
        self,
        slots: Float[Tensor, "B K D"],
        attention: Float[Tensor, "B K h w"],
        features: Float[Tensor, "B F h w"],
        batch: Batch,
    ) -> tuple[Float[Tensor, "B K D"], Bool[Tensor, "B K"] | None]:
        """Unite a pair of parts in every image, if that is to be tried; see `unite_pairs`."""
        if not self.unites or not isinstance(self.patch_decoder, SpriteDecoder):
            return slots, None
        return unite_pairs(
            slots,
            attention,
            features,
            batch["pixel_values"],
            slot_encoder=self.slot_encoder,
            decoder=self.patch_decoder,
            max_error=self.unite_error,
            draws=batch.get("pair_draws"),
        )

    def places(
        self,
        slots: Float[Tensor, "B K D"],
        size: tuple[int, int],
        exist: Bool[Tensor, "B K"] | None = None,
    ) -> SlotPlaces:
        """Predict where slots lie, and render them, as far as the denoiser requires it."""
        return place_slots(self.unet, self.patch_decoder, slots, exist, size)

    def condition(
        self,
        slots: Float[Tensor, "B K D"],
        size: tuple[int, int],
        dropped: Bool[Tensor, " B"] | None = None,
        *,
        exist: Bool[Tensor, "B K"] | None = None,
        places: SlotPlaces | None = None,
    ) -> Condition:
        """Project slots to conditioning, with `places`, by default those of the slots."""
        states, mask = self.slot_encoder.condition(slots, exist, dropped=dropped)
        if places is None:
            places = self.places(slots, size, exist)
        return Condition(states, mask, *places.inputs)

    def error(
        self, noisy: NoisyLatents, condition: Condition, *, unet: Any = None
    ) -> Float[Tensor, " B"]:
        """Compute the weighted squared error of the denoiser's prediction, per image (Eq. 5)."""
        unet = unet or self.unet
        prediction = unet(noisy.latents, noisy.timesteps, *condition).sample
        error = F.mse_loss(prediction.float(), noisy.target.float(), reduction="none")
        return error.mean(dim=(1, 2, 3)) * self.weight(noisy.timesteps)

    def weight(self, timesteps: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Compute Min-SNR weights, which limit the influence of nearly clean images."""
        if self.snr_gamma == 0:
            return torch.ones_like(timesteps, dtype=torch.float32)
        snr = compute_snr(self.noise_schedule, timesteps)
        velocity = self.noise_schedule.config.prediction_type == "v_prediction"
        return snr.clamp(max=self.snr_gamma) / (snr + 1 if velocity else snr)
