"""Importing a folder of image files, optionally with a parallel folder of masks."""

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from latentslots.data.errors import DataError
from latentslots.data.importers.mask_palette import Palette, ids_of_colors, read_palette
from latentslots.data.store.encoding import read_ids, read_picture
from latentslots.data.store.folder import find_images, group_of, split_files
from latentslots.data.store.listing import same_name
from latentslots.data.store.resumable import is_added, write_items
from latentslots.data.store.source_files import inspect_files, spec_fingerprint
from latentslots.data.store.writer import StoreWriter
from latentslots.data.transforms import ResizeCenterCrop, check_segmentation

logger = logging.getLogger(__name__)

_BLOCK = 500


@dataclass(frozen=True)
class _Item:
    """One image to import.

    Attributes:
        file: Path relative to the folder.
        path: Path of the image.
        mask: Path of its mask.
        palette: Ids of the colors of masks, which are ids themselves without it.
        video: Name of the video that it is a frame of.
        frame: Number of the frame.
        skip: Whether to skip it with a warning if it cannot be read.
        crop: How it is resized and cropped.
    """

    file: str
    path: str
    mask: str | None
    palette: Palette | None
    video: str | None
    frame: int | None
    skip: bool
    crop: ResizeCenterCrop | None


def _item(
    file: str,
    root: Path,
    masks: dict[str, Path] | None,
    frames: dict[str, int] | None,
    *,
    palette: Palette | None,
    skip: bool,
    crop: ResizeCenterCrop | None,
) -> _Item:
    return _Item(
        file=file,
        path=str(root / file),
        mask=str(masks[file]) if masks else None,
        palette=palette,
        video=group_of(file, "parent") if frames else None,
        frame=frames[file] if frames else None,
        skip=skip,
        crop=crop,
    )


def import_folder(
    images: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    masks: str | os.PathLike[str] | None = None,
    palette: str | os.PathLike[str] | None = None,
    glob: str | None = None,
    split: str = "train",
    validation_fraction: float | None = None,
    group_by: str = "file",
    seed: int = 0,
    name: str | None = None,
    resolution: int | None = None,
    on_bad_sample: str = "error",
    license: str | None = None,
    credit: str | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> Path:
    """Write a folder of images as one split of a store, or as `train` and `validation`.

    An interrupted import is resumed; a split that was made from the same files is kept.

    Every file is decoded once, so that broken files are found now. The bytes of images are stored
    unchanged, unless a resolution is given.

    Args:
        images: Folder with images at any depth.
        out: Folder of the store, new or existing.
        masks: Folder with an image of ids for every image, at the same relative path up to the
            suffix; 0 is the background.
        palette: JSON file of ids by color, such as `{"#ff0000": 1}`, if the masks are pictures.
        glob: Only the images that match, such as `**/*_rgb.png`.
        split: Split to write, which the store must not have yet.
        validation_fraction: Fraction to hold out as `validation`.
        group_by: What is held out together: each `file` by itself, or all images of a `parent`
            folder, which is then their video.
        seed: Another seed holds out other images.
        name: Name of the data set; by default the store's, or else the name of the folder.
        resolution: Side in pixels to resize and crop images to; by default they are not changed.
        on_bad_sample: What to do with a file that cannot be read: raise an `error` that names it,
            or `skip` it, log its name, and at the end log how many files were skipped.
        license: License of the images.
        credit: Author to be named.
        workers: Number of processes; by default one per core.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The folder of the store.

    Raises:
        DataError: If a file is broken, an image has no mask or a mask no image, or the store has
            such a split made from other files, or holds other data.
    """
    if on_bad_sample not in ("error", "skip"):
        raise DataError(f"on_bad_sample must be 'error' or 'skip', got {on_bad_sample!r}")
    root = _folder(images)
    files = find_images(root, glob)
    mask_of = None if masks is None else _match(files, root, _folder(masks))
    if palette is not None and masks is None:
        raise DataError("a palette is for masks, and there are none")
    colors = None if palette is None else read_palette(palette)
    frames = _frames(files) if group_by == "parent" else None
    crop = None if resolution is None else ResizeCenterCrop(resolution)
    jobs: list[tuple[StoreWriter, list[_Item], dict[str, Any], int]] = []
    for side, chosen in _divide(files, split, validation_fraction, group_by, seed).items():
        skip = on_bad_sample == "skip"
        items = [
            _item(file, root, mask_of, frames, palette=colors, skip=skip, crop=crop)
            for file in chosen
        ]
        source_files = inspect_files((item.path for item in items), root)
        spec = {
            "images": source_files.fingerprint,
            "masks": inspect_files((i.mask for i in items if i.mask), masks or root).fingerprint,
            "options": [group_by, resolution, on_bad_sample, *([colors] if colors else [])],
        }
        if is_added(Path(out), side, spec_fingerprint(spec)):
            continue
        writer = StoreWriter(
            out,
            side,
            name=name,
            license=license,
            credit=credit,
            segmentation=mask_of is not None,
            video=frames is not None,
            source=spec_fingerprint(spec),
        )
        block_spec = {  # of names alone, so that a broken file can be replaced before resuming
            "options": spec["options"],
            "names": source_files.names_fingerprint,
            "masks": None if masks is None else os.fspath(masks),
        }
        jobs.append((writer, items, block_spec, 0 if resolution else source_files.num_bytes))
    num_skipped = _write(jobs, root, workers=workers, progress=progress)
    if num_skipped:
        logger.warning("skipped %d of %d images", num_skipped, len(files))
    return Path(out)


def _write(
    jobs: Sequence[tuple[StoreWriter, list[_Item], dict[str, Any], int]],
    root: Path,
    *,
    workers: int | None,
    progress: bool,
) -> int:
    """Write the splits, once all are known to be valid; returns the number of skipped images."""
    num_skipped = 0
    for writer, items, spec, expected_bytes in jobs:
        write_items(
            writer,
            items,
            _rows,
            block_size=_BLOCK,
            spec=spec,
            source=root,
            workers=workers,
            progress=progress,
            expected_bytes=expected_bytes,
        )
        num_skipped += len(items) - writer.num_rows
    return num_skipped


def _rows(items: Sequence[_Item]) -> Iterator[dict[str, Any]]:
    for item in items:
        try:
            image, ids = _read(item)
        except DataError as error:
            if not item.skip:
                raise
            logger.warning("skipped: %s", error)
            continue
        yield {
            "image": image,
            "segmentation": ids,
            "video": item.video,
            "frame": item.frame,
            "source": item.file,
        }


def _divide(
    files: Sequence[str],
    split: str,
    validation_fraction: float | None,
    group_by: str,
    seed: int,
) -> dict[str, list[str]]:
    if validation_fraction is None:
        return {split: list(files)}
    if split != "train":
        raise DataError(f"with a validation_fraction, split must be 'train', got {split!r}")
    return split_files(files, validation_fraction=validation_fraction, group_by=group_by, seed=seed)


def _read(item: _Item) -> tuple[bytes | Image.Image, Image.Image | None]:
    encoded, image = read_picture(item.path)
    ids = None if item.mask is None else read_ids(item.mask)
    try:
        if ids is not None:
            if item.palette is not None:
                ids = ids_of_colors(ids, item.palette)
            elif ids.mode in ("RGB", "RGBA"):
                raise DataError("it is in color: state which color is which id in a palette")
            check_segmentation(ids, image.size)
        return (encoded, ids) if item.crop is None else item.crop(image, ids)
    except ValueError as error:
        raise DataError(f"{item.mask or item.path} cannot be used: {error}") from error


def _folder(path: str | os.PathLike[str]) -> Path:
    if not Path(path).is_dir():
        raise DataError(f"there is no folder {path}")
    return Path(path)


def _match(files: Sequence[str], root: Path, masks: Path) -> dict[str, Path]:
    """Find the mask of every image, and refuse images without a mask and masks without an image."""
    mask_of: dict[str, Path] = {}
    for mask in find_images(masks):
        if _stem(mask) in mask_of:
            raise DataError(f"{masks} has two masks for {_stem(mask)!r}")
        mask_of[_stem(mask)] = masks / mask
    unmatched = sorted({_stem(file) for file in files} - set(mask_of))
    if unmatched:
        raise DataError(f"{_list_some(unmatched)} in {root} without a mask in {masks}")
    unmatched = sorted(set(mask_of) - {_stem(file) for file in files})
    if unmatched:
        raise DataError(f"{_list_some(unmatched)} in {masks} without an image in {root}")
    return {file: mask_of[_stem(file)] for file in files}


def _frames(files: Sequence[str]) -> dict[str, int]:
    """Number the frames of every video in natural order: `frame_10` follows `frame_9`."""
    videos = defaultdict(list)
    for file in files:
        videos[group_of(file, "parent")].append(file)
    return {
        file: number
        for members in videos.values()
        for number, file in enumerate(sorted(members, key=_natural_order))
    }


def _natural_order(file: str) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", file)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _stem(file: str) -> str:
    return same_name(PurePosixPath(file).with_suffix("").as_posix())


def _list_some(names: Sequence[str]) -> str:
    """The first three names and the number of the others, with a verb."""
    shown = ", ".join(repr(name) for name in names[:3])
    verb = "is" if len(names) == 1 else "are"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{shown}{more} {verb}"
