"""Importing CLEVR as it was released (Johnson et al., 2017, https://arxiv.org/abs/1612.06890).

Images with attributes of their objects, without masks, for training and probing. CLEVR with masks
is another data set (`latentslots.data.importers.multi_object`).
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets import ClassLabel, List, Value

from latentslots.data.errors import DataError
from latentslots.data.store.encoding import read_picture
from latentslots.data.store.resumable import is_written, write_items
from latentslots.data.store.source_files import inspect_files
from latentslots.data.store.writer import StoreWriter
from latentslots.data.transforms import ResizeCenterCrop
from latentslots.files import read_json

SPLITS = {"train": "train", "validation": "val", "test": "test"}
FEATURES: dict[str, Any] = {
    "shape": ClassLabel(names=["cube", "cylinder", "sphere"]),
    "size": ClassLabel(names=["large", "small"]),
    "material": ClassLabel(names=["metal", "rubber"]),
    "color": ClassLabel(
        names=["blue", "brown", "cyan", "gray", "green", "purple", "red", "yellow"]
    ),
    "rotation": Value("float32"),
    "3d_coords": List(Value("float32"), length=3),
    "pixel_coords": List(Value("float32"), length=3),
}
_BLOCK = 500


def import_clevr(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    splits: Sequence[str] = ("train", "validation"),
    resolution: int | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> Path:
    """Write CLEVR as a store, or resume an interrupted import.

    Args:
        source: The folder `CLEVR_v1.0`, with `images/` and `scenes/`.
        out: Folder of the store, new or of an interrupted import.
        splits: Names among `SPLITS`. The objects of `test` have no attributes.
        resolution: Side in pixels to resize and crop images to; by default they are not changed.
        workers: Number of processes; by default one per core.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The folder of the store.

    Raises:
        DataError: If a file is missing or not CLEVR's.
    """
    out, root = Path(out), Path(source)
    spec = {"program": "latentslots data import", "name": "clevr", "resolution": resolution}
    for split in splits:
        if split not in SPLITS:
            raise DataError(f"CLEVR has no split {split!r}, only {', '.join(SPLITS)}")
        scenes = _scenes(root, SPLITS[split])
        source_files = inspect_files((image for image, _ in scenes), root)
        if is_written(out, split, spec, source_files):
            continue
        writer = StoreWriter(
            out,
            split,
            kind="clevr",
            license="CC-BY-4.0",
            credit="Johnson et al., 2017, https://cs.stanford.edu/people/jcjohns/clevr",
            attributes=None if split == "test" else FEATURES,
            made_by=spec,
            source=source_files.fingerprint,
        )
        write_items(
            writer,
            [(str(image), attributes, resolution) for image, attributes in scenes],
            _rows,
            block_size=_BLOCK,
            spec=spec,
            source=f"{source}: {source_files.names_fingerprint}",
            workers=workers,
            progress=progress,
            expected_bytes=0 if resolution else source_files.num_bytes,
        )
    return out


def _scenes(root: Path, name: str) -> list[tuple[Path, dict[str, Any] | None]]:
    """List the images in order, each with the attributes of its objects if they are known."""
    folder = root / "images" / name
    images = {path.name: path for path in sorted(folder.glob(f"CLEVR_{name}_*.png"))}
    if not images:
        raise DataError(f"{folder} holds no images such as CLEVR_{name}_000000.png")
    if name == "test":
        return [(path, None) for path in images.values()]
    file = root / "scenes" / f"CLEVR_{name}_scenes.json"
    if not file.is_file():
        raise DataError(f"there is no file {file}")
    try:
        scenes = read_json(file)["scenes"]
        attributes = {
            scene["image_filename"]: {
                name: [thing[name] for thing in scene["objects"]] for name in FEATURES
            }
            for scene in scenes
        }
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is not a file of CLEVR's scenes: {error!r}") from error
    counts = Counter(scene["image_filename"] for scene in scenes)
    twice = next((file_name for file_name, count in counts.items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{file} lists two scenes of the image {twice}")
    unmatched = sorted(set(images) ^ set(attributes))
    if unmatched:
        other = file if unmatched[0] in images else folder
        more = f", nor are {len(unmatched) - 1} others" if len(unmatched) > 1 else ""
        raise DataError(f"{unmatched[0]} is not in {other}{more}")
    return [(path, attributes[name]) for name, path in images.items()]


def _rows(
    items: Sequence[tuple[str, dict[str, Any] | None, int | None]],
) -> Iterator[dict[str, Any]]:
    for path, attributes, resolution in items:
        encoded, decoded = read_picture(path)
        image: Any = encoded
        if resolution is not None:
            image, _ = ResizeCenterCrop(resolution)(decoded, None)
        yield {"image": image, "attributes": attributes, "source": Path(path).name}
