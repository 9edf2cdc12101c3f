"""Segmentations that anybody made, from folders of pictures and from arrays.

Dimensions: I images, K slots, H W pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image
from torch import Tensor

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
        source: Where they come from.
        names: Of the images: file names without their ending, or numbers.
        entries: For each, a file or an array.
    """

    source: str
    names: tuple[str, ...]
    entries: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, name: str) -> np.ndarray:
        """One segmentation: ids `[H, W]`, or soft masks `[K, H, W]`.

        Raises:
            ValueError: If it is neither.
        """
        entry = self.entries[self.names.index(name)]
        if isinstance(entry, np.ndarray):
            found = entry
        elif entry.suffix == ".npy":
            found = _load_array(entry)
        else:
            try:
                with Image.open(entry) as picture:
                    found = to_ids(picture).numpy()
            except (OSError, ValueError) as error:
                raise ValueError(f"{entry} cannot be read as a segmentation: {error}") from error
        is_ids = found.ndim == 2 and found.dtype.kind in "iub"
        if not is_ids and not (found.ndim == 3 and found.dtype.kind in "fiub"):
            raise ValueError(
                f"image {name} of {self.source} must hold ids [H, W] or masks [K, H, W], got "
                f"{found.dtype} {list(found.shape)}"
            )
        return found


def open_masks(source: str | Path) -> MaskFiles:
    """Find the segmentations of a folder, of an array file, or of an archive of one array.

    Args:
        source: A folder of pictures of ids (PNG) or of `.npy` files, one for each image; or a
            `.npy` or `.npz` file with ids `[I, H, W]` or soft masks `[I, K, H, W]`.

    Raises:
        ValueError: If there is nothing of the kind.
    """
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        if not files:
            raise ValueError(f"{path} holds no masks: files ending in {', '.join(SUFFIXES)}")
        names = [file.stem for file in files]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{path} holds two files for image {twice[0]}")
        return MaskFiles(str(path), tuple(names), tuple(files))
    if path.suffix not in ARRAYS or not path.is_file():
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
    predictions: MaskFiles, targets: MaskFiles, *, ignore_id: int | None = None
) -> Iterator[SegmentationPair]:
    """Prediction, truth and pixels that count of every image, in the order of the truths.

    A prediction of another size than its truth is brought to it: soft masks bilinearly, ids by the
    nearest pixel. Soft masks tell how many slots there are; of ids, only those that pixels have.

    Args:
        predictions: Ids, or soft masks that sum to 1.
        targets: Ids; 0 is the background.
        ignore_id: Id of pixels that do not count.

    Raises:
        ValueError: If the images are not the same, or one is not what it must be.
    """
    missing = sorted(set(targets.names) - set(predictions.names))
    if missing:
        raise ValueError(
            f"{predictions.source} lacks image {missing[0]}, which {targets.source} has "
            f"({len(missing)} of {len(targets)} are missing)"
        )
    extra = sorted(set(predictions.names) - set(targets.names))
    if extra:
        raise ValueError(
            f"{targets.source} lacks image {extra[0]}, which {predictions.source} has "
            f"({len(extra)} of {len(predictions)} have no truth)"
        )
    for name in targets.names:
        yield read_pair(predictions, targets, name, ignore_id=ignore_id)


def read_pair(
    predictions: MaskFiles, targets: MaskFiles, name: str, *, ignore_id: int | None = None
) -> SegmentationPair:
    """As `paired_segmentations`, of one image that both have.

    Raises:
        ValueError: If one is not what it must be.
    """
    truth = targets.read(name)
    if truth.ndim != 2:
        raise ValueError(
            f"image {name} of {targets.source} must hold ids [H, W], got {list(truth.shape)}"
        )
    target = torch.from_numpy(truth.astype(np.int64))
    valid = None if ignore_id is None else target != ignore_id
    target = target if valid is None else torch.where(valid, target, 0)
    _check_ids(target, f"image {name} of {targets.source}")
    where = f"image {name} of {predictions.source}"
    pred, num_slots = _hard(predictions.read(name), (target.shape[0], target.shape[1]), where)
    _check_ids(pred, where)
    return SegmentationPair(pred, target, valid, num_slots)


def _check_ids(ids: Int64[Tensor, "H W"], where: str) -> None:
    low, high = (int(end) for end in ids.aminmax())
    if low < 0 or high > LARGEST_ID:
        raise ValueError(
            f"ids of {where} must be from 0 to {LARGEST_ID}, got {low if low < 0 else high}"
        )


def _hard(
    found: np.ndarray, size: tuple[int, int], where: str
) -> tuple[Int64[Tensor, "H W"], int | None]:
    """The segment of every pixel, at a size, and how many slots there are where masks tell."""
    if found.ndim == 2:
        return resize_ids(torch.from_numpy(found.astype(np.int64)), size), None
    masks = torch.from_numpy(found.astype(np.float32))
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
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as an array: {error}") from error
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded as archive:
        if len(archive.files) != 1:
            raise ValueError(
                f"{path} must hold one array, got {len(archive.files)}: {', '.join(archive.files)}"
            )
        return archive[archive.files[0]]
