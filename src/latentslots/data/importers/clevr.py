"""Importing CLEVR as it was released (Johnson et al., 2017, https://arxiv.org/abs/1612.06890).

Images and what is in them, without masks: to learn from, and to probe. The data set with masks is
another one (`latentslots.data.importers.multi_object`).
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets import ClassLabel, List, Value

from latentslots.data.errors import DataError
from latentslots.data.store.encoding import read_picture
from latentslots.data.store.resumable import is_written, write_items
from latentslots.data.store.sources import source_of
from latentslots.data.store.writer import StoreWriter
from latentslots.data.transforms import ResizeCenterCrop

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
    """Write CLEVR as a store; one that is half written is gone on with.

    Args:
        source: The folder `CLEVR_v1.0`, with `images/` and `scenes/`.
        out: Folder of the store, new or half written.
        splits: Of `SPLITS`. Nothing is known of the objects of `test`.
        resolution: Resize the shortest side to this, and crop the center.
        workers: Processes; by default one per core.
        progress: Whether to show a bar on stderr.

    Returns:
        The folder of the store.

    Raises:
        DataError: If a file is missing or none of CLEVR's.
    """
    out, root = Path(out), Path(source)
    spec = {"program": "latentslots data import", "name": "clevr", "resolution": resolution}
    for split in splits:
        if split not in SPLITS:
            raise DataError(f"CLEVR has no split {split!r}, only {', '.join(SPLITS)}")
        scenes = _scenes(root, SPLITS[split])
        made_of = source_of((image for image, _ in scenes), root)
        if is_written(out, split, spec, made_of):
            continue
        writer = StoreWriter(
            out,
            split,
            kind="clevr",
            license="CC-BY-4.0",
            credit="Johnson et al., 2017, https://cs.stanford.edu/people/jcjohns/clevr",
            attributes=None if split == "test" else FEATURES,
            made_by=spec,
            source=made_of.fingerprint,
        )
        write_items(
            writer,
            [(str(image), things, resolution) for image, things in scenes],
            _rows,
            block_size=_BLOCK,
            spec=spec,
            source=f"{source}: {made_of.names}",
            workers=workers,
            progress=progress,
            expected_bytes=0 if resolution else made_of.num_bytes,
        )
    return out


def _scenes(root: Path, name: str) -> list[tuple[Path, dict[str, Any] | None]]:
    """Images in order, each with the attributes of its objects where they are known."""
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
        scenes = json.loads(file.read_text(encoding="utf-8"))["scenes"]
        said = {
            scene["image_filename"]: {
                attribute: [thing[attribute] for thing in scene["objects"]]
                for attribute in FEATURES
            }
            for scene in scenes
        }
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is no file of CLEVR's scenes: {error!r}") from error
    lonely = sorted(set(images) ^ set(said))
    if lonely:
        other = file if lonely[0] in images else folder
        raise DataError(f"{lonely[0]} is not in {other}, and {len(lonely) - 1} others like it")
    return [(path, said[name]) for name, path in images.items()]


def _rows(
    work: Sequence[tuple[str, dict[str, Any] | None, int | None]],
) -> Iterator[dict[str, Any]]:
    for path, attributes, resolution in work:
        encoded, picture = read_picture(path)
        image: Any = encoded
        if resolution is not None:
            image, _ = ResizeCenterCrop(resolution)(picture.convert("RGB"), None)
        yield {"image": image, "attributes": attributes, "source": Path(path).name}
