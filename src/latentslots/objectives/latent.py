"""All of Latent Slot Diffusion but its loss: parts, latents, validation, the pipeline.

Dimensions: B batch, K slots, D slot channels, C latent channels, h w latent size.
"""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Generator, Tensor, nn

from latentslots.models import (
    PatchDecoder,
    ResidualEncoder,
    SlotEncoder,
    SlotUNet,
    SpriteDecoder,
    UNetEncoder,
)
from latentslots.models.autoencoder import (
    STATISTICS,
    measure_latents,
    scale_latents,
    set_latent_statistics,
)
from latentslots.models.dinov2_encoder import DINOv2Encoder
from latentslots.models.stable_diffusion import StableDiffusionUNet
from latentslots.objectives.auxiliary import AuxiliaryLoss, NoisyLatents
from latentslots.objectives.base import Batch, FixedDraws, SlotObjective
from latentslots.pipelines.conditioning import Condition
from latentslots.pipelines.inference import InferenceSettings
from latentslots.pipelines.lsd import LatentSlotDiffusionPipeline
from latentslots.pipelines.pretrained import Pretrained
from latentslots.pipelines.sampling import default_sampler

MEASURED_AT_ONCE = 32
"""Images that are encoded at once, to measure their latents."""


class LatentObjective(SlotObjective):
    """The parts of Latent Slot Diffusion, trained from scratch or between pretrained ones.

    Subclasses implement the loss: `add_noise`, `condition` and `error`.

    Args:
        encoder: Image to feature map; trained, unless it is pretrained.
        slot_encoder: Feature map to slots to conditioning; trained.
        unet: The denoiser; trained, as far as it is not pretrained.
        noise_schedule: A diffusers scheduler; its `prediction_type` determines the target.
        vae: The frozen autoencoder; may be absent if batches contain latents and no pixels are
            decoded.
        resolution: Pixels per side of the images.
        patch_decoder: Predicts the layout of slots for a denoiser with `map_channels`, and masks
            for the pipeline; trained by `PatchLoss`.
        auxiliary: Losses that are added to denoising.
        inference: How the pipeline infers slots.
        pretrained: Sources of pretrained parts, which saved pipelines reference.
        include_pretrained: Whether saved pipelines contain these parts instead.
        whiten_latents: Whether the denoiser works on latents whose channels all have a mean of 0
            and a deviation of 1, by statistics that `measure` measures.

    Raises:
        ValueError: If the denoiser needs a layout of slots and there is no patch decoder, or
            `inference` does not fit the slots.
    """

    learned = ("encoder", "slot_encoder", "unet", "patch_decoder")
    frozen = ("vae",)
    pipeline_class = LatentSlotDiffusionPipeline
    condition_dropout: float = 0.0

    def __init__(
        self,
        *,
        encoder: UNetEncoder | ResidualEncoder | DINOv2Encoder,
        slot_encoder: SlotEncoder,
        unet: SlotUNet | StableDiffusionUNet,
        noise_schedule: Any,
        vae: AutoencoderKL | None,
        resolution: int,
        patch_decoder: PatchDecoder | SpriteDecoder | None = None,
        auxiliary: Sequence[AuxiliaryLoss] = (),
        inference: InferenceSettings = InferenceSettings(),
        pretrained: dict[str, Pretrained] | None = None,
        include_pretrained: bool = False,
        whiten_latents: bool = False,
    ) -> None:
        super().__init__()
        if unet.map_channels and patch_decoder is None:
            raise ValueError(
                "unet.map_channels needs a patch decoder: set patch_decoder_weight above 0, or "
                "both to 0"
            )
        inference.check(slot_encoder, patch_decoder)
        self.encoder = encoder
        self.slot_encoder = slot_encoder
        self.unet = unet
        self.patch_decoder = patch_decoder
        self.vae = vae
        self.noise_schedule = noise_schedule
        self.resolution = resolution
        self.auxiliary = tuple(auxiliary)
        self.inference = inference
        self.pretrained = pretrained or {}
        self.include_pretrained = include_pretrained
        self.whiten_latents = whiten_latents
        self.freeze(vae)

    @abstractmethod
    def add_noise(self, batch: Batch) -> NoisyLatents:
        """Compute noisy latents and the regression target."""

    @abstractmethod
    def condition(self, slots: Tensor, size: tuple[int, int], dropped: Any = None) -> Condition:
        """Compute the conditioning of the denoiser."""

    @abstractmethod
    def error(
        self, noisy: NoisyLatents, condition: Condition, *, unet: Any = None
    ) -> Float[Tensor, " B"]:
        """Compute the error per image."""

    @torch.no_grad()
    def latents(
        self, batch: Batch, *, generator: Generator | None = None
    ) -> Float[Tensor, "B C h w"]:
        """Sample the VAE's posterior, cached or encoded now, in the denoiser's units."""
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

    def slot_noise(self, batch: Batch) -> Float[Tensor, "B K D"] | None:
        """Return the noise of initial slots, if the batch or an auxiliary loss determines it."""
        if "slot_noise" in batch:
            return batch["slot_noise"]
        draws = (added.slot_noise(batch) for added in self.auxiliary)
        return next((noise for noise in draws if noise is not None), None)

    def validation_losses(self, batch: Batch, draws: FixedDraws) -> dict[str, Tensor]:
        """Compute the denoiser's error at timesteps that are spread evenly over the images.

        Returns:
            `loss`; `loss_average_slot`, conditioned on the mean of each image's slots, which is
            equally low if slots are copies of one code of the whole image; and, with condition
            dropout, `loss_no_slots`, of the unconditional branch.
        """
        latents = self.latents(batch, generator=draws.generator)
        noise = torch.randn(latents.shape, generator=draws.generator).to(latents)
        last = self.noise_schedule.config.num_train_timesteps - 1
        timesteps = torch.linspace(0, last, draws.num_images).long()[draws.order].to(latents.device)
        noisy = self.add_noise({"latents": latents, "noise": noise, "timesteps": timesteps})
        features = self.encoder(batch["pixel_values"])
        slots = self.slot_encoder(
            features,
            pixel_values=batch.get("pixel_values"),
            noise=self.fixed_slot_noise(batch, draws),
        ).slots
        size = (latents.shape[2], latents.shape[3])
        average = slots.mean(dim=1, keepdim=True)
        losses = {
            "loss": self.error(noisy, self.condition(slots, size)),
            "loss_average_slot": self.error(noisy, self.condition(average, size)),
        }
        if self.condition_dropout > 0:
            all_dropped = torch.ones(len(slots), dtype=torch.bool, device=slots.device)
            condition = self.condition(slots, size, all_dropped)
            losses["loss_no_slots"] = self.error(noisy, condition)
        return losses

    def cacheable(self) -> dict[str, nn.Module]:
        """Return the VAE as `latents`, and the image backbone as `features` if it is frozen."""
        latents: dict[str, nn.Module] = {} if self.vae is None else {"latents": self.vae}
        return latents | super().cacheable()

    def frozen_hashes(self) -> dict[str, str]:
        """Return the hashes of pretrained parts, or of the VAE."""
        if self.pretrained:
            return {name: source.sha256 for name, source in self.pretrained.items()}
        return super().frozen_hashes()

    @property
    def has_statistics(self) -> bool:
        """Whether a patch decoder requires the mean color, or latents are to be whitened."""
        return self.patch_decoder is not None or self.whiten_latents

    def measure(self, pixel_values: Float[Tensor, "B 3 H W"]) -> None:
        """Compute the statistics of the images.

        They are the mean color, from which the patch decoder predicts deviations, and those of the
        latents, if they are to be whitened.
        """
        if self.patch_decoder is not None:
            self.patch_decoder.color_mean.copy_(pixel_values.float().mean(dim=(0, 2, 3)))
        if self.whiten_latents and self.vae is not None:
            self.frozen_hashes()  # before the VAE's config changes: those of the VAE as loaded
            measure_latents(self.vae, pixel_values.split(MEASURED_AT_ONCE))

    def trained_state(self) -> dict[str, Tensor]:
        """Return the learned tensors, and the statistics of whitened latents."""
        state = super().trained_state()
        if self.whiten_latents and self.vae is not None:
            for name in STATISTICS:
                state[f"vae.{name}"] = torch.tensor(self.vae.config[name])
        return state

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Restore learned tensors and statistics; names and shapes must match exactly."""
        if self.whiten_latents and self.vae is not None:
            state = dict(state)
            self.frozen_hashes()
            set_latent_statistics(self.vae, *(state.pop(f"vae.{name}") for name in STATISTICS))
        super().load_trained_state(state)

    def adopt_statistics(self, components: dict[str, Any], name: str) -> None:
        """Whiten latents as the model did that the weights are from.

        Raises:
            ValueError: If it did not.
        """
        if not self.whiten_latents or self.vae is None:
            return
        config = getattr(components.get("vae"), "config", {})
        if not config.get("latents_mean"):
            raise ValueError(
                f"init_from: the denoiser of {name} works on latents that are not whitened: set "
                "method.whiten_latents to false"
            )
        self.frozen_hashes()
        set_latent_statistics(self.vae, *(torch.tensor(config[key]) for key in STATISTICS))

    def begin_step(self, step: int) -> None:
        """Advance the schedules of auxiliary losses."""
        for added in self.auxiliary:
            added.begin_step(step)

    def train(self, mode: bool = True) -> "LatentObjective":
        """Switch the mode, and discard what auxiliary losses stored for a backward pass."""
        for added in self.auxiliary:
            added.reset()
        super().train(mode)
        return self

    def pipeline_options(self) -> dict[str, Any]:
        """Return the other arguments of the pipeline, among them sampler and pretrained sources."""
        scheduler = default_sampler(self.noise_schedule)
        return super().pipeline_options() | {"scheduler": scheduler, "pretrained": self.pretrained}

    def to_pipeline(self) -> LatentSlotDiffusionPipeline:
        """Return the model as a pipeline that shares these weights."""
        pipe = super().to_pipeline()
        assert isinstance(pipe, LatentSlotDiffusionPipeline)
        return pipe

    def save_pipeline(self, folder: Path) -> None:
        """Write a pipeline folder, in which pretrained parts are referenced or copied."""
        pipe = self.to_pipeline()
        pipe.save_pretrained(folder, include_pretrained=self.include_pretrained)
