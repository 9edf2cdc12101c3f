"""Training Latent Slot Diffusion (Jiang et al., 2023, Sec. 3): denoise latents, given the slots.

Dimensions: B batch, K slots, D slot channels, C latent channels, h w latent size.
"""

from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL
from diffusers.training_utils import compute_snr
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from latentslots.fingerprint import model_fingerprint
from latentslots.models import PatchDecoder, ResidualEncoder, SlotEncoder, SlotUNet, UNetEncoder
from latentslots.models.autoencoder import scale_latents
from latentslots.models.cross_attention import start_recording, stop_recording, token_grids
from latentslots.models.dinov2_encoder import DINOv2Encoder
from latentslots.models.stable_diffusion import StableDiffusionUNet
from latentslots.objectives.auxiliary.alignment import (
    Alignment,
    FixedTwin,
    attention_distance,
    choose_half,
    share_noise,
    swap_slots,
)
from latentslots.objectives.auxiliary.patch import check_needed, check_patch_decoder, patch_loss
from latentslots.objectives.base import Batch, Logs, SlotObjective, collapse_alarms
from latentslots.pipelines.lsd import (
    LatentSlotDiffusionPipeline,
    default_sampler,
)
from latentslots.pipelines.merging import check_inference
from latentslots.pipelines.pretrained import Pretrained
from latentslots.pipelines.slot_layout import predict_slot_layout

NO_ALIGNMENT = Alignment()


class Noisy(NamedTuple):
    """Latents as the denoiser gets them, how noisy, and what it shall say of them."""

    latents: Float[Tensor, "B C h w"]
    timesteps: Int[Tensor, " B"]
    target: Float[Tensor, "B C h w"]


class LatentSlotDiffusionObjective(SlotObjective):
    """The mean squared error of a denoiser that sees the image's slots, and nothing else.

    Differs from the paper where a patch decoder is given: the same slots must then also let an MLP
    paint the colors of the image. A denoiser hardly notices which slot holds what; an MLP that
    mixes slots cell by cell does, so that slots become objects (docs/lab-notes.md). What it says of
    which slot made what can teach the slots' attention, as in SPOT (Kakogeorgiou et al., 2024,
    https://arxiv.org/abs/2312.00648), but soft, informed by the image, and from the first step on,
    without a teacher that was trained before.

    Args:
        encoder: Image to feature map; learns, unless it is pretrained.
        slot_encoder: Feature map to slots to conditioning; learns.
        unet: The denoiser; learns, as far as it is not pretrained.
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
        alignment: Losses that tie slots to things.
        num_inference_slots: For the pipeline: slots to look for; 0 for as many as in training.
        merge_overlap: For the pipeline: slots whose masks overlap more become one; 0 for never.
        pretrained: For the pipeline: where parts come from that it need not copy.
        include_pretrained: Whether saved pipelines hold them nevertheless.

    Raises:
        ValueError: If a number is out of its range, or one of patch decoder and weight is given
            without the other, or masks are to be distilled without a patch decoder.
    """

    def __init__(
        self,
        *,
        encoder: UNetEncoder | ResidualEncoder | DINOv2Encoder,
        slot_encoder: SlotEncoder,
        unet: SlotUNet | StableDiffusionUNet,
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
        alignment: Alignment = NO_ALIGNMENT,
        num_inference_slots: int = 0,
        merge_overlap: float = 0.0,
        pretrained: dict[str, Pretrained] | None = None,
        include_pretrained: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= condition_dropout < 1:
            raise ValueError(f"condition_dropout must be in [0, 1), got {condition_dropout}")
        if timestep_shift <= 0:
            raise ValueError(f"timestep_shift must be more than 0, got {timestep_shift}")
        check_patch_decoder(
            patch_decoder, patch_decoder_weight, mask_distillation_weight, patch_size, resolution
        )
        check_needed(
            {"patch_plain_steps": patch_plain_steps, "unet.map_channels": unet.map_channels},
            patch_decoder,
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
        self.alignment = alignment
        self.contrasts = False
        self.fixed_unet = FixedTwin()
        self.vae = vae
        self.noise_schedule = noise_schedule
        self.resolution = resolution
        self.snr_gamma = snr_gamma
        self.timestep_shift = timestep_shift
        self.condition_dropout = condition_dropout
        self.num_inference_slots = num_inference_slots
        self.merge_overlap = merge_overlap
        self.pretrained = pretrained or {}
        self.include_pretrained = include_pretrained
        self.freeze(vae)
        if alignment.guidance_weight:
            start_recording(unet, alignment.guidance_blocks)  # refuses blocks that are not there
            stop_recording(unet)

    def trained(self) -> dict[str, nn.Module]:
        """Encoder, slots and denoiser, jointly, with no warm-up; what is frozen is left out."""
        parts: dict[str, nn.Module | None] = {
            "encoder": self.encoder,
            "slot_encoder": self.slot_encoder,
            "unet": self.unet,
            "patch_decoder": self.patch_decoder,
        }
        return {
            name: part
            for name, part in parts.items()
            if part is not None and any(p.requires_grad for p in part.parameters())
        }

    def compiled(self) -> list[nn.Module]:
        """As for all, and the frozen denoiser and backbone, which take most of the time."""
        parts = [*self.trained().values(), self.encoder, self.unet]
        return list(dict.fromkeys(parts))

    def frozen_hashes(self) -> dict[str, str]:
        """As for all: of encoder, denoiser and autoencoder, where they are pretrained."""
        if self.pretrained:
            return {name: source.sha256 for name, source in self.pretrained.items()}
        return {} if self.vae is None else {"vae": self._vae_hash}

    @cached_property
    def _vae_hash(self) -> str:
        assert self.vae is not None
        return model_fingerprint(self.vae)

    def train(self, mode: bool = True) -> "LatentSlotDiffusionObjective":
        """As for all; what the backward pass wanted recorded is of no use any more."""
        stop_recording(self.unet)
        super().train(mode)
        return self

    @property
    def measures(self) -> bool:
        """As for all: where there is a patch decoder."""
        return self.patch_decoder is not None

    def measure(self, pixel_values: Float[Tensor, "B 3 H W"]) -> None:
        """The mean color, around which the patch decoder paints."""
        if self.patch_decoder is not None:
            self.patch_decoder.color_mean.copy_(pixel_values.float().mean(dim=(0, 2, 3)))

    def begin_step(self, step: int) -> None:
        """Free the patch decoder's colors, once slots have had time to part, and contrast slots."""
        late = step >= self.alignment.contrastive_start
        self.contrasts = late and self.alignment.contrastive_weight > 0
        if self.patch_decoder is not None:
            plain = self.patch_plain_steps
            freedom = 1.0 if plain == 0 else min(1.0, max(0.0, step / plain - 1))
            self.patch_decoder.freedom.fill_(freedom)

    def forward(self, batch: Batch) -> tuple[Tensor, Logs]:
        """The loss of one batch (Eq. 5).

        Args:
            batch: `pixel_values` [B, 3, H, W] in [-1, 1]; optionally `latents` (in the denoiser's
                units) or `latent_mean` and `latent_std` (in the VAE's), and `features`, in place of
                the encoder's. `noise`, `timesteps`, `slot_noise`, `posterior_noise`, `dropped`,
                `cells` and `swapped` override the draws. With `average_slots`, every image is
                painted from the mean of its slots instead.

        Returns:
            The loss, and logs: the collapse alarms; where there is more than denoising also
            `denoising_loss` and what the loss is the weighted sum of: `patch_loss` (squared error,
            in units of the patch decoder's `color_scale`) and `distillation_loss`,
            `contrastive_loss` (to be large) and `guidance_loss`.
        """
        noisy = self._make_noisy(batch)
        features = batch["features"] if "features" in batch else self.encoder(batch["pixel_values"])
        out = self.slot_encoder(features, noise=self._slot_noise(batch))
        slots = out.slots
        if batch.get("average_slots"):
            slots = slots.mean(dim=1, keepdim=True)
        attention = out.attention.unflatten(2, features.shape[-2:])
        guides = self.alignment.guidance_weight > 0 and slots.shape[1] == attention.shape[1]
        dropped = self._dropped(batch)
        looked = start_recording(self.unet, self.alignment.guidance_blocks) if guides else []
        error = self._error(noisy, slots, dropped)
        layers = self._stop(looked) if guides else []

        loss = error.mean()
        terms: list[tuple[Tensor, Logs]] = []
        if self.patch_decoder is not None and self.patch_decoder_weight:
            term = patch_loss(
                self.patch_decoder,
                batch,
                out.slots,
                attention,
                patch_size=self.patch_size,
                weight=self.patch_decoder_weight,
                distillation_weight=self.mask_distillation_weight,
            )
            terms.append(term)
        if guides:
            terms.append(self._guidance_loss(layers, attention, noisy, dropped))
        if self.contrasts and len(slots) > 1 and slots.shape[1] > 1:
            terms.append(self._contrastive_loss(batch, noisy, slots))
        logs = collapse_alarms(out.slots, out.attention)
        if terms:
            logs["denoising_loss"] = loss.detach()
        for weighted, term_logs in terms:
            loss = loss + weighted
            logs |= term_logs
        return loss, logs

    def _make_noisy(self, batch: Batch) -> Noisy:
        """Latents as the denoiser gets them, and what it shall say of them."""
        latents = self.latents(batch)
        noise = batch.get("noise")
        if noise is None:
            # Not randn_like, which draws in the order of memory: channels_last would change it.
            noise = torch.randn(latents.shape, device=latents.device)
        timesteps = batch.get("timesteps")
        if timesteps is None:
            timesteps = self._draw_timesteps(latents)
        target = noise
        if self.noise_schedule.config.prediction_type == "v_prediction":
            target = self.noise_schedule.get_velocity(latents, noise, timesteps)
        noisy_latents = self.noise_schedule.add_noise(latents, noise, timesteps)
        return Noisy(noisy_latents, timesteps, target)

    def _slot_noise(self, batch: Batch) -> Float[Tensor, "B K D"] | None:
        """Where slots start, if that is to be known here: alike in both images of a pair."""
        noise = batch.get("slot_noise")
        if noise is None and self.contrasts and self.slot_encoder.slot_log_std is not None:
            noise = share_noise(self.slot_encoder.draw_noise(len(batch["pixel_values"])))
        return noise

    def _error(
        self,
        noisy: Noisy,
        slots: Float[Tensor, "B K D"],
        dropped: Tensor | None,
        *,
        fixed: bool = False,
    ) -> Float[Tensor, " B"]:
        """The denoiser's weighted squared error on every image; held fixed, it learns nothing."""
        states, mask = self.slot_encoder.condition(slots, dropped=dropped)
        if fixed:  # registers belong to the denoiser
            own, registers = states.tensor_split([slots.shape[1]], dim=1)
            states = torch.cat([own, registers.detach()], dim=1)
        size = noisy.latents.shape[2:]
        slot_layout = predict_slot_layout(self.unet, self.patch_decoder, slots, None, size)
        unet = self.fixed_unet.of(self.unet) if fixed else self.unet
        answer = unet(noisy.latents, noisy.timesteps, states, mask, slot_layout)
        error = F.mse_loss(answer.sample.float(), noisy.target.float(), reduction="none")
        return error.mean(dim=(1, 2, 3)) * self._weight(noisy.timesteps)

    def _stop(self, looked: list[Tensor]) -> list[Tensor]:
        """What was recorded; with checkpoints, the backward pass needs the recording once more."""
        layers = list(looked)
        if torch.is_grad_enabled() and self.unet.is_gradient_checkpointing:
            start_recording(self.unet, self.alignment.guidance_blocks, keep=False)
        else:
            stop_recording(self.unet)
        return layers

    def _guidance_loss(
        self,
        layers: list[Tensor],
        attention: Float[Tensor, "B K h w"],
        noisy: Noisy,
        dropped: Tensor | None,
    ) -> tuple[Tensor, Logs]:
        """Cross-attention that looks for slots where slot attention found them.

        Images that are shown without their slots have none to look for.
        """
        height, width = noisy.latents.shape[2:]
        grids = token_grids(height, width, self.unet.num_levels)
        seen = torch.ones(len(attention)) if dropped is None else (~dropped).float()
        distance = attention_distance(layers, attention, grids, seen.to(attention.device))
        return self.alignment.guidance_weight * distance, {"guidance_loss": distance.detach()}

    def _contrastive_loss(
        self, batch: Batch, noisy: Noisy, slots: Float[Tensor, "B K D"]
    ) -> tuple[Tensor, Logs]:
        """The error with half of the slots from another image, subtracted; only slots learn."""
        chosen = batch.get("swapped")
        if chosen is None:
            chosen = choose_half(slots)
        swapped = swap_slots(slots, chosen)
        pairs = Noisy(*(part[: len(swapped)] for part in noisy))
        error = self._error(pairs, swapped, None, fixed=True).mean()
        return -self.alignment.contrastive_weight * error, {"contrastive_loss": error.detach()}

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
            pretrained=self.pretrained,
        )

    def save_pipeline(self, folder: Path) -> None:
        """Write a pipeline folder; what is pretrained is named there, or copied."""
        pipe = self.to_pipeline()
        pipe.save_pretrained(folder, include_pretrained=self.include_pretrained)
