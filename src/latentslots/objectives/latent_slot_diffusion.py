"""Training Latent Slot Diffusion (Jiang et al., 2023, Sec. 3): denoise latents, given the slots.

Dimensions: B batch, K slots, D slot channels, C latent channels, h w latent size.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.training_utils import compute_snr
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from latentslots.models import PatchDecoder, SlotEncoder, SlotUNet, UNetEncoder
from latentslots.models.autoencoder import scale_latents
from latentslots.objectives.base import Batch, Logs, Objective, collapse_alarms
from latentslots.pipelines.latent_slot_diffusion import (
    LatentSlotDiffusionPipeline,
    default_sampler,
)


class LatentSlotDiffusionObjective(Objective):
    """The mean squared error of a denoiser that sees the image's slots, and nothing else.

    Differs from the paper where a patch decoder is given: the same slots must then also let an MLP
    rebuild the latents. A denoiser hardly notices which slot holds what; an MLP that mixes slots
    cell by cell does, so that slots become objects (docs/lab-notes.md).

    Args:
        encoder: Image to feature map; learns.
        slot_encoder: Feature map to slots to conditioning; learns.
        unet: The denoiser; learns.
        noise_schedule: A diffusers scheduler; its `prediction_type` says what the target is.
        vae: The frozen autoencoder; may be absent where batches carry latents and no pixels are
            painted.
        resolution: Pixels per side of the images.
        snr_gamma: Min-SNR weighting (Hang et al., 2023, https://arxiv.org/abs/2303.09556); 0 = off.
        timestep_shift: Draw timesteps toward high noise (Esser et al., 2024, Eq. 23,
            https://arxiv.org/abs/2403.03206); 1 draws them evenly.
        condition_dropout: Share of images shown without their slots.
        patch_decoder: A second decoder, which learns beside the denoiser and is not part of the
            pipeline; may be absent.
        patch_decoder_weight: Weight of the mean squared error of what it rebuilds.

    Raises:
        ValueError: If a number is out of its range, or one of patch decoder and weight is given
            without the other.
    """

    def __init__(
        self,
        *,
        encoder: UNetEncoder,
        slot_encoder: SlotEncoder,
        unet: SlotUNet,
        noise_schedule: Any,
        vae: AutoencoderKL | None,
        resolution: int,
        snr_gamma: float = 0.0,
        timestep_shift: float = 1.0,
        condition_dropout: float = 0.0,
        patch_decoder: PatchDecoder | None = None,
        patch_decoder_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= condition_dropout < 1:
            raise ValueError(f"condition_dropout must be in [0, 1), got {condition_dropout}")
        if timestep_shift <= 0:
            raise ValueError(f"timestep_shift must be more than 0, got {timestep_shift}")
        if not patch_decoder_weight >= 0:
            raise ValueError(
                f"patch_decoder_weight must be 0 or above, got {patch_decoder_weight:g}"
            )
        if (patch_decoder is None) != (patch_decoder_weight == 0):
            raise ValueError(
                "patch_decoder and patch_decoder_weight are given together, or neither"
            )
        self.encoder = encoder
        self.slot_encoder = slot_encoder
        self.unet = unet
        self.patch_decoder = patch_decoder
        self.patch_decoder_weight = patch_decoder_weight
        self.vae = vae
        self.noise_schedule = noise_schedule
        self.resolution = resolution
        self.snr_gamma = snr_gamma
        self.timestep_shift = timestep_shift
        self.condition_dropout = condition_dropout
        self.freeze(vae)

    def trained(self) -> dict[str, nn.Module]:
        """Encoder, slots and denoiser: all from scratch, jointly, with no warm-up."""
        parts: dict[str, nn.Module] = {
            "encoder": self.encoder,
            "slot_encoder": self.slot_encoder,
            "unet": self.unet,
        }
        if self.patch_decoder is not None:
            parts["patch_decoder"] = self.patch_decoder
        return parts

    def forward(self, batch: Batch) -> tuple[Tensor, Logs]:
        """The loss of one batch (Eq. 5).

        Args:
            batch: `pixel_values` [B, 3, H, W] in [-1, 1]; optionally `latents` (in the denoiser's
                units) or `latent_mean` and `latent_std` (in the VAE's). `noise`, `timesteps`,
                `slot_noise`, `posterior_noise` and `dropped` override the draws. With
                `average_slots`, every image is painted from the mean of its slots instead.

        Returns:
            The loss, and logs: the collapse alarms; with a patch decoder also `denoising_loss` and
            `patch_loss`, of which the loss is the weighted sum.
        """
        latents = self.latents(batch)
        noise = batch.get("noise")
        if noise is None:
            # Not randn_like, which draws in the order of memory: channels_last would change it.
            noise = torch.randn(latents.shape, device=latents.device)
        timesteps = batch.get("timesteps")
        if timesteps is None:
            timesteps = self._draw_timesteps(latents)
        noisy_latents = self.noise_schedule.add_noise(latents, noise, timesteps)

        features = self.encoder(batch["pixel_values"])
        out = self.slot_encoder(features, noise=batch.get("slot_noise"))
        slots = out.slots
        if batch.get("average_slots"):
            slots = slots.mean(dim=1, keepdim=True)
        states, mask = self.slot_encoder.condition(slots, dropped=self._dropped(batch))
        prediction = self.unet(noisy_latents, timesteps, states, mask).sample

        target = noise
        if self.noise_schedule.config.prediction_type == "v_prediction":
            target = self.noise_schedule.get_velocity(latents, noise, timesteps)
        error = F.mse_loss(prediction.float(), target.float(), reduction="none").mean(dim=(1, 2, 3))
        loss = (error * self._weight(timesteps)).mean()
        logs = collapse_alarms(out.slots, out.attention)
        if self.patch_decoder is not None:
            height, width = latents.shape[-2:]
            rebuilt = self.patch_decoder(out.slots, height=height, width=width).sample
            patch_loss = F.mse_loss(rebuilt, latents.float())
            logs |= {"denoising_loss": loss.detach(), "patch_loss": patch_loss.detach()}
            loss = loss + self.patch_decoder_weight * patch_loss
        return loss, logs

    @torch.no_grad()
    def latents(
        self, batch: Batch, *, generator: Generator | None = None
    ) -> Float[Tensor, "B C h w"]:
        """A sample of the VAE's posterior in the denoiser's units: cached, or encoded now."""
        if "latents" in batch:
            return batch["latents"]
        if self.vae is None:
            raise ValueError("without latents in the batch, the objective needs a VAE")
        if "latent_mean" in batch:
            mean, std = batch["latent_mean"], batch["latent_std"]
        else:
            posterior = self.vae.encode(batch["pixel_values"].to(self.vae.dtype)).latent_dist
            mean, std = posterior.mean.float(), posterior.std.float()
        noise = batch.get("posterior_noise")
        if noise is None:
            noise = randn_tensor(mean.shape, generator=generator, device=mean.device)
        return scale_latents(self.vae, mean + std * noise)

    def _draw_timesteps(self, latents: Float[Tensor, "B C h w"]) -> Int[Tensor, " B"]:
        steps = self.noise_schedule.config.num_train_timesteps
        if self.timestep_shift == 1:
            return torch.randint(steps, (len(latents),), device=latents.device)
        share = torch.rand(len(latents), device=latents.device)
        share = self.timestep_shift * share / (1 + (self.timestep_shift - 1) * share)
        return (share * steps).long().clamp(max=steps - 1)

    def _dropped(self, batch: Batch) -> Tensor | None:
        """Which images are shown without their slots (classifier-free guidance)."""
        if self.condition_dropout == 0:
            return None
        if "dropped" in batch:
            return batch["dropped"]
        pixel_values = batch["pixel_values"]
        return torch.rand(len(pixel_values), device=pixel_values.device) < self.condition_dropout

    def _weight(self, timesteps: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Min-SNR weights: a cap on how much nearly clean images count."""
        if self.snr_gamma == 0:
            return torch.ones_like(timesteps, dtype=torch.float32)
        snr = compute_snr(self.noise_schedule, timesteps)
        capped = snr.clamp(max=self.snr_gamma)
        if self.noise_schedule.config.prediction_type == "v_prediction":
            return capped / (snr + 1)
        return capped / snr

    def to_pipeline(self) -> LatentSlotDiffusionPipeline:
        """The model as a pipeline that shares these weights."""
        return LatentSlotDiffusionPipeline(
            encoder=self.encoder,
            slot_encoder=self.slot_encoder,
            unet=self.unet,
            scheduler=default_sampler(self.noise_schedule),
            vae=self.vae,
            resolution=self.resolution,
        )

    def save_pipeline(self, folder: Path) -> None:
        """Write a pipeline folder."""
        self.to_pipeline().save_pretrained(folder)
