"""Training Latent Slot Diffusion (Jiang et al., 2023, Sec. 3): denoise latents, given the slots.

Dimensions: B batch, K slots, D slot channels, C latent channels, h w latent size.
"""

import math
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.training_utils import compute_snr
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from latentslots.models import PatchDecoder, ResidualEncoder, SlotEncoder, SlotUNet, UNetEncoder
from latentslots.models.autoencoder import scale_latents
from latentslots.objectives.base import Batch, Logs, SlotObjective, collapse_alarms
from latentslots.pipelines.latent_slot_diffusion import (
    LatentSlotDiffusionPipeline,
    default_sampler,
)
from latentslots.pipelines.merging import check_inference
from latentslots.pipelines.places import slot_places

NUM_CELLS = 256
"""Patches of an image that the patch decoder paints per step, drawn anew each time."""


def mask_cross_entropy(
    masks: Float[Tensor, "B K N"], targets: Float[Tensor, "B K N"]
) -> Float[Tensor, ""]:
    """How badly soft masks foretell others, in nats per cell where the others are sure.

    A cell counts by how sure the targets are of its slot, from 0 (all slots alike) to 1 (one
    slot): targets that know nothing yet teach nothing.
    """
    entropy = -(targets * targets.clamp(min=1e-9).log()).sum(dim=1)
    sureness = 1 - entropy / math.log(max(targets.shape[1], 2))
    cross_entropy = -(targets * masks.clamp(min=1e-6).log()).sum(dim=1)
    return (sureness * cross_entropy).mean()


class LatentSlotDiffusionObjective(SlotObjective):
    """The mean squared error of a denoiser that sees the image's slots, and nothing else.

    Differs from the paper where a patch decoder is given: the same slots must then also let an MLP
    paint the colors of the image. A denoiser hardly notices which slot holds what; an MLP that
    mixes slots cell by cell does, so that slots become objects (docs/lab-notes.md). What it says of
    which slot made what can teach the slots' attention, as in SPOT (Kakogeorgiou et al., 2024,
    https://arxiv.org/abs/2312.00648), but soft, informed by the image, and from the first step on,
    without a teacher that was trained before.

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
        patch_decoder: A second decoder, which learns beside the denoiser and tells the pipeline
            which slot made which pixel; may be absent.
        patch_decoder_weight: Weight of the mean squared error of what it paints.
        patch_size: Pixels per side of the patches whose mean color it paints.
        patch_plain_steps: Steps for which it has one color for each slot; over as many again it
            becomes free to have another one at each place.
        mask_distillation_weight: Weight of the cross-entropy from the patch decoder's
            responsibilities, which are held fixed, to the attention.
        num_inference_slots: For the pipeline: slots to look for; 0 for as many as in training.
        merge_overlap: For the pipeline: slots whose masks overlap more become one; 0 for never.

    Raises:
        ValueError: If a number is out of its range, or one of patch decoder and weight is given
            without the other, or masks are to be distilled without a patch decoder.
    """

    def __init__(
        self,
        *,
        encoder: UNetEncoder | ResidualEncoder,
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
        patch_size: int = 2,
        patch_plain_steps: int = 0,
        mask_distillation_weight: float = 0.0,
        num_inference_slots: int = 0,
        merge_overlap: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= condition_dropout < 1:
            raise ValueError(f"condition_dropout must be in [0, 1), got {condition_dropout}")
        if timestep_shift <= 0:
            raise ValueError(f"timestep_shift must be more than 0, got {timestep_shift}")
        _check_patch_decoder(
            patch_decoder, patch_decoder_weight, mask_distillation_weight, patch_size, resolution
        )
        if patch_plain_steps < 0:
            raise ValueError(f"patch_plain_steps must be 0 or more, got {patch_plain_steps}")
        for name, number in (
            ("patch_plain_steps", patch_plain_steps),
            ("unet.map_channels", unet.config.map_channels),
        ):
            if number and patch_decoder is None:
                raise ValueError(
                    f"{name} needs a patch decoder: set patch_decoder_weight above 0, or both to 0"
                )
        check_inference(slot_encoder, num_inference_slots, merge_overlap)
        self.encoder = encoder
        self.slot_encoder = slot_encoder
        self.unet = unet
        self.patch_decoder = patch_decoder
        self.patch_decoder_weight = patch_decoder_weight
        self.patch_size = patch_size
        self.patch_plain_steps = patch_plain_steps
        self.mask_distillation_weight = mask_distillation_weight
        self.vae = vae
        self.noise_schedule = noise_schedule
        self.resolution = resolution
        self.snr_gamma = snr_gamma
        self.timestep_shift = timestep_shift
        self.condition_dropout = condition_dropout
        self.num_inference_slots = num_inference_slots
        self.merge_overlap = merge_overlap
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

    def measure(self, pixel_values: Float[Tensor, "B 3 H W"]) -> None:
        """The mean color, around which the patch decoder paints."""
        if self.patch_decoder is not None:
            self.patch_decoder.color_mean.copy_(pixel_values.float().mean(dim=(0, 2, 3)))

    def begin_step(self, step: int) -> None:
        """Free the patch decoder's colors, once slots have had time to part."""
        if self.patch_decoder is not None:
            plain = self.patch_plain_steps
            freedom = 1.0 if plain == 0 else min(1.0, max(0.0, step / plain - 1))
            self.patch_decoder.freedom.fill_(freedom)

    def forward(self, batch: Batch) -> tuple[Tensor, Logs]:
        """The loss of one batch (Eq. 5).

        Args:
            batch: `pixel_values` [B, 3, H, W] in [-1, 1]; optionally `latents` (in the denoiser's
                units) or `latent_mean` and `latent_std` (in the VAE's). `noise`, `timesteps`,
                `slot_noise`, `posterior_noise`, `dropped` and `cells` override the draws. With
                `average_slots`, every image is painted from the mean of its slots instead.

        Returns:
            The loss, and logs: the collapse alarms; with a patch decoder also `denoising_loss`,
            `patch_loss` (squared error, in units of the patch decoder's `color_scale`) and
            `distillation_loss`, of which the loss is the weighted sum.
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
        places = slot_places(self.unet, self.patch_decoder, slots, None, latents.shape[2:])
        prediction = self.unet(noisy_latents, timesteps, states, mask, places).sample

        target = noise
        if self.noise_schedule.config.prediction_type == "v_prediction":
            target = self.noise_schedule.get_velocity(latents, noise, timesteps)
        error = F.mse_loss(prediction.float(), target.float(), reduction="none").mean(dim=(1, 2, 3))
        loss = (error * self._weight(timesteps)).mean()
        logs = collapse_alarms(out.slots, out.attention)
        if self.patch_decoder is not None:
            attention = out.attention.unflatten(2, features.shape[-2:])
            patch_loss, patch_logs = self._patch_loss(batch, out.slots, attention)
            logs |= {"denoising_loss": loss.detach(), **patch_logs}
            loss = loss + patch_loss
        return loss, logs

    def _patch_loss(
        self,
        batch: Batch,
        slots: Float[Tensor, "B K D"],
        attention: Float[Tensor, "B K h w"],
    ) -> tuple[Tensor, Logs]:
        """What the patch decoder adds to the loss."""
        assert self.patch_decoder is not None
        patches = F.avg_pool2d(batch["pixel_values"].float(), self.patch_size)
        height, width = patches.shape[-2:]
        cells = batch.get("cells")
        if cells is None:
            cells = torch.randperm(height * width, device=patches.device)[:NUM_CELLS]
        target = patches.flatten(2)[:, :, cells].transpose(1, 2)
        painted = self.patch_decoder(slots, height=height, width=width, cells=cells)
        patch_loss = (
            F.mse_loss(painted.mixture(), target) / self.patch_decoder.config.color_scale**2
        )
        loss, logs = self.patch_decoder_weight * patch_loss, {"patch_loss": patch_loss.detach()}
        if self.mask_distillation_weight:
            fine = height >= attention.shape[2]
            masks = F.interpolate(attention, (height, width), mode="bilinear" if fine else "area")
            distillation_loss = mask_cross_entropy(
                masks.flatten(2)[:, :, cells], painted.responsibilities(target).detach()
            )
            loss = loss + self.mask_distillation_weight * distillation_loss
            logs["distillation_loss"] = distillation_loss.detach()
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
            patch_decoder=self.patch_decoder,
            resolution=self.resolution,
            num_inference_slots=self.num_inference_slots,
            merge_overlap=self.merge_overlap,
        )


def _check_patch_decoder(
    patch_decoder: PatchDecoder | None,
    patch_decoder_weight: float,
    mask_distillation_weight: float,
    patch_size: int,
    resolution: int,
) -> None:
    weights = {
        "patch_decoder_weight": patch_decoder_weight,
        "mask_distillation_weight": mask_distillation_weight,
    }
    for name, weight in weights.items():
        if not weight >= 0:
            raise ValueError(f"{name} must be 0 or above, got {weight:g}")
    if mask_distillation_weight and patch_decoder is None:
        raise ValueError(
            "mask_distillation_weight needs a patch decoder, whose masks teach: set "
            "patch_decoder_weight above 0, or both to 0"
        )
    if patch_decoder is not None and (patch_size < 1 or resolution % patch_size):
        raise ValueError(
            f"patch_size must divide the resolution of {resolution} pixels, got {patch_size}"
        )
    if (patch_decoder is None) != (patch_decoder_weight == 0):
        raise ValueError("patch_decoder and patch_decoder_weight are given together, or neither")
