"""Paint an edited image so that what was not edited stays.

Dimensions: B batch, K L slots, D slot channels, C latent channels, h w latents, H W pixels.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor
from torch.nn import functional as F

from latentslots.pipelines.lsd import LatentSlotDiffusionPipeline

NUM_INVERSION_STEPS = 50


@torch.no_grad()
def paint_edit(
    pipe: LatentSlotDiffusionPipeline,
    pixel_values: Float[Tensor, "B 3 H W"],
    before: Float[Tensor, "B K D"],
    after: Float[Tensor, "B L D"],
    changed: Bool[Tensor, "B H W"],
    *,
    before_mask: Bool[Tensor, "B K"] | None = None,
    after_mask: Bool[Tensor, "B L"] | None = None,
    inversion: bool = False,
    blending: bool = True,
    paste: bool = True,
    margin: int = 1,
    generator: Generator | list[Generator] | None = None,
    **options: Any,
) -> Any:
    """Paint images again after an edit of their slots.

    Args:
        pipe: The pipeline that found the slots.
        pixel_values: The images, in [-1, 1].
        before: Their slots.
        after: The slots after the edit.
        changed: Where something was or shall be: the masks of slots taken out and put in.
        before_mask: True for the slots that exist before, by default all.
        after_mask: True for the slots that exist after, by default all.
        inversion: Start from the noise that the images themselves come from, by DDIM inversion,
            instead of noise that is drawn.
        blending: Outside of what changed, keep the images' latents.
        paste: With blending, keep their pixels there as well, which no autoencoder gives back
            exactly; the seam is soft. Without effect on `output_type="latent"`.
        margin: Pixels around what changed that may change with it, such as a shadow's edge.
        generator: Of the starting noise, where it is drawn: one, or a list with one per image.
        **options: For painting, such as `guidance_scale` and `output_type`. Height and width are
            those of the images.

    Returns:
        The images, as `output_type` says.

    Raises:
        ValueError: If there is no such `output_type`.
    """
    output_type = options.pop("output_type", "pil")
    if output_type not in ("pil", "np", "pt", "latent"):
        raise ValueError(f"output_type must be pil, np, pt or latent, got {output_type!r}")
    options.setdefault("height", pixel_values.shape[2])
    options.setdefault("width", pixel_values.shape[3])
    latents = pipe.encode_latents(pixel_values)
    if inversion:
        options["latents"] = pipe.invert(
            latents, before, slots_mask=before_mask, num_inference_steps=NUM_INVERSION_STEPS
        )
    if blending:
        options["image_latents"] = latents
        options["edit_mask"] = edit_mask(changed, latents.shape[-2:], margin=margin)
    pasted = blending and paste and output_type != "latent"
    (images,) = pipe(
        after,
        slots_mask=after_mask,
        generator=generator,
        output_type="pt" if pasted else output_type,
        return_dict=False,
        **options,
    )
    if not pasted:
        return images
    weight = _soft(_grown(changed, margin)).maximum(changed[:, None].float()).to(images)
    images = torch.lerp(pixel_values.to(images), images * 2 - 1, weight)
    return pipe.image_processor.postprocess(images, output_type=output_type)


def edit_mask(
    changed: Bool[Tensor, "B H W"], size: tuple[int, int] | torch.Size, *, margin: int
) -> Float[Tensor, "B 1 h w"]:
    """The latents that a change of pixels may touch: 1 where one of their pixels changes.

    Args:
        changed: The pixels.
        size: Height and width of the latents.
        margin: Pixels around those that count as well.
    """
    return F.adaptive_max_pool2d(_grown(changed, margin), (size[0], size[1]))


def _grown(changed: Bool[Tensor, "B H W"], margin: int) -> Float[Tensor, "B 1 H W"]:
    mask = changed[:, None].float()
    return F.max_pool2d(mask, 2 * margin + 1, stride=1, padding=margin)


def _soft(mask: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 1 H W"]:
    """The same with an edge of two pixels; the image's own edge stays sharp."""
    return F.avg_pool2d(mask, 3, stride=1, padding=1, count_include_pad=False)
