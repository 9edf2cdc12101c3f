"""Importing FFHQ (Karras et al., 2019, https://arxiv.org/abs/1812.04948), in any resolution.

Faces with the numbers 0 to 69,999, of which the first 60,000 are for training. Any other folder
whose images are named by numbers can be imported, too.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from latentslots.data.errors import DataError
from latentslots.data.store.encoding import IMAGE_SUFFIXES, read_picture
from latentslots.data.store.listing import list_files
from latentslots.data.store.resumable import is_written, write_items
from latentslots.data.store.source_files import inspect_files
from latentslots.data.store.writer import StoreWriter
from latentslots.data.transforms import ResizeCenterCrop

NUM_TRAIN = 60_000
_BLOCK = 500


def import_ffhq(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    num_train: int = NUM_TRAIN,
    resolution: int | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> Path:
    """Write FFHQ as a store, or resume an interrupted import.

    Args:
        source: Folder that holds the images at any depth, such as `thumbnails128x128`.
        out: Folder of the store, new or of an interrupted import.
        num_train: Images with a lower number are `train`, all others `validation`.
        resolution: Side in pixels to resize and crop images to; by default they are not changed.
        workers: Number of processes; by default one per core.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The folder of the store.

    Raises:
        DataError: If there are no images, or two have the same number.
    """
    out = Path(out)
    images = _images(Path(source))
    spec = {
        "program": "latentslots data import",
        "name": "ffhq",
        "num_train": num_train,
        "resolution": resolution,
    }
    splits = {
        "train": [path for number, path in images.items() if number < num_train],
        "validation": [path for number, path in images.items() if number >= num_train],
    }
    for split, paths in splits.items():
        source_files = inspect_files(paths, source)
        if not paths or is_written(out, split, spec, source_files):
            continue
        writer = StoreWriter(
            out,
            split,
            kind="ffhq",
            license="CC-BY-NC-SA-4.0; of every image, see ffhq-dataset-v2.json",
            credit="NVIDIA, https://github.com/NVlabs/ffhq-dataset; images from Flickr",
            made_by=spec,
            source=source_files.fingerprint,
        )
        write_items(
            writer,
            [(str(path), resolution) for path in paths],
            _rows,
            block_size=_BLOCK,
            spec=spec,
            source=f"{source}: {source_files.names_fingerprint}",
            workers=workers,
            progress=progress,
            expected_bytes=0 if resolution else source_files.num_bytes,
        )
    return out


def _images(folder: Path) -> dict[int, Path]:
    """Find the images by their numbers."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    found: dict[int, Path] = {}
    for path in (folder / name for name in list_files(folder, IMAGE_SUFFIXES)):
        if path.stem.isdigit():
            if int(path.stem) in found:
                raise DataError(
                    f"{folder} holds number {int(path.stem)} twice: {found[int(path.stem)]} and "
                    f"{path}"
                )
            found[int(path.stem)] = path
    if not found:
        raise DataError(f"{folder} holds no images named by numbers, such as 00000.png")
    return dict(sorted(found.items()))


def _rows(items: Sequence[tuple[str, int | None]]) -> Iterator[dict[str, Any]]:
    for path, resolution in items:
        encoded, decoded = read_picture(path)
        image: Any = encoded
        if resolution is not None:
            image, _ = ResizeCenterCrop(resolution)(decoded, None)
        yield {"image": image, "source": Path(path).name}
