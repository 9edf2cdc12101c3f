"""Importing CLEVRTex (Karazija et al., 2021, https://arxiv.org/abs/2111.10265).

A scene is three files: the image, its ids as a palette PNG, and a JSON file of what is in it.
"""

import json
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
from latentslots.data.store.encoding import read_picture
from latentslots.data.store.resumable import is_written, write_items
from latentslots.data.store.sources import source_of
from latentslots.data.store.writer import StoreWriter
from latentslots.data.transforms import ResizeCenterCrop

logger = logging.getLogger(__name__)

VARIANTS = ("full", "pbg", "vbg", "grassbg", "camo", "outd")
"""The data set; plain background, varied background, grass; camouflaged; out of distribution."""
CROPS = {"center": (64, 24, 256, 216), "clevr": (64, 29, 256, 221)}
"""Left, upper, right, lower, of images of 320 x 240: that of the authors, and that of CLEVR."""
NUM_SCENES = {"full": 50_000, "outd": 10_000}
"""Of the variants of which we know it."""
_BLOCK = 200


@dataclass(frozen=True, kw_only=True)
class ClevrTexOptions:
    """What is taken of CLEVRTex.

    Attributes:
        variant: One of `VARIANTS`.
        crop: Of an image of 320 x 240 pixels, the middle 192 x 192; the whole when absent.
        resolution: Resize the shortest side to this, and crop the center.
    """

    variant: str
    crop: Literal["center", "clevr"] | None = None
    resolution: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.variant not in VARIANTS:
            raise DataError(f"there is no {self.variant!r}, only {', '.join(VARIANTS)}")
        if self.crop is not None and self.crop not in CROPS:
            raise DataError(f"there is no crop {self.crop!r}, only {', '.join(CROPS)}")


def import_clevrtex(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: ClevrTexOptions,
    *,
    workers: int | None = None,
    progress: bool = False,
) -> Path:
    """Write CLEVRTex as a store; one that is half written is gone on with.

    Splits are those of the authors: the first tenth of the scenes for `test`, the second for
    `validation`, the rest for `train`; `outd` is `test` alone. The object of row `i` has the id
    `i + 1`. Images are stored as they came, unless they are cropped or resized.

    Args:
        source: Folder that holds `CLEVRTEX_full_000123.png` and its like, at any depth.
        out: Folder of the store, new or half written.
        options: What to take.
        workers: Processes; by default one per core.
        progress: Whether to show a bar on stderr.

    Returns:
        The folder of the store.

    Raises:
        DataError: If there are no scenes, a scene lacks a file, or its ids are lost.
    """
    out = Path(out)
    scenes = find_scenes(Path(source), options.variant)
    spec = {"program": "latentslots data import", "name": "clevrtex", **asdict(options)}
    names: dict[str, list[str]] = {}
    for split, chosen in _divide(scenes, options.variant).items():
        made_of = source_of((file for one in chosen for file in (one, *_files(one))), source)
        if is_written(out, split, spec, made_of):
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
            source=made_of.fingerprint,
        )
        write_items(
            writer,
            [(str(scene), options) for scene in chosen],
            _rows,
            block_size=_BLOCK,
            spec=spec,
            source=f"{source}: {made_of.names}",
            workers=workers,
            progress=progress,
            expected_bytes=0 if options.crop or options.resolution else made_of.num_bytes,
        )
    return out


def find_scenes(folder: Path, variant: str) -> list[Path]:
    """The JSON files of all scenes, by number.

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
        for twin in _files(path):
            if not twin.is_file():
                raise DataError(f"{path} has no {twin.name} beside it")
    _check_whole(folder, variant, set(found))
    return [found[number] for number in sorted(found)]


def _check_whole(folder: Path, variant: str, found: set[str]) -> None:
    """Refuse images without a scene, and gaps: splits go by the place of a scene among all."""
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
            "%d of %d scenes: splits are not those of the authors", len(found), NUM_SCENES[variant]
        )


def _files(scene: Path) -> tuple[Path, Path]:
    """The image of a scene, and its ids."""
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
        content: dict[str, Any] = json.loads(scene.read_text(encoding="utf-8"))
        content["objects"].sort(key=lambda thing: thing["index"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{scene} is no scene of CLEVRTex: {error!r}") from error
    return content


def _names(scenes: Sequence[Path]) -> dict[str, list[str]]:
    """All shapes, sizes, materials and colors: those of `outd` are others."""
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


def _rows(work: Sequence[tuple[str, ClevrTexOptions]]) -> Iterator[dict[str, Any]]:
    for scene, options in work:
        yield scene_row(Path(scene), options)


def scene_row(scene: Path, options: ClevrTexOptions) -> dict[str, Any]:
    """The row of one scene.

    Raises:
        DataError: If a file is broken, or the ids were lost in a conversion of the palette.
    """
    content = _read(scene)
    image_file, ids_file = _files(scene)
    encoded, picture = read_picture(image_file)
    ids = read_picture(ids_file)[1]
    if ids.mode != "P":
        raise DataError(
            f"{ids_file} has lost its ids: it is no palette PNG any more, but of mode {ids.mode}"
        )
    things = content["objects"]
    numbers = np.asarray(ids)
    renumbered = np.zeros(256, np.uint8)
    try:
        renumbered[[thing["index"] for thing in things]] = np.arange(1, len(things) + 1)
        unknown = set(np.unique(numbers).tolist()) - {0, *(thing["index"] for thing in things)}
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
        raise DataError(f"{scene} is no scene of CLEVRTex: {error!r}") from error
    if unknown:
        raise DataError(f"{ids_file} has the id {min(unknown)}, which {scene.name} does not list")
    image: Any = encoded
    mask: Any = Image.fromarray(renumbered[numbers])
    if options.crop is not None or options.resolution is not None:
        image = picture.convert("RGB")
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
