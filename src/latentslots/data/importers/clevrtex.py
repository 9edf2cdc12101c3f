"""Importing CLEVRTex (Karazija et al., 2021, https://arxiv.org/abs/2111.10265).

A scene is three files: the image, its ids as a palette PNG, and a JSON file of its objects.
"""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import ClassLabel, List, Value
from PIL import Image

from latentslots.data.errors import DataError
from latentslots.data.store.encoding import read_ids, read_picture
from latentslots.data.store.resumable import is_written, write_items
from latentslots.data.store.source_files import inspect_files
from latentslots.data.store.writer import StoreWriter
from latentslots.data.transforms import ResizeCenterCrop
from latentslots.files import read_json

logger = logging.getLogger(__name__)

VARIANTS = ("full", "pbg", "vbg", "grassbg", "camo", "outd")
"""Main data set; plain, varied and grass background; camouflaged; out of distribution."""
CROPS = {"center": (64, 24, 256, 216), "clevr": (64, 29, 256, 221)}
"""Left, upper, right and lower edge in images of 320 x 240: the authors' crop, and CLEVR's."""
NUM_SCENES = {"full": 50_000, "outd": 10_000}
"""Scenes of the variants whose number is known."""
_BLOCK = 200


@dataclass(frozen=True, kw_only=True)
class ClevrTexOptions:
    """How CLEVRTex is imported.

    Attributes:
        variant: One of `VARIANTS`.
        crop: Crop of 192 x 192 pixels, one of `CROPS`; by default images are not cropped.
        resolution: Side in pixels to resize and crop images to; by default they are not changed.
    """

    variant: str
    crop: Literal["center", "clevr"] | None = None
    resolution: int | None = None

    def __post_init__(self) -> None:
        """Reject values that are not allowed."""
        if self.variant not in VARIANTS:
            raise DataError(f"variant must be one of {', '.join(VARIANTS)}, got {self.variant!r}")
        if self.crop is not None and self.crop not in CROPS:
            raise DataError(f"crop must be one of {', '.join(CROPS)}, got {self.crop!r}")


def import_clevrtex(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: ClevrTexOptions,
    *,
    workers: int | None = None,
    progress: bool = False,
) -> Path:
    """Write CLEVRTex as a store, or resume an interrupted import.

    The splits are the authors': the first tenth of the scenes is `test`, the second `validation`,
    the rest `train`; all of `outd` is `test`. The object of row `i` has the id `i + 1`. The bytes
    of images are stored unchanged, unless they are cropped or resized.

    Args:
        source: Folder that holds files such as `CLEVRTEX_full_000123.png`, at any depth.
        out: Folder of the store, new or of an interrupted import.
        options: Variant, crop and resolution.
        workers: Number of processes; by default one per core.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The folder of the store.

    Raises:
        DataError: If there are no scenes, a scene lacks a file, or its ids were lost.
    """
    out = Path(out)
    scenes = find_scenes(Path(source), options.variant)
    spec = {"program": "latentslots data import", "name": "clevrtex", **asdict(options)}
    names: dict[str, list[str]] = {}
    for split, chosen in _divide(scenes, options.variant).items():
        source_files = inspect_files(
            (file for one in chosen for file in (one, *_files(one))), source
        )
        if is_written(out, split, spec, source_files):
            continue
        names = names or _names(scenes)
        writer = StoreWriter(
            out,
            split,
            kind=f"clevrtex-{options.variant}",
            license="see https://www.robots.ox.ac.uk/~vgg/data/clevrtex",
            credit="Karazija, Laina and Rupprecht, 2021",
            segmentation=True,
            attributes=_features(names),
            columns={"ground_material": Value("string")},
            made_by=spec,
            source=source_files.fingerprint,
        )
        write_items(
            writer,
            [(str(scene), options) for scene in chosen],
            _rows,
            block_size=_BLOCK,
            spec=spec,
            source=f"{source}: {source_files.names_fingerprint}",
            workers=workers,
            progress=progress,
            expected_bytes=0 if options.crop or options.resolution else source_files.num_bytes,
        )
    return out


def find_scenes(folder: Path, variant: str) -> list[Path]:
    """List the JSON files of all scenes in the order of their numbers.

    Raises:
        DataError: If there are none, or a scene lacks its image or its ids.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    pattern = re.compile(rf"CLEVRTEX_{variant}_(\d{{6}})\.json")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob(f"CLEVRTEX_{variant}_*.json")):
        if match := pattern.fullmatch(path.name):
            if match[1] in found:
                raise DataError(f"{folder} holds scene {match[1]} twice: name one of its folders")
            found[match[1]] = path
    if not found:
        raise DataError(
            f"{folder} holds no scenes of clevrtex-{variant}, such as "
            f"CLEVRTEX_{variant}_000000.json"
        )
    for path in found.values():
        for file in _files(path):
            if not file.is_file():
                raise DataError(f"{path} has no {file.name} beside it")
    _check_complete(folder, variant, set(found))
    return [found[number] for number in sorted(found)]


def _check_complete(folder: Path, variant: str, found: set[str]) -> None:
    """Refuse images without a scene and missing numbers, which would shift the splits."""
    pattern = re.compile(rf"CLEVRTEX_{variant}_(\d{{6}})(_flat)?\.png")
    for path in sorted(folder.rglob(f"CLEVRTEX_{variant}_*.png")):
        match = pattern.fullmatch(path.name)
        if match and match[1] not in found:
            raise DataError(f"{path} has no CLEVRTEX_{variant}_{match[1]}.json beside it")
    missing = next(n for n in range(len(found) + 1) if f"{n:06d}" not in found)
    if missing < len(found):
        raise DataError(f"{folder} lacks scene {missing:06d} of {len(found)} and more")
    if len(found) < NUM_SCENES.get(variant, 0):
        logger.warning(
            "%d of %d scenes: the splits are not the authors'", len(found), NUM_SCENES[variant]
        )


def _files(scene: Path) -> tuple[Path, Path]:
    """Paths of the image of a scene and of its ids."""
    return scene.with_suffix(".png"), scene.with_name(f"{scene.stem}_flat.png")


def _divide(scenes: Sequence[Path], variant: str) -> dict[str, Sequence[Path]]:
    if variant == "outd":
        return {"test": scenes}
    first, second = len(scenes) // 10, len(scenes) // 5
    splits = {
        "train": scenes[second:],
        "validation": scenes[first:second],
        "test": scenes[:first],
    }
    return {split: chosen for split, chosen in splits.items() if chosen}


def _read(scene: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = read_json(scene)
        content["objects"].sort(key=lambda thing: thing["index"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{scene} is not a scene of CLEVRTex: {error!r}") from error
    return content


def _names(scenes: Sequence[Path]) -> dict[str, list[str]]:
    """Collect the names of shapes, sizes, materials and colors, which differ between variants."""
    found: dict[str, set[str]] = {name: set() for name in ("shape", "size", "material", "color")}
    for scene in scenes:
        for thing in _read(scene)["objects"]:
            for name, values in found.items():
                values.add(str(thing.get(name, "none")))
    return {name: sorted(values) for name, values in found.items()}


def _features(names: dict[str, list[str]]) -> dict[str, Any]:
    point = List(Value("float32"), length=3)
    return {
        **{name: ClassLabel(names=values) for name, values in names.items()},
        "rotation": Value("float32"),
        "3d_coords": point,
        "pixel_coords": point,
    }


def _rows(items: Sequence[tuple[str, ClevrTexOptions]]) -> Iterator[dict[str, Any]]:
    for scene, options in items:
        yield scene_row(Path(scene), options)


def scene_row(scene: Path, options: ClevrTexOptions) -> dict[str, Any]:
    """Read one scene as a row of the store.

    Raises:
        DataError: If a file is broken, or the palette PNG was converted, which loses its ids.
    """
    content = _read(scene)
    image_file, ids_file = _files(scene)
    encoded, decoded = read_picture(image_file)
    ids = read_ids(ids_file)
    if ids.mode != "P":
        raise DataError(
            f"{ids_file} must be a palette PNG, got mode {ids.mode}: a conversion has lost its ids"
        )
    things = content["objects"]
    numbers = np.asarray(ids)
    renumbered = np.zeros(256, np.uint8)
    try:
        indices = [thing["index"] for thing in things]
        valid = all(type(index) is int and 1 <= index <= 255 for index in indices)
        if not valid or len(set(indices)) < len(indices):
            raise ValueError(f"the indices of objects must be different, in 1..255, got {indices}")
        renumbered[indices] = np.arange(1, len(things) + 1)
        unknown = set(np.unique(numbers).tolist()) - {0, *indices}
        attributes = {
            **{
                name: [str(thing.get(name, "none")) for thing in things]
                for name in ("shape", "size", "material", "color")
            },
            "rotation": [float(thing["rotation"]) for thing in things],
            "3d_coords": [thing["3d_coords"] for thing in things],
            "pixel_coords": [thing["pixel_coords"] for thing in things],
        }
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"{scene} is not a scene of CLEVRTex: {error!r}") from error
    if unknown:
        raise DataError(f"{ids_file} has the id {min(unknown)}, which {scene.name} does not list")
    image: Any = encoded
    mask: Any = Image.fromarray(renumbered[numbers])
    if options.crop is not None or options.resolution is not None:
        image = decoded
        if options.crop is not None:
            if image.size != (320, 240):
                raise DataError(f"{image_file} is {image.size[0]}x{image.size[1]}, not 320x240")
            image, mask = image.crop(CROPS[options.crop]), mask.crop(CROPS[options.crop])
        if options.resolution is not None:
            image, mask = ResizeCenterCrop(options.resolution)(image, mask)
    return {
        "image": image,
        "segmentation": mask,
        "attributes": attributes,
        "ground_material": str(content.get("ground_material", "")),
        "source": image_file.name,
    }
