"""Masks from the cross-attention of the denoiser to the slots.

Dimensions: B batch, K slots, D slot channels, h w latent rows and columns, H W pixels, S
conditioning vectors, N tokens.
"""

from dataclasses import replace
from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from latentslots.models.cross_attention import record_cross_attention, token_grids
from latentslots.pipelines.base import SlotPipeline
from latentslots.pipelines.lsd import LatentSlotDiffusionPipeline
from latentslots.pipelines.slot_output import SlotOutput, upsample_masks

TIMESTEPS = (100, 300, 500, 700)
"""Timesteps, of 1,000, over which the attention is averaged."""


class CrossAttentionPipeline(LatentSlotDiffusionPipeline):
    """The same model with other masks: the denoiser's cross-attention to each slot.

    The denoiser is run once on the noisy image at each of a few timesteps; its cross-attention is
    averaged over timesteps, layers and heads.
    """

    @classmethod
    def of(cls, pipe: SlotPipeline) -> "CrossAttentionPipeline":
        """Build the pipeline from the parts of another pipeline.

        Raises:
            ValueError: If that pipeline has no denoiser, or no VAE to encode images with.
        """
        if not isinstance(pipe, LatentSlotDiffusionPipeline):
            raise ValueError(f"{type(pipe).__name__} has no denoiser, and so no cross-attention")
        if pipe.vae is None:
            raise ValueError("cross-attention masks require a VAE; load the pipeline with vae=...")
        result = cls(
            **pipe.components,
            resolution=pipe.resolution,
            inference=pipe.inference,
        )
        result.set_progress_bar_config(disable=True)
        return result

    @property
    def mask_source(self) -> str:
        """Always `cross-attention`."""
        return "cross-attention"

    @torch.no_grad()
    def encode_pixel_values(
        self,
        pixel_values: Float[Tensor, "B 3 H W"],
        *,
        generator: Generator | list[Generator] | None = None,
        **options: Any,
    ) -> SlotOutput:
        """Infer slots; the generators draw slot noise and the noise that is added to the images."""
        scene = super().encode_pixel_values(pixel_values, generator=generator, **options)
        masks = self._average_attention(pixel_values, scene.slots, scene.slots_mask, generator)
        return replace(scene, masks=masks)

    def _average_attention(
        self,
        pixel_values: Float[Tensor, "B 3 H W"],
        slots: Float[Tensor, "B K D"],
        slots_mask: Bool[Tensor, "B K"] | None,
        generator: Generator | list[Generator] | None,
    ) -> Float[Tensor, "B K h w"]:
        latents = self.encode_latents(pixel_values.to(self.device))
        states, mask = self.slot_encoder.condition(slots, slots_mask)
        size = (latents.shape[2], latents.shape[3])
        places = self._places(slots, slots_mask, size)
        grids = token_grids(size[0], size[1], self.unet.num_levels)
        # Some samplers can add noise only at the timesteps of their own steps.
        schedule = DDPMScheduler.from_config(self.scheduler.config)
        total = slots.new_zeros(len(slots), slots.shape[1], *size)
        for level in TIMESTEPS:
            timestep = torch.full((len(latents),), level, device=self.device)
            noise = randn_tensor(latents.shape, generator=generator, device=self.device)
            noisy = schedule.add_noise(latents, noise.to(latents.dtype), timestep)
            with record_cross_attention(self.unet) as layers:
                self.unet(noisy, timestep, states, mask, *places)
            for attention in layers:
                of_slots = attention[..., : slots.shape[1]].transpose(1, 2)
                of_slots = of_slots.unflatten(2, grids[attention.shape[1]])
                total += upsample_masks(of_slots, size)
        return total / total.sum(dim=1, keepdim=True).clamp(min=1e-9)
