"""Masks from the denoiser: where its cross-attention looks for each slot.

Dimensions: B batch, K slots, D slot channels, h w latent rows and columns, H W pixels, S
conditioning vectors, N tokens.
"""

from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from latentslots.models.cross_attention import record_cross_attention, token_grids
from latentslots.pipelines.base import SlotOutput, SlotPipeline, upsample_masks
from latentslots.pipelines.lsd import LatentSlotDiffusionPipeline
from latentslots.pipelines.slot_layout import predict_slot_layout

TIMESTEPS = (100, 300, 500, 700)
"""Noise levels over which the attention is averaged, of 1,000."""


class CrossAttentionPipeline(LatentSlotDiffusionPipeline):
    """The same model, whose masks are those of the denoiser.

    An image is made noisy, the denoiser is asked once at each of a few noise levels, and the mean
    of all cross-attention layers and heads says how much of every place each slot explains.
    """

    @classmethod
    def of(cls, pipe: SlotPipeline) -> "CrossAttentionPipeline":
        """A pipeline that shares the parts of another one.

        Raises:
            ValueError: If it has no denoiser, or no VAE, which images need to become latents.
        """
        if not isinstance(pipe, LatentSlotDiffusionPipeline):
            raise ValueError(f"{type(pipe).__name__} has no denoiser, and so no cross-attention")
        if pipe.vae is None:
            raise ValueError("cross-attention masks need a VAE; load the pipeline with vae=...")
        found = cls(
            **pipe.components,
            resolution=pipe.resolution,
            inference=pipe.inference,
        )
        found.set_progress_bar_config(disable=True)
        return found

    @property
    def mask_source(self) -> str:
        """Always the same."""
        return "cross-attention"

    @torch.no_grad()
    def encode_pixel_values(
        self,
        pixel_values: Float[Tensor, "B 3 H W"],
        *,
        generator: Generator | list[Generator] | None = None,
        **options: Any,
    ) -> SlotOutput:
        """As for other pipelines; the generators also draw the noise on the images."""
        scene = super().encode_pixel_values(pixel_values, generator=generator, **options)
        masks = self._attended(pixel_values, scene.slots, scene.slots_mask, generator)
        return SlotOutput(slots=scene.slots, masks=masks, slots_mask=scene.slots_mask)

    def _attended(
        self,
        pixel_values: Float[Tensor, "B 3 H W"],
        slots: Float[Tensor, "B K D"],
        slots_mask: Bool[Tensor, "B K"] | None,
        generator: Generator | list[Generator] | None,
    ) -> Float[Tensor, "B K h w"]:
        latents = self.encode_latents(pixel_values.to(self.device))
        states, mask = self.slot_encoder.condition(slots, slots_mask)
        size = (latents.shape[2], latents.shape[3])
        slot_layout = predict_slot_layout(self.unet, self.patch_decoder, slots, slots_mask, size)
        grids = token_grids(size[0], size[1], self.unet.num_levels)
        # Samplers know the noise of their own steps alone, some of them counted from the other end.
        schedule = DDPMScheduler.from_config(self.scheduler.config)
        total = slots.new_zeros(len(slots), slots.shape[1], *size)
        for level in TIMESTEPS:
            timestep = torch.full((len(latents),), level, device=self.device)
            noise = randn_tensor(
                latents.shape, generator=generator, device=self.device, dtype=latents.dtype
            )
            noisy = schedule.add_noise(latents, noise, timestep)
            with record_cross_attention(self.unet) as layers:
                self.unet(noisy, timestep, states, mask, slot_layout)
            for attention in layers:
                of_slots = attention[..., : slots.shape[1]].transpose(1, 2)
                of_slots = of_slots.unflatten(2, grids[attention.shape[1]])
                total += upsample_masks(of_slots, size)
        return total / total.sum(dim=1, keepdim=True).clamp(min=1e-9)
