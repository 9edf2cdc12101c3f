"""Segmentations of any origin, read from folders of images and from array files.

Dimensions: I images, K slots, H W pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from latentslots.config.conventions import SEGMENTED, UNSEEN
from latentslots.data.store.array_files import read_arrays
from latentslots.data.store.encoding import read_ids
from latentslots.data.store.listing import list_files, same_name
from latentslots.data.transforms import resize_ids, to_ids
from latentslots.evaluation.predictions import SegmentationPair
from latentslots.metrics.contingency import LARGEST_ID

SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".npy")
ARRAYS = (".npy", ".npz")
_SUM_TOLERANCE = 1e-2


@dataclass(frozen=True)
class MaskFiles:
    """Segmentations by name, read one at a time.

    Attributes:
        source: The folder or file.
        names: Names of the images: file names without their ending, or numbers.
        entries: A file or an array for each.
        unseen: Id of pixels that the model did not see, which do not count; `None` for none.
    """

    source: str
    names: tuple[str, ...]
    entries: tuple[Any, ...]
    unseen: int | None = None

    def __len__(self) -> int:
        return len(self.names)

    def read(self, name: str) -> np.ndarray:
        """Read one segmentation: ids `[H, W]`, or soft masks `[K, H, W]`.

        Raises:
            ValueError: If it is neither.
        """
        entry = self.entries[self.names.index(name)]
        if isinstance(entry, np.ndarray):
            array = entry
        elif entry.suffix.lower() == ".npy":
            array = _load_array(entry)
        else:
            try:
                array = to_ids(read_ids(entry)).numpy()
            except (OSError, ValueError) as error:
                raise ValueError(f"{entry} cannot be read as a segmentation: {error}") from error
        is_ids = array.ndim == 2 and array.dtype.kind in "iub"
        if not is_ids and not (array.ndim == 3 and array.dtype.kind in "fiub"):
            raise ValueError(
                f"image {name} of {self.source} must hold ids [H, W] or masks [K, H, W], got "
                f"{array.dtype} {list(array.shape)}"
            )
        return array


def open_masks(source: str | Path) -> MaskFiles:
    """Open the segmentations in a folder, in an array file, or in an archive of one array.

    Args:
        source: A folder of ids as images (PNG) or as `.npy` files, one for each image; a `.npy` or
            `.npz` file with ids `[I, H, W]` or soft masks `[I, K, H, W]`; or a folder that
            `latentslots segment` wrote, with a folder for each image.

    Raises:
        ValueError: If the source is none of these.
    """
    path = Path(source)
    if path.is_dir():
        segmented = sorted(path.glob(f"*/{SEGMENTED}"))
        if segmented:
            names = tuple(same_name(file.parent.name) for file in segmented)
            return MaskFiles(str(path), names, tuple(segmented), unseen=UNSEEN)
        files = [path / name for name in list_files(path, SUFFIXES, recursive=False)]
        if not files:
            raise ValueError(f"{path} holds no masks: files ending in {', '.join(SUFFIXES)}")
        names = tuple(same_name(file.stem) for file in files)
        duplicates = sorted({name for name in names if names.count(name) > 1})
        if duplicates:
            raise ValueError(f"{path} holds two files for image {duplicates[0]}")
        return MaskFiles(str(path), names, tuple(files))
    if path.suffix.lower() not in ARRAYS or not path.is_file():
        raise ValueError(
            f"{path} is neither a folder of masks nor a file ending in {' or '.join(ARRAYS)}"
        )
    array = _load_array(path)
    if array.ndim not in (3, 4):
        raise ValueError(
            f"{path} must hold ids [I, H, W] or masks [I, K, H, W], got shape {list(array.shape)}"
        )
    return MaskFiles(str(path), tuple(map(str, range(len(array)))), tuple(array))


def paired_segmentations(
    masks: MaskFiles, truth: MaskFiles, *, ignore_id: int | None = None
) -> Iterator[SegmentationPair]:
    """Yield the predicted and true segmentation of every image, in the order of the ground truth.

    Predictions are resized to their ground truth: soft masks bilinearly, ids by the nearest pixel.
    Every soft mask counts as a slot, even without pixels; of ids, only those that own pixels do.

    Args:
        masks: Predicted ids, or soft masks that sum to 1.
        truth: True ids; 0 is the background.
        ignore_id: True id of pixels that do not count.

    Raises:
        ValueError: If the two have different images, or an image is not valid.
    """
    missing = sorted(set(truth.names) - set(masks.names))
    if missing:
        raise ValueError(
            f"{masks.source} lacks image {missing[0]}, which {truth.source} has "
            f"({len(missing)} of {len(truth)} are missing)"
        )
    extra = sorted(set(masks.names) - set(truth.names))
    if extra:
        raise ValueError(
            f"{truth.source} lacks image {extra[0]}, which {masks.source} has "
            f"({len(extra)} of {len(masks)} have no truth)"
        )
    for name in truth.names:
        yield read_pair(masks, truth, name, ignore_id=ignore_id)


def read_pair(
    masks: MaskFiles, truth: MaskFiles, name: str, *, ignore_id: int | None = None
) -> SegmentationPair:
    """Read the pair of `paired_segmentations` for one image that both have.

    Raises:
        ValueError: If it is not valid.
    """
    ids = truth.read(name)
    if ids.ndim != 2:
        raise ValueError(
            f"image {name} of {truth.source} must hold ids [H, W], got {list(ids.shape)}"
        )
    target = torch.from_numpy(ids.astype(np.int64))
    valid = None if ignore_id is None else target != ignore_id
    target = target if valid is None else torch.where(valid, target, 0)
    _check_ids(target, f"image {name} of {truth.source}")
    where = f"image {name} of {masks.source}"
    pred, num_slots = _hard_segmentation(
        masks.read(name), (target.shape[0], target.shape[1]), where
    )
    _check_ids(pred, where)
    if masks.unseen is not None and (pred == masks.unseen).any():
        seen = pred != masks.unseen
        valid = seen if valid is None else valid & seen
    return SegmentationPair(pred, target, valid, num_slots)


def _check_ids(ids: Int64[Tensor, "H W"], where: str) -> None:
    low, high = (int(end) for end in ids.aminmax())
    if low < 0 or high > LARGEST_ID:
        raise ValueError(
            f"ids of {where} must be from 0 to {LARGEST_ID}, got {low if low < 0 else high}"
        )


def _hard_segmentation(
    array: np.ndarray, size: tuple[int, int], where: str
) -> tuple[Int64[Tensor, "H W"], int | None]:
    """Return the segment of every pixel at a size, and the number of slots; `None` for ids."""
    if array.ndim == 2:
        return resize_ids(torch.from_numpy(array.astype(np.int64)), size), None
    masks = torch.from_numpy(array.astype(np.float32))
    sums = masks.sum(dim=0)
    if masks.min() < 0 or not (sums - 1).abs().max() <= _SUM_TOLERANCE:
        worst = sums.flatten()[(sums - 1).abs().argmax()].item()
        raise ValueError(
            f"the masks of {where} must be 0 or above and sum to 1 over slots at every pixel, got "
            f"a sum of {worst:g} and a smallest value of {masks.min().item():g}"
        )
    if tuple(masks.shape[1:]) != size:
        masks = torch.nn.functional.interpolate(
            masks[None], size=size, mode="bilinear", align_corners=False
        )[0]
    return masks.argmax(dim=0), len(masks)


def _load_array(path: Path) -> np.ndarray:
    arrays = read_arrays(path)
    if len(arrays) != 1:
        names = f": {', '.join(arrays)}" if arrays else ""
        raise ValueError(f"{path} must hold one array, got {len(arrays)}{names}")
    return next(iter(arrays.values()))
