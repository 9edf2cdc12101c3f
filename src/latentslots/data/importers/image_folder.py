"""Importing a folder of image files, with a twin folder of masks if there is one."""

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image, ImageOps

from latentslots.data.errors import DataError
from latentslots.data.store.encoding import read_picture
from latentslots.data.store.folder import find_images, group_of, split_files
from latentslots.data.store.resumable import is_joined, write_items
from latentslots.data.store.sources import fingerprint, source_of
from latentslots.data.store.writer import StoreWriter
from latentslots.data.transforms import ResizeCenterCrop, check_segmentation

logger = logging.getLogger(__name__)

_BLOCK = 500


@dataclass(frozen=True)
class _Item:
    """One image, and what becomes of it."""

    file: str
    path: str
    mask: str | None
    video: str | None
    frame: int | None
    skip: bool
    crop: ResizeCenterCrop | None


def _item(
    file: str,
    root: Path,
    twins: dict[str, Path] | None,
    frames: dict[str, int] | None,
    *,
    skip: bool,
    crop: ResizeCenterCrop | None,
) -> _Item:
    return _Item(
        file=file,
        path=str(root / file),
        mask=str(twins[file]) if twins else None,
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

    A split that is half written is gone on with; one that was made of the same files stays.

    Every file is decoded once, so that a broken one is found now; stored are the bytes as they
    are, unless a resolution is asked for.

    Args:
        images: Folder with images at any depth.
        out: Folder of the store, new or existing.
        masks: Folder with one image of ids for every image, at the same relative path up to the
            suffix; 0 is the background.
        glob: Only the images that match, such as `**/*_rgb.png`.
        split: Split to write, which the store must not have yet.
        validation_fraction: Hold this share out as `validation`.
        group_by: What is held out together: each `file` by itself, or all of a `parent` folder,
            which then names a video.
        seed: Another seed holds out other images.
        name: Name of the data set; by default the store's, or else the name of the folder.
        resolution: Resize the shortest side to this and crop the center.
        on_bad_sample: What to do with a file that cannot be read: raise an `error` that names it,
            or `skip` it, log its name, and at the end log how many there were.
        license: License of the images.
        credit: Whom to name as their author.
        workers: Processes; by default one per core.
        progress: Show a bar on stderr.

    Returns:
        The folder of the store.

    Raises:
        DataError: If a file is broken or has no twin, or the store has another such split or is of
            other data.
    """
    if on_bad_sample not in ("error", "skip"):
        raise DataError(f"on_bad_sample must be 'error' or 'skip', got {on_bad_sample!r}")
    root = _folder(images)
    files = find_images(root, glob)
    twins = None if masks is None else _match(files, root, _folder(masks))
    frames = _frames(files) if group_by == "parent" else None
    crop = None if resolution is None else ResizeCenterCrop(resolution)
    jobs: list[tuple[StoreWriter, list[_Item], dict[str, Any], int]] = []
    for side, chosen in _divide(files, split, validation_fraction, group_by, seed).items():
        skip = on_bad_sample == "skip"
        items = [_item(file, root, twins, frames, skip=skip, crop=crop) for file in chosen]
        made_of = source_of((item.path for item in items), root)
        spec = {
            "images": made_of.fingerprint,
            "masks": source_of((i.mask for i in items if i.mask), masks or root).fingerprint,
            "options": [group_by, resolution, on_bad_sample],
        }
        if is_joined(Path(out), side, fingerprint(spec)):
            continue
        writer = StoreWriter(
            out,
            side,
            name=name,
            license=license,
            credit=credit,
            segmentation=twins is not None,
            video=frames is not None,
            source=fingerprint(spec),
        )
        half = {
            "options": spec["options"],
            "names": made_of.names,
            "masks": None if masks is None else os.fspath(masks),
        }
        jobs.append((writer, items, half, 0 if resolution else made_of.num_bytes))
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
    """Write splits, all of which can be; returns how many images were skipped."""
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


def _rows(work: Sequence[_Item]) -> Iterator[dict[str, Any]]:
    for item in work:
        try:
            picture, ids = _read(item.path, item.mask, item.crop)
        except DataError as error:
            if not item.skip:
                raise
            logger.warning("skipped: %s", error)
            continue
        yield {
            "image": picture,
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


def _read(
    path: str, mask: str | None, crop: ResizeCenterCrop | None
) -> tuple[bytes | Image.Image, Image.Image | None]:
    encoded, image = read_picture(path)
    ids = None if mask is None else read_picture(mask)[1]
    try:
        if ids is not None:
            check_segmentation(ids, ImageOps.exif_transpose(image).size)
        return (encoded, ids) if crop is None else crop(image, ids)
    except ValueError as error:
        raise DataError(f"{mask or path} cannot be used: {error}") from error


def _folder(path: str | os.PathLike[str]) -> Path:
    if not Path(path).is_dir():
        raise DataError(f"there is no folder {path}")
    return Path(path)


def _match(files: Sequence[str], root: Path, masks: Path) -> dict[str, Path]:
    """Find the mask of every image; each of both must have its twin."""
    found: dict[str, Path] = {}
    for mask in find_images(masks):
        if _stem(mask) in found:
            raise DataError(f"{masks} has two masks for {_stem(mask)!r}")
        found[_stem(mask)] = masks / mask
    lonely = sorted({_stem(file) for file in files} - set(found))
    if lonely:
        raise DataError(f"{_some(lonely)} in {root} without a mask in {masks}")
    lonely = sorted(set(found) - {_stem(file) for file in files})
    if lonely:
        raise DataError(f"{_some(lonely)} in {masks} without an image in {root}")
    return {file: found[_stem(file)] for file in files}


def _frames(files: Sequence[str]) -> dict[str, int]:
    """Number the frames of every video; `frame_10` comes after `frame_9`."""
    videos = defaultdict(list)
    for file in files:
        videos[group_of(file, "parent")].append(file)
    return {
        file: number
        for members in videos.values()
        for number, file in enumerate(sorted(members, key=_natural))
    }


def _natural(file: str) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", file)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _stem(file: str) -> str:
    return PurePosixPath(file).with_suffix("").as_posix()


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    verb = "is" if len(names) == 1 else "are"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{shown}{more} {verb}"
