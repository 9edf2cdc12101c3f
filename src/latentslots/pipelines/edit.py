"""Edits of images: sampling that changes an image only where the edit of its slots does.

Dimensions: B batch, h w latents, H W pixels.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional as F

from latentslots.pipelines.full_size import Area, cut_out, paste_into
from latentslots.pipelines.slot_edit import SlotEdit

NUM_INVERSION_STEPS = 50


def edit_images(
    pipe: Any,
    images: Any,
    edit: SlotEdit,
    *,
    output_type: str,
    full_size: bool,
    area: Area | None,
    **options: Any,
) -> Any:
    """Edit images by their slots; the implementation of `LatentSlotDiffusionPipeline.edit`.

    Args:
        pipe: The pipeline.
        images: See `LatentSlotDiffusionPipeline.edit`, as for the following.
        edit: The edit of their slots.
        output_type: `pil`, `np`, `pt` or `latent`.
        full_size: Whether PIL images keep their size.
        area: The square of a PIL image that is edited.
        **options: See `edit_pixels`.
    """
    if output_type not in ("pil", "np", "pt", "latent"):
        raise ValueError(f"output_type must be pil, np, pt or latent, got {output_type!r}")
    photographs = images if isinstance(images, list) else [images]
    are_pil = all(isinstance(image, Image.Image) for image in photographs)
    if area is not None:
        if len(photographs) != 1 or not are_pil:
            raise ValueError("an area applies to a single PIL image")
        images = cut_out(photographs[0], area)
    pixel_values = pipe.preprocess(images)
    as_latents = output_type == "latent"
    edited, weight = edit_pixels(pipe, pixel_values, edit, as_latents=as_latents, **options)
    if as_latents:
        return edited
    if output_type == "pil" and full_size and are_pil:
        parts = zip(photographs, edited, weight, strict=True)
        return [paste_into(one, new, share, area) for one, new, share in parts]
    edited = torch.lerp(pixel_values.to(edited) / 2 + 0.5, edited, weight.to(edited))
    if output_type in ("pil", "np"):
        edited = pipe.image_processor.pt_to_numpy(edited)
    return pipe.image_processor.numpy_to_pil(edited) if output_type == "pil" else edited


@torch.no_grad()
def edit_pixels(
    pipe: Any,
    pixel_values: Float[Tensor, "B 3 H W"],
    edit: SlotEdit,
    *,
    inversion: bool,
    blending: bool,
    paste: bool,
    margin: int,
    generator: Generator | list[Generator] | None,
    as_latents: bool = False,
    **options: Any,
) -> tuple[Tensor, Float[Tensor, "B 1 H W"]]:
    """Edit images at the size that the model sees.

    Args:
        pipe: The pipeline.
        pixel_values: The images, in [-1, 1].
        edit: The edit of their slots.
        inversion: Start from the noise of the images themselves (DDIM inversion).
        blending: Keep the images' latents outside of the edit.
        paste: Keep their pixels outside of the edit as well.
        margin: Pixels around the edit that may change with it.
        generator: Source of the starting noise.
        as_latents: Return latents, which are not pasted.
        **options: Arguments of the pipeline's call, such as `guidance_scale`.

    Returns:
        What is sampled, in [0, 1], or its latents; and how much of each pixel is to be replaced by
        it, in [0, 1].
    """
    batch_size, _, height, width = pixel_values.shape
    if tuple(edit.changed.shape) != (batch_size, height, width):
        raise ValueError(
            f"the edit must be of {batch_size} images of {height} x {width} pixels, as those given,"
            f" but `changed` has shape {list(edit.changed.shape)}; see `size` of SlotEdit.of"
        )
    before, after = edit.before, edit.after
    latents = pipe.encode_latents(pixel_values)
    if inversion:
        options["latents"] = pipe.invert(
            latents,
            before.slots,
            slots_mask=before.slots_mask,
            num_inference_steps=NUM_INVERSION_STEPS,
        )
    if blending:
        options["image_latents"] = latents
        options["edit_mask"] = edit_mask(edit.changed, latents.shape[-2:], margin=margin)
    (images,) = pipe(
        after.slots,
        slots_mask=after.slots_mask,
        generator=generator,
        height=height,
        width=width,
        output_type="latent" if as_latents else "pt",
        return_dict=False,
        **options,
    )
    weight = torch.ones_like(pixel_values[:, :1])
    if blending and paste and not as_latents:
        weight = _soften(_grow(edit.changed, margin)).maximum(edit.changed[:, None].float())
    return images, weight


def edit_mask(
    changed: Bool[Tensor, "B H W"], size: tuple[int, int] | torch.Size, *, margin: int
) -> Float[Tensor, "B 1 h w"]:
    """Latents that an edit may change: 1 where one of their pixels changes, else 0.

    Args:
        changed: The pixels.
        size: Height and width of the latents.
        margin: Width in pixels of the border around them that may change as well.
    """
    return F.adaptive_max_pool2d(_grow(changed, margin), (size[0], size[1]))


def _grow(changed: Bool[Tensor, "B H W"], margin: int) -> Float[Tensor, "B 1 H W"]:
    mask = changed[:, None].float()
    return F.max_pool2d(mask, 2 * margin + 1, stride=1, padding=margin)


def _soften(mask: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 1 H W"]:
    """The mask with an edge of two pixels; the image's own edge stays sharp."""
    return F.avg_pool2d(mask, 3, stride=1, padding=1, count_include_pad=False)
