"""Importing folders of frames that the official LSD's and SlotDiffusion's scripts wrote.

LSD's layout: `movi-e-train-with-label/images/00000000/00000000_image.png`, and in `labels/`, with
the same numbers, `00000000_segment.png` and `00000000_instances.json`. SlotDiffusion's layout:
`MOVi-E/train/00000000/000000.jpg` beside `000000_mask.png`.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import List, Value

from latentslots.data.errors import DataError
from latentslots.data.store.encoding import read_ids, read_picture
from latentslots.data.store.resumable import is_written, write_items
from latentslots.data.store.source_files import inspect_files
from latentslots.data.store.writer import StoreWriter
from latentslots.data.transforms import ResizeCenterCrop, check_segmentation
from latentslots.files import read_json

SPLITS = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}
"""Names of each split in such folders."""
_BLOCK = 240
_CODES = frozenset(
    {"category", "color", "material", "shape", "size"}
    | {f"{name}_label" for name in ("color", "material", "shape", "size")}
)
"""Attributes of MOVi and CLEVRTex whose integers are codes of classes, stored as bytes."""
_WRONG_FRAME_ATTRIBUTES = frozenset({"bboxes", "bbox_frames"})
"""Attributes that LSD's script writes for the wrong frames."""
_CLEVR_ATTRIBUTES = frozenset({"x", "y", "z", "pixel_coords", "rotation"})


@dataclass(frozen=True)
class _Frame:
    """The files of one frame, its video and its number."""

    image: str
    mask: str
    video: str
    number: int
    labels: str = ""


def import_dump(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    kind: Literal["lsd", "slotdiffusion"],
    *,
    resolution: int | None = None,
    license: str | None = None,
    credit: str | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> Path:
    """Write all splits of a dump as a store, or resume an interrupted import.

    The bytes of images are stored unchanged, unless they are resized. All values of objects in the
    JSON files of LSD's layout become attributes, without the padding zeros.

    Args:
        source: The folder that holds the splits.
        out: Folder of the store, new or of an interrupted import.
        kind: Layout of the folder.
        resolution: Side in pixels to resize and crop images to; by default they are not changed.
        license: License of the images, which a dump does not contain; MOVi's is Apache-2.0.
        credit: Author to be named.
        workers: Number of processes; by default one per core.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The folder of the store.

    Raises:
        DataError: If there is no split, or a file is missing or broken.
    """
    if kind not in ("lsd", "slotdiffusion"):
        raise DataError(f"kind must be lsd or slotdiffusion, got {kind!r}")
    out, root = Path(out), Path(source)
    spec = {"program": "latentslots data import", "name": f"{kind}-dump", "resolution": resolution}
    for split, folder in _splits(root, kind).items():
        frames = _lsd_frames(folder) if kind == "lsd" else _slotdiffusion_frames(folder)
        files = (name for f in frames for name in (f.image, f.mask, f.labels) if name)
        source_files = inspect_files(files, folder)
        if is_written(out, split, spec, source_files):
            continue
        features = _features(frames[0].labels) if frames[0].labels else {}
        writer = StoreWriter(
            out,
            split,
            kind=f"{kind}-dump",
            segmentation=True,
            video=True,
            attributes=features,
            license=license,
            credit=credit,
            made_by=spec,
            source=source_files.fingerprint,
        )
        write_items(
            writer,
            [(frame, resolution, tuple(features)) for frame in frames],
            _rows,
            block_size=_BLOCK,
            spec=spec,
            source=f"{source}: {source_files.names_fingerprint}",
            workers=workers,
            progress=progress,
            expected_bytes=0 if resolution else source_files.num_bytes,
        )
    return out


def _splits(root: Path, kind: str) -> dict[str, Path]:
    if not root.is_dir():
        raise DataError(f"there is no folder {root}")
    found: dict[str, Path] = {}
    for split, names in SPLITS.items():
        for name in names:
            pattern = f"*-{name}-with-label" if kind == "lsd" else name
            for folder in sorted(root.glob(pattern)):
                if split in found:
                    raise DataError(
                        f"{root} holds {split!r} twice: {found[split].name} and {folder.name}"
                    )
                found[split] = folder
    if not found:
        example = "movi-e-train-with-label" if kind == "lsd" else "train"
        raise DataError(f"{root} holds no split in the layout of {kind}, such as {example}/")
    return found


def _lsd_frames(folder: Path) -> list[_Frame]:
    frames = []
    for image in _visible((folder / "images").glob("*/*_image.png")):
        video, stem = image.parent.name, image.name.removesuffix("_image.png")
        labels = folder / "labels" / video
        if not stem.isdigit():
            raise DataError(f"{image} must be named by a number, such as 00000000_image.png")
        frames.append(
            _Frame(
                image=str(image),
                mask=str(labels / f"{stem}_segment.png"),
                video=video,
                number=int(stem),
                labels=str(labels / f"{stem}_instances.json"),
            )
        )
    return _checked(frames, folder, _visible((folder / "labels").glob("*/*_segment.png")))


def _slotdiffusion_frames(folder: Path) -> list[_Frame]:
    frames = [
        _Frame(
            image=str(image),
            mask=str(image.with_name(f"{image.stem}_mask.png")),
            video=image.parent.name,
            number=int(image.stem),
        )
        for image in _visible(folder.glob("*/*.jpg"))
        if image.stem.isdigit()
    ]
    return _checked(frames, folder, _visible(folder.glob("*/*_mask.png")))


def _visible(paths: Iterable[Path]) -> list[Path]:
    """Sort paths, without hidden files such as those that macOS adds to archives."""
    return sorted(path for path in paths if not path.name.startswith("."))


def _checked(frames: list[_Frame], folder: Path, masks: Iterable[Path]) -> list[_Frame]:
    if not frames:
        raise DataError(f"{folder} holds no images in the layout of a dump")
    unmatched = sorted(set(map(str, masks)) - {frame.mask for frame in frames})
    if unmatched:
        more = f", nor have {len(unmatched) - 1} others" if len(unmatched) > 1 else ""
        raise DataError(f"{unmatched[0]} has no image{more}")
    counts = Counter((frame.video, frame.number) for frame in frames)
    for (video, number), count in counts.items():
        if count > 1:
            raise DataError(f"{folder} holds {count} images of frame {number} of {video}")
    for frame in frames:
        for file in (frame.mask, frame.labels):
            if file and not Path(file).is_file():
                raise DataError(f"{frame.image} has no {file}")
    return frames


def _read(labels: str) -> dict[str, list[Any]]:
    """Read the attributes of the objects in a frame: a list for each name.

    Boxes are dropped, because LSD's script writes the box of the t-th frame in which an object is
    visible for frame t. For CLEVR with masks, the first entry, the background, is dropped too.
    """
    try:
        content = read_json(Path(labels))
        lists = {name: values for name, values in content.items() if isinstance(values, list)}
    except (ValueError, AttributeError) as error:
        raise DataError(f"{labels} does not list objects: {error!r}") from error
    lists = {name: values for name, values in lists.items() if name not in _WRONG_FRAME_ATTRIBUTES}
    if len({len(values) for values in lists.values()}) != 1:
        raise DataError(f"{labels} does not list objects: its lists are of different lengths")
    first = 1 if lists.keys() >= _CLEVR_ATTRIBUTES else 0
    return {name: values[first:] for name, values in lists.items()}


def _features(labels: str) -> dict[str, Any]:
    def of(value: Any, *, is_code: bool = False) -> Any:
        if isinstance(value, list):
            return List(of(value[0])) if value else List(Value("float32"))
        if isinstance(value, bool):
            return Value("bool")
        if isinstance(value, int):
            return Value("uint8" if is_code else "int32")
        return Value("string") if isinstance(value, str) else Value("float32")

    return {
        name: of(values[0], is_code=name in _CODES)
        for name, values in _read(labels).items()
        if values
    }


def _rows(
    items: Sequence[tuple[_Frame, int | None, tuple[str, ...]]],
) -> Iterator[dict[str, Any]]:
    for frame, resolution, names in items:
        encoded, decoded = read_picture(frame.image)
        mask = read_ids(frame.mask)
        try:
            check_segmentation(mask, decoded.size)
            image: Any = encoded
            ids: Any = mask
            if resolution is not None:
                image, ids = ResizeCenterCrop(resolution)(decoded, ids)
        except ValueError as error:
            raise DataError(f"{frame.mask} cannot be used: {error}") from error
        row = {
            "image": image,
            "segmentation": ids,
            "video": frame.video,
            "frame": frame.number,
            "source": Path(frame.image).name,
        }
        if names:
            row["attributes"] = _objects(frame.labels, names, int(np.asarray(mask).max()))
        yield row


def _objects(labels: str, names: Sequence[str], largest_id: int) -> dict[str, list[Any]]:
    """Read the attributes of the objects in a frame, without the padding zeros at the end."""
    lists = _read(labels)
    odd = sorted(set(names) ^ set(lists))
    if odd:
        raise DataError(
            f"{labels} and the first frame have different attributes: one lacks {odd[0]!r}"
        )
    for name in _CODES & set(names):
        for value in lists[name]:
            if isinstance(value, int) and not 0 <= value < 256:
                raise DataError(f"{labels}: {name} must be a code in 0..255, got {value}")
    count = max((len(values) for values in lists.values()), default=0)
    while count > largest_id and not any(np.any(lists[name][count - 1]) for name in names):
        count -= 1
    return {name: lists[name][:count] for name in names}
