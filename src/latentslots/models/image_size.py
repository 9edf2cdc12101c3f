"""Image sizes that a backbone supports."""

from torch import Tensor


def check_image_size(pixel_values: Tensor, multiple: int) -> None:
    """Refuse images `[B, C, H, W]` whose sides are not multiples of a backbone's total stride.

    Raises:
        ValueError: If height or width is not a multiple of `multiple`.
    """
    height, width = pixel_values.shape[-2:]
    if height % multiple or width % multiple:
        raise ValueError(
            f"height and width of images must be multiples of {multiple} pixels, "
            f"got {height}x{width}"
        )
