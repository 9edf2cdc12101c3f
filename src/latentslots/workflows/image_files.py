"""Picture files on their way to a model and back: found, opened, cropped as the model sees them.

Dimensions: K slots, h w the size of masks, H W pixels of the original picture.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from latentslots.data.store.encoding import IMAGE_SUFFIXES, read_image
from latentslots.data.transforms import to_rgb
from latentslots.pipelines.base import upsample_masks

OUTSIDE = 255
"""Id of pixels that the model does not see."""


@dataclass(frozen=True)
class Picture:
    """A picture, and the square in its middle that a model sees.

    Attributes:
        path: Its file.
        image: The picture, upright, RGB.
    """

    path: Path
    image: Image.Image

    @property
    def name(self) -> str:
        """What files about it are called."""
        return self.path.stem

    @property
    def square(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of what the model sees, in pixels."""
        width, height = self.image.size
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return (left, top, left + side, top + side)

    def to_square(self, x: int, y: int) -> tuple[int, int]:
        """A pixel of the picture, counted in the square that the model sees.

        Raises:
            ValueError: If it lies outside of the picture, or of the square.
        """
        width, height = self.image.size
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(
                f"pixel {x},{y} lies outside of {self.path}, which has {width} x {height} pixels"
            )
        left, top, right, bottom = self.square
        if not (left <= x < right and top <= y < bottom):
            raise ValueError(
                f"pixel {x},{y} lies outside of what the model sees of {self.path}: x from {left} "
                f"to {right - 1}, y from {top} to {bottom - 1}"
            )
        return (x - left, y - top)

    def masks(self, masks: Float[Tensor, "K h w"]) -> Float[Tensor, "K H W"]:
        """A model's masks in the pixels of the square."""
        left, _, right, _ = self.square
        return upsample_masks(masks[None], right - left)[0].cpu()

    def segmentation(self, masks: Float[Tensor, "K h w"]) -> UInt8[Tensor, "H W"]:
        """The slot that took most of each pixel of the picture, 255 outside of the square."""
        width, height = self.image.size
        left, top, right, bottom = self.square
        ids = torch.full((height, width), OUTSIDE, dtype=torch.uint8)
        ids[top:bottom, left:right] = self.masks(masks).argmax(dim=0).to(torch.uint8)
        return ids


def open_picture(path: str | Path) -> Picture:
    """Read a picture file.

    Raises:
        ValueError: If there is no such file, or it is no picture that can be read.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no image file {path}")
    try:
        return Picture(path, to_rgb(read_image(path)[1]))
    except (OSError, ValueError) as error:
        said = str(error)
        raise ValueError(said if str(path) in said else f"{path}: {said}") from error


def find_pictures(paths: Sequence[str | Path]) -> list[Path]:
    """Picture files: those named, and all in the folders that are named, in order of their names.

    Raises:
        ValueError: If none is named, one is not there, a folder has none, or two files have the
            same stem, so that what is written about the one would be lost.
    """
    if not paths:
        raise ValueError("no picture is named: give files, or folders of them")
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
            if not inside:
                raise ValueError(f"there is no image in the folder {path}")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise ValueError(f"there is no file or folder {path}")
    names: dict[str, Path] = {}
    for path in found:
        if names.setdefault(path.stem, path) != path:
            raise ValueError(
                f"{names[path.stem]} and {path} would write to the same place: rename one"
            )
    return list(dict.fromkeys(found))


def batches(paths: Sequence[Path], size: int) -> Iterator[tuple[list[Picture], list[str]]]:
    """Pictures, some at a time, and what is wrong with those that cannot be read."""
    for start in range(0, len(paths), size):
        pictures, problems = [], []
        for path in paths[start : start + size]:
            try:
                pictures.append(open_picture(path))
            except ValueError as error:
                problems.append(str(error))
        yield pictures, problems
