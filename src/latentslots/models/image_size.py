"""What the image backbones ask of an image's size."""

from torch import Tensor


def check_image_size(pixel_values: Tensor, multiple: int) -> None:
    """Refuse images `[B, C, H, W]` whose sides a backbone's strides do not divide.

    Raises:
        ValueError: If height or width is not a multiple of `multiple`.
    """
    height, width = pixel_values.shape[-2:]
    if height % multiple or width % multiple:
        raise ValueError(
            f"the encoder takes images whose sides are multiples of {multiple} pixels, "
            f"got {height}x{width}"
        )
