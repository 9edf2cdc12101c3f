"""Edited images at the size of their photograph.

A model edits a square of few pixels. What it changed is enlarged and blended into the photograph,
of which all other pixels stay bit for bit.

Dimensions: h w pixels that the model works on, s pixels per side of its square in the photograph.
"""

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from latentslots.data.transforms import TRANSPARENT_MODES, to_rgb

Area = tuple[int, int, int, int]
"""Left, top, right and bottom of a square in pixels."""


def central_square(size: tuple[int, int]) -> Area:
    """The square that a model sees by default of an image of this width and height."""
    width, height = size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return (left, top, left + side, top + side)


def check_area(area: Area, size: tuple[int, int]) -> None:
    """Refuse an area that is no square in an image of this width and height.

    Raises:
        ValueError: If it is none.
    """
    left, top, right, bottom = area
    width, height = size
    if right - left != bottom - top or right <= left:
        raise ValueError(
            f"an area must be a square of 1 pixel or more, got {right - left} x {bottom - top}"
        )
    if not (left >= 0 and right <= width and top >= 0 and bottom <= height):
        raise ValueError(
            f"an area must lie in the image of {width} x {height} pixels, got x from {left} to "
            f"{right} and y from {top} to {bottom}"
        )


def cut_out(photograph: Image.Image, area: Area) -> Image.Image:
    """Cut a square out of an upright photograph.

    Raises:
        ValueError: If the area is no square in it.
    """
    upright = to_rgb(photograph)
    check_area(area, upright.size)
    return upright.crop(area)


def paste_into(
    photograph: Image.Image,
    edited: Float[Tensor, "3 h w"],
    weight: Float[Tensor, "1 h w"],
    area: Area | None = None,
) -> Image.Image:
    """Blend an edited square into the photograph that it was cut out of.

    Args:
        photograph: The photograph, of any mode; its EXIF rotation is applied.
        edited: The square after the edit, in [0, 1].
        weight: How much of it replaces the photograph, in [0, 1]; where it is 0, all pixels stay.
        area: Where the square lies in the upright photograph; by default it is the central one.

    Returns:
        The photograph, RGB, or RGBA if it has transparent pixels; edited ones are opaque. Keeps the
        color profile, and EXIF without the rotation.
    """
    upright = ImageOps.exif_transpose(photograph)
    transparent = upright.mode in TRANSPARENT_MODES or "transparency" in upright.info
    whole = np.array(upright.convert("RGBA") if transparent else to_rgb(upright))
    left, top, right, bottom = area or central_square(upright.size)
    size = (bottom - top, right - left)
    pixels = _resize(edited[None], size)[0].permute(1, 2, 0).clamp(0, 1) * 255
    share = _resize(weight[None], size)[0, 0].clamp(0, 1)[..., None]
    before = torch.from_numpy(whole[top:bottom, left:right].astype(np.float32))
    target = pixels if not transparent else F.pad(pixels, (0, 1), value=255.0)
    after = torch.lerp(before, target, share).round().to(torch.uint8).numpy()
    whole[top:bottom, left:right] = np.where(
        share.numpy() > 0, after, whole[top:bottom, left:right]
    )
    image = Image.fromarray(whole)
    image.info = {k: v for k, v in upright.info.items() if k in ("icc_profile", "exif", "dpi")}
    return image


def _resize(images: Float[Tensor, "B C h w"], size: tuple[int, int]) -> Float[Tensor, "B C _ _"]:
    """Resize images; not at all if they have the size, so that values stay as they are."""
    images = images.float().cpu()
    if tuple(images.shape[2:]) == size:
        return images
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
