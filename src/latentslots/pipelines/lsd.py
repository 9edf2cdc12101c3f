"""Latent Slot Diffusion (Jiang et al., 2023, https://arxiv.org/abs/2303.10834), ready to use.

Dimensions: B batch, K slots, D slot channels, C latent channels, h w latent size.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL, ImagePipelineOutput
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from latentslots.models import (
    PatchDecoder,
    ResidualEncoder,
    SlotEncoder,
    SlotUNet,
    SpriteDecoder,
    UNetEncoder,
)
from latentslots.models.autoencoder import decode_latents, downscale_factor, encode_latents
from latentslots.models.dinov2_encoder import DINOv2Encoder
from latentslots.models.stable_diffusion import StableDiffusionUNet
from latentslots.pipelines.base import ImageInput, SlotPipeline
from latentslots.pipelines.conditioning import Condition, guided_states, predict_guided
from latentslots.pipelines.edit import edit_images
from latentslots.pipelines.full_size import Area
from latentslots.pipelines.inference import InferenceSettings
from latentslots.pipelines.inversion import invert_latents
from latentslots.pipelines.merging_parts import merge_parts
from latentslots.pipelines.slot_edit import SlotEdit
from latentslots.pipelines.slot_layout import place_slots
from latentslots.pipelines.slot_output import SlotOutput

StepCallback = Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor]]
"""What diffusers calls `callback_on_step_end`."""


class LatentSlotDiffusionPipeline(SlotPipeline):
    """Images to slots, and any set of slots to an image.

    Args:
        encoder: Image to feature map.
        slot_encoder: Feature map to slots, slots to conditioning.
        unet: The denoiser.
        scheduler: A diffusers sampler for the denoiser; replace it with `pipe.scheduler =
            DDIMScheduler.from_config(pipe.scheduler.config)`.
        vae: Converts between pixels and latents. Without it the pipeline infers slots but cannot
            paint.
        patch_decoder: Predicts masks; without it, masks are the slots' attention.
        resolution: Pixels per side of the training images; by default from `unet` and `vae`.
        inference: How slots are inferred.
        pretrained: Sources of pretrained parts, by name, which saved pipelines reference.
    """

    samples = True
    _attention_masks = False
    _optional_components: list[str] = ["vae", "patch_decoder"]  # noqa: RUF012  (as in `SlotPipeline`)

    def __init__(
        self,
        encoder: UNetEncoder | ResidualEncoder | DINOv2Encoder,
        slot_encoder: SlotEncoder,
        unet: SlotUNet | StableDiffusionUNet,
        scheduler: Any,
        vae: AutoencoderKL | None = None,
        patch_decoder: PatchDecoder | SpriteDecoder | None = None,
        resolution: int | None = None,
        inference: InferenceSettings | dict[str, Any] | None = None,
        pretrained: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if vae is not None and vae.config.latent_channels != unet.latent_channels:
            raise ValueError(
                f"the denoiser works on latents of {unet.latent_channels} channels, and the VAE "
                f"has {vae.config.latent_channels}"
            )
        self.register_modules(
            encoder=encoder,
            slot_encoder=slot_encoder,
            unet=unet,
            scheduler=scheduler,
            vae=vae,
            patch_decoder=patch_decoder,
        )
        if resolution is None:
            # Without a VAE we assume the usual 8 pixels per latent.
            resolution = unet.latent_size * (8 if vae is None else downscale_factor(vae))
        self.register_inference(resolution, inference)
        self.register_pretrained(pretrained)
        self.image_processor = VaeImageProcessor()

    @torch.no_grad()
    def __call__(
        self,
        slots: Float[Tensor, "B K D"],
        *,
        slots_mask: Bool[Tensor, "B K"] | None = None,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 25,
        generator: Generator | list[Generator] | None = None,
        latents: Float[Tensor, "B C h w"] | None = None,
        image_latents: Float[Tensor, "B C h w"] | None = None,
        edit_mask: Float[Tensor, "B 1 h w"] | None = None,
        height: int | None = None,
        width: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Paint the image that a set of slots describes.

        Args:
            slots: Scenes, as `encode` returns them or as editing made them.
            slots_mask: True for the slots that exist, where scenes differ in their number.
            guidance_scale: Strength of classifier-free guidance; 1 for none. Requires a model that
                was trained with condition dropout.
            num_inference_steps: Denoising steps.
            generator: Source of the initial noise: one, or a list with one per image, which makes
                an image independent of the others in its batch.
            latents: The initial noise itself, standard normal, such as `invert` returns.
            image_latents: An image to keep outside `edit_mask`, as `encode_latents` returns it.
                After every step, the latents there are replaced by those of the image with the
                noise of that step (blended latent diffusion: Avrahami et al., 2023,
                https://arxiv.org/abs/2206.02779).
            edit_mask: Where the image may change: 1 inside, 0 outside.
            height: Height of the images in pixels; the trained resolution when absent.
            width: Width of the images in pixels; the trained resolution when absent.
            output_type: `pil`, `np` or `pt` (both in [0, 1]), or `latent`.
            return_dict: Whether to wrap the images as diffusers does.
            callback_on_step_end: Called after each step with this pipeline, the step's number, its
                timestep and `{"latents": ...}`; the latents that it returns in a dictionary
                replace those. What it raises ends sampling.

        Raises:
            ValueError: If shapes do not fit, or pixels are requested from a pipeline without a VAE.
        """
        self._check_inputs(slots, slots_mask, output_type, generator, latents)
        kept = self._check_kept_image(image_latents, edit_mask, len(slots), height, width)
        batch_size = slots.shape[0]
        slots = slots.to(self.device, self.slot_encoder.dtype)
        slots_mask = None if slots_mask is None else slots_mask.to(self.device)
        states, mask = guided_states(self.slot_encoder, slots, slots_mask, guidance_scale)

        if generator is not None and not isinstance(generator, list):
            generator = [generator] * batch_size
        self.scheduler.set_timesteps(num_inference_steps, device=self.device)
        if latents is None:
            shape = self._latents_shape(batch_size, height, width)
            latents = randn_tensor(shape, generator=generator, device=self.device)
        condition = Condition(states, mask, *self._places(slots, slots_mask, latents.shape[2:]))
        latents = self._denoise(
            latents.to(self.device, self.unet.dtype),
            partial(predict_guided, self.unet, condition=condition, guidance_scale=guidance_scale),
            generator,
            kept=kept,
            callback=callback_on_step_end,
        )
        images = self._decode(latents, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def edit(
        self,
        images: ImageInput,
        edit: SlotEdit,
        *,
        inversion: bool = False,
        blending: bool = True,
        paste: bool = True,
        margin: int = 1,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 25,
        generator: Generator | list[Generator] | None = None,
        output_type: str = "pil",
        full_size: bool = True,
        area: Area | None = None,
        callback_on_step_end: StepCallback | None = None,
    ) -> ImagePipelineOutput:
        """Edit images by their slots, and keep what the edit does not change.

        Args:
            images: PIL images, or arrays and tensors in [0, 1], as for `encode`.
            edit: The edit of their slots, for pixels of the size that `preprocess` returns.
            inversion: Start from the noise that the images themselves come from (`invert`), instead
                of noise drawn from `generator`.
            blending: Outside of the changed pixels, keep the images' latents (`image_latents` and
                `edit_mask` of the call).
            paste: With blending, also keep the pixels there, which no autoencoder reproduces
                exactly; the seam is softened. Has no effect on `output_type="latent"`.
            margin: Pixels around the changed ones that may change with them, such as the edge of a
                shadow.
            guidance_scale: Strength of classifier-free guidance; 1 for none.
            num_inference_steps: Denoising steps.
            generator: Source of the starting noise: one, or a list with one per image.
            output_type: `pil`, `np` or `pt` (both in [0, 1]), or `latent`.
            full_size: Return PIL images, if given, at their own size: what the edit changes is
                enlarged and blended into them, and all other pixels stay as they are. Applies to
                `output_type="pil"`.
            area: Left, top, right and bottom of the square of a PIL image that the edit is of, as
                cut out for `encode`; by default the central one.
            callback_on_step_end: See the call.

        Raises:
            ValueError: If the edit is of other images than these, or a value is out of its range.
        """
        edited = edit_images(
            self,
            images,
            edit,
            output_type=output_type,
            full_size=full_size,
            area=area,
            inversion=inversion,
            blending=blending,
            paste=paste,
            margin=margin,
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
            generator=generator,
            callback_on_step_end=callback_on_step_end,
        )
        return ImagePipelineOutput(images=edited)

    @property
    def mask_source(self) -> str:
        """`patch decoder`, where there is one and its masks are used, else `attention`."""
        by_attention = self._attention_masks or self.patch_decoder is None
        return "attention" if by_attention else "patch decoder"

    def use_attention_masks(self) -> None:
        """Use the slots' attention as masks, but not once saved; the denoiser keeps its map.

        Parts are no longer merged by `merge_error`, whose masks are those of what slots paint.
        """
        if self.inference.merge_error:
            self.set_inference(merge_error=0.0)
        self._attention_masks = True

    def _scene(
        self,
        slots: Float[Tensor, "B K D"],
        attention: Float[Tensor, "B K h w"],
        features: Float[Tensor, "B C h w"],
        pixel_values: Float[Tensor, "B 3 H W"],
    ) -> SlotOutput:
        max_error, decoder = self.inference.merge_error, self.patch_decoder
        if not max_error or not isinstance(decoder, SpriteDecoder):
            return super()._scene(slots, attention, features, pixel_values)
        slots, exist = merge_parts(
            slots,
            attention,
            features,
            pixel_values,
            slot_encoder=self.slot_encoder,
            decoder=decoder,
            max_error=max_error,
        )
        slots_mask = None if exist.all() else exist
        masks = decoder.segment(slots, pixel_values, slots_mask)
        return SlotOutput(slots=slots, masks=masks, slots_mask=slots_mask, has_frames=True)

    def masks_of(
        self,
        slots: Float[Tensor, "B K D"],
        attention: Float[Tensor, "B K h w"],
        pixel_values: Float[Tensor, "B 3 H W"],
    ) -> Float[Tensor, "B K _ _"]:
        """Compute the patch decoder's responsibilities for each pixel, else the attention."""
        if self._attention_masks or self.patch_decoder is None:
            return attention
        return self.patch_decoder.segment(slots, pixel_values)

    @torch.no_grad()
    def encode_latents(self, pixel_values: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Encode pixel values in [-1, 1] as latents in the denoiser's units.

        Raises:
            ValueError: If the pipeline has no VAE.
        """
        if self.vae is None:
            raise ValueError("this pipeline has no VAE to encode images with; load it with vae=...")
        return encode_latents(self.vae, pixel_values)

    @torch.no_grad()
    def invert(
        self,
        image_latents: Float[Tensor, "B C h w"],
        slots: Float[Tensor, "B K D"],
        *,
        slots_mask: Bool[Tensor, "B K"] | None = None,
        num_inference_steps: int = 50,
    ) -> Float[Tensor, "B C h w"]:
        """Invert an image to the noise that it is sampled from, to start an edit (`latents`).

        DDIM backwards (Song et al., 2021, https://arxiv.org/abs/2010.02502, Sec. 4.3), without
        guidance. More steps are more exact; sampling may use another number of steps.

        Args:
            image_latents: The image, as `encode_latents` returns it.
            slots: Its slots, before they are edited.
            slots_mask: True for the slots that exist; by default all.
            num_inference_steps: Steps from the image to the noise.
        """
        slots = slots.to(self.device, self.slot_encoder.dtype)
        slots_mask = None if slots_mask is None else slots_mask.to(self.device)
        latents = image_latents.to(self.device, self.unet.dtype)
        states, mask = self.slot_encoder.condition(slots, slots_mask)
        condition = Condition(states, mask, *self._places(slots, slots_mask, latents.shape[2:]))
        return invert_latents(
            partial(predict_guided, self.unet, condition=condition, guidance_scale=1.0),
            latents,
            self.scheduler,
            num_steps=num_inference_steps,
            progress_bar=self.progress_bar,
        )

    def _places(
        self,
        slots: Float[Tensor, "B K D"],
        slots_mask: Bool[Tensor, "B K"] | None,
        size: Sequence[int],
    ) -> tuple[Float[Tensor, "B K h w"] | None, Float[Tensor, "B R h w"] | None]:
        """Predict the layout of slots, and render them, as far as the denoiser requires it."""
        return place_slots(self.unet, self.patch_decoder, slots, slots_mask, size).inputs

    def _denoise(
        self,
        noise: Float[Tensor, "B C h w"],
        predict: Callable[[Tensor, Tensor], Tensor],
        generator: list[Generator] | None,
        *,
        kept: tuple[Tensor, Tensor] | None,
        callback: StepCallback | None,
    ) -> Float[Tensor, "B C h w"]:
        """Sample latents from noise; outside of the edit mask, keep those of a given image."""
        latents, extra = noise * self.scheduler.init_noise_sigma, self._step_kwargs(generator)
        timesteps = self.scheduler.timesteps
        following = [*timesteps[1:, None], None]
        steps = zip(self.progress_bar(timesteps), following, strict=True)
        for step, (timestep, after) in enumerate(steps):
            prediction = predict(self.scheduler.scale_model_input(latents, timestep), timestep)
            latents = self.scheduler.step(prediction, timestep, latents, **extra).prev_sample
            if kept is not None:
                image, mask = (part.to(latents) for part in kept)
                image = image if after is None else self.scheduler.add_noise(image, noise, after)
                latents = torch.lerp(image, latents, mask)
            if callback is not None:
                changed = callback(self, step, timestep, {"latents": latents})
                latents = changed.get("latents", latents)
        return latents

    def _latents_shape(
        self, batch_size: int, height: int | None, width: int | None
    ) -> tuple[int, int, int, int]:
        if self.vae is not None:
            factor = downscale_factor(self.vae)
        else:
            factor = max(self.resolution // self.unet.latent_size, 1)
        for name, pixels in (("height", height), ("width", width)):
            if pixels is not None and (pixels < factor or pixels % factor):
                raise ValueError(f"{name} must be a multiple of {factor} pixels, got {pixels}")
        rows, columns = ((pixels or self.resolution) // factor for pixels in (height, width))
        return (batch_size, self.unet.latent_channels, rows, columns)

    def _check_kept_image(
        self,
        image_latents: Tensor | None,
        edit_mask: Tensor | None,
        batch_size: int,
        height: int | None,
        width: int | None,
    ) -> tuple[Tensor, Tensor] | None:
        """Check the image that an edit keeps, and the mask of where it may change."""
        if image_latents is None and edit_mask is None:
            return None
        if image_latents is None or edit_mask is None:
            raise ValueError("image_latents and edit_mask go together")
        shape = self._latents_shape(batch_size, height, width)
        wanted = {"image_latents": shape, "edit_mask": (batch_size, 1, *shape[2:])}
        for (name, size), given in zip(wanted.items(), (image_latents, edit_mask), strict=True):
            if tuple(given.shape) != size:
                raise ValueError(f"{name} must have shape {list(size)}, got {list(given.shape)}")
        return image_latents, edit_mask

    def _step_kwargs(self, generator: list[Generator] | None) -> dict[str, Any]:
        """Pass the generator to samplers that draw noise in their steps."""
        takes_generator = "generator" in inspect.signature(self.scheduler.step).parameters
        return {"generator": generator} if takes_generator else {}

    def _decode(self, latents: Float[Tensor, "B C h w"], output_type: str) -> Any:
        if output_type == "latent":
            return latents
        pixels = decode_latents(self.vae, latents).float()
        return self.image_processor.postprocess(pixels, output_type=output_type)

    def _check_inputs(
        self,
        slots: Tensor,
        slots_mask: Tensor | None,
        output_type: str,
        generator: Any,
        latents: Tensor | None,
    ) -> None:
        self.check_painting(slots, output_type, ("pil", "np", "pt", "latent"))
        if slots_mask is not None and slots_mask.shape != slots.shape[:2]:
            raise ValueError(
                f"slots_mask must have shape {list(slots.shape[:2])}, got {list(slots_mask.shape)}"
            )
        seen = slots.new_ones(slots.shape[:2]) if slots_mask is None else slots_mask
        if self.slot_encoder.registers is None and not seen.any(dim=1).all():
            raise ValueError("a scene without slots can only be painted by a model with registers")
        if latents is not None and latents.shape[0] != slots.shape[0]:
            raise ValueError(f"{len(latents)} latents were given for {slots.shape[0]} scenes")
        if isinstance(generator, list) and len(generator) != slots.shape[0]:
            raise ValueError(f"{len(generator)} generators were given for {slots.shape[0]} scenes")
        if output_type != "latent" and self.vae is None:
            raise ValueError(
                "this pipeline has no VAE, so it cannot turn latents into pixels; load it with "
                "vae=..., or pass output_type='latent'"
            )
