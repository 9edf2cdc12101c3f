"""Transforms of an image together with its segmentation, and conversion to tensors.

Images are resampled bilinearly with antialiasing, ids by nearest neighbor. Both undergo the same
geometry, so that pixel (y, x) is the same point of the scene in both.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from latentslots.device import in_double

ID_MODES = ("1", "L", "P", "I;16", "I;16L", "I;16B", "I")
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I")
_DEPTHS = (8, 12, 16)
"""Numbers of bits that gray values in files of 16 bits or more are taken to have."""
TRANSPARENT_MODES = ("RGBA", "RGBa", "LA", "PA")


@dataclass(frozen=True)
class ResizeCenterCrop:
    """Resize the shortest side to `resolution`, then crop the central square.

    Args:
        resolution: Side of the result in pixels.
    """

    resolution: int

    def __post_init__(self) -> None:
        """Reject a resolution below 1."""
        if self.resolution < 1:
            raise ValueError(f"resolution must be at least 1, got {self.resolution}")

    def __call__(
        self, image: Image.Image, segmentation: Image.Image | None = None
    ) -> tuple[Image.Image, Image.Image | None]:
        """Transform an image, and its segmentation if there is one.

        Args:
            image: Any image that `to_rgb` accepts.
            segmentation: Ids, of the size that the image has after its EXIF rotation.

        Returns:
            The RGB image and the ids, both `resolution` x `resolution`.
        """
        image = to_rgb(image)
        if segmentation is None:
            return self._apply(image, Image.Resampling.BILINEAR), None
        check_segmentation(segmentation, image.size)
        return (
            self._apply(image, Image.Resampling.BILINEAR),
            self._apply(segmentation, Image.Resampling.NEAREST),
        )

    def _apply(self, image: Image.Image, resample: Image.Resampling) -> Image.Image:
        width, height = image.size
        shortest = min(width, height)
        width = self.resolution * width // shortest
        height = self.resolution * height // shortest
        if (width, height) != image.size:
            image = image.resize((width, height), resample)
        left = round((width - self.resolution) / 2)
        top = round((height - self.resolution) / 2)
        return image.crop((left, top, left + self.resolution, top + self.resolution))


def hflip(
    image: Image.Image, segmentation: Image.Image | None = None
) -> tuple[Image.Image, Image.Image | None]:
    """Flip an image, and its segmentation if there is one, left to right."""
    flip = Image.Transpose.FLIP_LEFT_RIGHT
    flipped = None if segmentation is None else segmentation.transpose(flip)
    return image.transpose(flip), flipped


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any image to three channels of 8 bits.

    The EXIF orientation is applied. Transparent pixels become black, because files store arbitrary
    colors below full transparency. Of grayscale of more than 8 bits, the upper 8 of the bits that
    are used are kept; see `used_bits`.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB":
        return image
    if image.mode in DEEP_MODES:
        return _shrink_depth(image).convert("RGB")
    if image.mode == "F":
        raise ValueError("a floating-point image has no fixed range: save it with 8 or 16 bits")
    if image.mode in TRANSPARENT_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return image.convert("RGB")


def to_pixel_values(image: Image.Image) -> Float[Tensor, "3 H W"]:
    """Convert an image to pixels in [-1, 1], the range of all models in this package."""
    pixels = torch.from_numpy(np.array(to_rgb(image)))  # [H, W, 3]
    return pixels.permute(2, 0, 1).contiguous().float() / 127.5 - 1


def to_ids(segmentation: Image.Image) -> Int64[Tensor, "H W"]:
    """Read the ids of a segmentation: gray values, or palette indices of a palette image."""
    check_segmentation(segmentation, segmentation.size)
    ids = torch.from_numpy(np.array(segmentation).astype(np.int64))
    if segmentation.mode == "I" and (ids < 0).any():
        raise ValueError(f"ids start at 0, got {int(ids.min())}")
    return ids


def resize_ids(ids: Int64[Tensor, "H W"], size: tuple[int, int]) -> Int64[Tensor, "_ _"]:
    """Resize a segmentation to a height and width by nearest neighbor."""
    if tuple(ids.shape) == size:
        return ids
    resized = F.interpolate(in_double(ids[None, None]), size=size, mode="nearest-exact")
    return resized[0, 0].long().to(ids.device)


def check_segmentation(segmentation: Image.Image, size: tuple[int, int]) -> None:
    """Raise an error unless an image can hold the ids of an image of this (width, height)."""
    if segmentation.size != size:
        raise ValueError(
            f"the segmentation is {segmentation.width}x{segmentation.height} pixels, but its "
            f"image is {size[0]}x{size[1]}: they must have the same size"
        )
    if segmentation.mode not in ID_MODES:
        raise ValueError(
            f"a segmentation must have one channel of integers (a PIL mode of "
            f"{', '.join(ID_MODES)}), got mode {segmentation.mode!r}"
        )


def used_bits(image: Image.Image) -> int:
    """Tell how many bits the gray values of an image have: 8, 12 or 16.

    Cameras and microscopes save 12 bits in files of 16, and some programs 8: their largest value is
    16 or 256 times too small, and nothing in the file says so.

    Raises:
        ValueError: If the values are not in 0..65535.
    """
    if image.mode not in DEEP_MODES:
        return 8
    values = np.asarray(image)
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0 or highest > 65535:
        raise ValueError(
            f"gray values of mode {image.mode!r} must be in 0..65535, got {lowest}..{highest}"
        )
    return next(bits for bits in _DEPTHS if highest < 2**bits)


def _shrink_depth(image: Image.Image) -> Image.Image:
    shift = used_bits(image) - 8
    return Image.fromarray((np.asarray(image).astype(np.int64) >> shift).astype(np.uint8))
