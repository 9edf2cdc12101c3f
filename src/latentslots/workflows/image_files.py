"""Image files: listing them, opening them, and mapping masks to their pixels.

Dimensions: K slots, h w the size of masks, H W pixels of the image file.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from latentslots.config.conventions import UNSEEN
from latentslots.data.store.encoding import IMAGE_SUFFIXES, decode, read_picture
from latentslots.data.store.listing import list_files, same_name
from latentslots.pipelines.full_size import Area, central_square, check_area
from latentslots.pipelines.slot_output import upsample_masks


@dataclass(frozen=True)
class ImageFile:
    """An image from a file, and the square of it that the model sees.

    Attributes:
        path: The file.
        original: The image as it is in the file.
        image: The image, upright, RGB.
        area: The square, as left, top, right and bottom; by default the central one.

    Raises:
        ValueError: If the area is no square in the image.
    """

    path: Path
    original: Image.Image
    image: Image.Image
    area: Area | None = None

    def __post_init__(self) -> None:
        """Refuse an area outside of the image."""
        if self.area is not None:
            check_area(self.area, self.image.size)

    @property
    def name(self) -> str:
        """The name of its results."""
        return self.path.stem

    @property
    def square(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of what the model sees, in pixels."""
        return self.area or central_square(self.image.size)

    @property
    def seen(self) -> Image.Image:
        """What a pipeline is given: the area, or the whole image, of which it cuts the center."""
        return self.image if self.area is None else self.image.crop(self.area)

    def to_square(self, x: int, y: int) -> tuple[int, int]:
        """Convert coordinates in the image to coordinates in the square that the model sees.

        Raises:
            ValueError: If the pixel lies outside of the image, or of the square.
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
        """Resize masks to the square that the model sees."""
        left, _, right, _ = self.square
        return upsample_masks(masks[None], right - left)[0].cpu()

    def segmentation(self, masks: Float[Tensor, "K h w"]) -> UInt8[Tensor, "H W"]:
        """The slot with the largest mask in each pixel of the image; 255 outside of the square."""
        width, height = self.image.size
        left, top, right, bottom = self.square
        ids = torch.full((height, width), UNSEEN, dtype=torch.uint8)
        ids[top:bottom, left:right] = self.masks(masks).argmax(dim=0).to(torch.uint8)
        return ids


def open_image_file(path: str | Path, area: Area | None = None) -> ImageFile:
    """Read an image file.

    Args:
        path: The file.
        area: The square that the model sees.

    Raises:
        ValueError: If the file does not exist, or cannot be decoded as an image, or the area is no
            square in it.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no image file {path}")
    try:
        encoded, image = read_picture(path)
        original = decode({"bytes": encoded, "path": None}, where=str(path))
        return ImageFile(path, original, image, area)
    except (OSError, ValueError) as error:
        message = str(error)
        raise ValueError(message if str(path) in message else f"{path}: {message}") from error


def find_image_files(paths: Sequence[str | Path]) -> list[Path]:
    """List image files: those given, and those in the given folders in order of their names.

    Raises:
        ValueError: If no path is given, a path does not exist, a folder has none, or two files have
            the same stem, so that the results of one would overwrite those of the other.
    """
    if not paths:
        raise ValueError("no image is given: pass files, or folders of them")
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = list_files(path, IMAGE_SUFFIXES, recursive=False)
            if not inside:
                raise ValueError(f"there is no image in the folder {path}")
            found += [path / name for name in inside]
        elif path.is_file():
            found.append(path)
        else:
            raise ValueError(f"there is no file or folder {path}")
    names: dict[str, Path] = {}
    for path in found:
        other = names.setdefault(same_name(path.stem), path)
        if other != path:
            raise ValueError(f"results of {other} and {path} would have the same name: rename one")
    return list(dict.fromkeys(found))


def read_batches(
    paths: Sequence[Path], batch_size: int, *, only: Collection[Path] | None = None
) -> Iterator[tuple[list[ImageFile], list[str]]]:
    """Open image files in batches, with a sentence for each file that cannot be read.

    Args:
        paths: The files.
        batch_size: Files per batch.
        only: Batches without any of these are left out; by default none is.

    Raises:
        ValueError: If the batch size is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    for start in range(0, len(paths), batch_size):
        batch = paths[start : start + batch_size]
        if only is not None and not set(batch) & set(only):
            continue
        files, problems = [], []
        for path in batch:
            try:
                files.append(open_image_file(path))
            except ValueError as error:
                problems.append(str(error))
        yield files, problems
