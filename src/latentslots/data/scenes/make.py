"""Making a data set of rendered scenes or figures, with several processes."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Value

from latentslots.data.errors import DataError
from latentslots.data.scenes.edits import EDITS, edit_scene
from latentslots.data.scenes.figures import Figure, edit_figure, sample_figure
from latentslots.data.scenes.labels import (
    CAMERA_COLUMNS,
    attribute_features,
    attributes,
    camera_columns,
    part_attributes,
)
from latentslots.data.scenes.layout import KINDS, Kind, sample_scene
from latentslots.data.scenes.physics import NUM_FRAMES, throw
from latentslots.data.scenes.renderer import MAX_OBJECTS, SceneRenderer
from latentslots.data.store.encoding import encode_ids, encode_image
from latentslots.data.store.manifest import has_manifest, read_manifest
from latentslots.data.store.resumable import Workers, write_blocks
from latentslots.data.store.writer import StoreWriter

FIRST_SEEDS = {"train": 0, "validation": 8_000_000, "test": 9_000_000}
"""First seed of each split, so that splits never share a scene."""
EDIT_COLUMNS = {"edit": ClassLabel(names=list(EDITS)), "edited_object": Value("int32")}
"""Columns of pairs: the edit, and the edited object's id in the first image (0: the ground)."""
_MAX_SCENES = 1_000_000
_BLOCK = 240


@dataclass(frozen=True, kw_only=True)
class SceneOptions:
    """Kind and appearance of the scenes in a data set.

    Attributes:
        kind: `scenes`, `scenes-textured`, or `parts` for figures of five parts, to which numbers of
            objects and videos do not apply.
        size: Side of the images in pixels.
        min_objects: Least number of objects in a scene.
        max_objects: Greatest number of objects in a scene.
        seed: Offset of the scenes' seeds.
        video: Make videos of 24 frames, of objects thrown together.
        edit_pairs: Make pairs of images, before and after an edit.
    """

    kind: Kind
    size: int = 64
    min_objects: int = 3
    max_objects: int = 6
    seed: int = 0
    video: bool = False
    edit_pairs: bool = False

    @property
    def num_frames(self) -> int:
        """Images per scene."""
        return NUM_FRAMES if self.video else 2 if self.edit_pairs else 1


def make_scenes(
    out: str | os.PathLike[str],
    options: SceneOptions,
    *,
    num_train: int = 16_000,
    num_validation: int = 1_000,
    num_test: int = 0,
    workers: int | None = None,
    progress: bool = False,
) -> Path:
    """Make a data set of scenes, or resume making an interrupted one.

    The same options give the same scenes on every machine, and the same bytes on one machine,
    whatever the number of workers.

    Args:
        out: Folder of the data set, new or interrupted.
        options: Kind and appearance of the scenes.
        num_train: Scenes in the split `train`; 0 for no such split.
        num_validation: Scenes in the split `validation`.
        num_test: Scenes in the split `test`.
        workers: Number of processes; by default one per core.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The folder of the data set.

    Raises:
        DataError: If an option is out of its range, the folder holds other data, or scenes cannot
            be rendered on this machine.
    """
    out = Path(out)
    counts = {"train": num_train, "validation": num_validation, "test": num_test}
    _check(options, counts)
    processes = Workers(count=workers, initializer=_start_worker, arguments=(options,))
    missing = _missing_splits(out, options, counts)
    if not missing:
        return out
    # Errors of writing or rendering are raised here, rather than in a worker or after an hour.
    _writer(out, missing[0], options)
    if workers == 1:
        _start_worker(options)
    else:
        SceneRenderer(options.size).close()
    block = _BLOCK // options.num_frames
    for split in missing:
        firsts = range(0, counts[split], block)
        # The names of blocks contain their length, which differs for another number of scenes.
        blocks = {
            f"{first:07d}-{num}": (first, num)
            for first, num in ((first, min(block, counts[split] - first)) for first in firsts)
        }
        first_seed = FIRST_SEEDS[split] + options.seed
        write_blocks(
            _writer(out, split, options),
            {name: (first_seed + first, num) for name, (first, num) in blocks.items()},
            _make_block,
            spec=_made_by(options),
            workers=processes,
            progress=progress,
            unit="scene",
            sizes={name: num for name, (_, num) in blocks.items()},
        )
    return out


def _writer(out: Path, split: str, options: SceneOptions) -> StoreWriter:
    return StoreWriter(
        out,
        split,
        kind=options.kind,
        license="CC0-1.0",
        segmentation=True,
        video=options.num_frames > 1,
        attributes=attribute_features(options.kind),
        columns=CAMERA_COLUMNS | (EDIT_COLUMNS if options.edit_pairs else {}),
        made_by=_made_by(options),
    )


_WORKER: dict[str, Any] = {}


def _start_worker(options: SceneOptions) -> None:
    # Mesa's software renderer would otherwise start threads on the cores of the other workers.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    if "renderer" not in _WORKER or _WORKER["renderer"].size != options.size:
        _WORKER["renderer"] = SceneRenderer(options.size)
    _WORKER["options"] = options


def _make_block(seeds: tuple[int, int]) -> Iterator[dict[str, Any]]:
    first, num = seeds
    for seed in range(first, first + num):
        yield from make_rows(seed, _WORKER["options"], _WORKER["renderer"])


def make_rows(
    seed: int, options: SceneOptions, renderer: SceneRenderer
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one scene: one per frame of a video, or before and after an edit."""
    if options.kind == "parts":
        yield from _figure_rows(seed, options, renderer)
        return
    scene = sample_scene(seed, options.kind, num_objects=(options.min_objects, options.max_objects))
    frames, edit = throw(scene) if options.video else [scene], {}
    if options.edit_pairs:
        edited, name, number = edit_scene(scene)
        frames, edit = [scene, edited], {"edit": EDITS.index(name), "edited_object": number}
    for number, frame in enumerate(frames):
        image, ids = renderer.render(frame)
        yield {
            "image": encode_image(image),
            "segmentation": encode_ids(ids),
            "attributes": attributes(frame, ids),
            **camera_columns(frame),
            **({"video": f"{seed:07d}", "frame": number} if options.num_frames > 1 else {}),
            **edit,
        }


def _figure_rows(
    seed: int, options: SceneOptions, renderer: SceneRenderer
) -> Iterator[dict[str, Any]]:
    frames: list[Figure] = [sample_figure(seed)]
    edit: dict[str, Any] = {}
    if options.edit_pairs:
        edited, name, number = edit_figure(frames[0])
        frames, edit = [*frames, edited], {"edit": EDITS.index(name), "edited_object": number}
    for number, figure in enumerate(frames):
        scene, owners = figure.build()
        image, pieces = renderer.render(scene)
        ids = np.array([0, *owners])[pieces]
        yield {
            "image": encode_image(image),
            "segmentation": encode_ids(ids),
            "attributes": part_attributes(figure, ids),
            **camera_columns(scene),
            **({"video": f"{seed:07d}", "frame": number} if options.edit_pairs else {}),
            **edit,
        }


def _check(options: SceneOptions, counts: dict[str, int]) -> None:
    if options.kind not in KINDS:
        raise DataError(f"kind must be one of {', '.join(KINDS)}, got {options.kind!r}")
    if not 16 <= options.size <= 2048:
        raise DataError(f"size must be 16 to 2048 pixels, got {options.size}")
    if not 1 <= options.min_objects <= options.max_objects <= MAX_OBJECTS:
        raise DataError(
            f"a scene must have 1 to {MAX_OBJECTS} objects, got {options.min_objects} to "
            f"{options.max_objects}"
        )
    if options.video and options.kind == "parts":
        raise DataError("video applies to scenes, not to figures")
    if options.video and options.edit_pairs:
        raise DataError("video and edit_pairs exclude each other: set only one")
    if not 0 <= options.seed < _MAX_SCENES:
        raise DataError(f"seed must be 0 to {_MAX_SCENES - 1}, got {options.seed}")
    for split, count in counts.items():
        if not 0 <= count <= _MAX_SCENES - options.seed:
            raise DataError(f"num_{split} must be 0 to {_MAX_SCENES - options.seed}, got {count}")
    if not any(counts.values()):
        raise DataError("at least one of num_train, num_validation and num_test must be above 0")


def _made_by(options: SceneOptions) -> dict[str, Any]:
    made_by = {"program": "latentslots data make", **asdict(options)}
    if not options.edit_pairs:  # data sets older than this option do not have it
        del made_by["edit_pairs"]
    if options.kind == "parts":
        for name in ("min_objects", "max_objects", "video"):
            del made_by[name]
    return made_by


def _missing_splits(out: Path, options: SceneOptions, counts: dict[str, int]) -> list[str]:
    """List the splits to make; existing splits must have the same options and number of scenes."""
    requested = [split for split, count in counts.items() if count]
    if not has_manifest(str(out)):
        return requested
    manifest = read_manifest(str(out))
    if manifest.made_by != _made_by(options):
        content = json.dumps(manifest.made_by) if manifest.made_by else f"kind {manifest.kind!r}"
        raise DataError(f"{out} holds other data ({content}): choose another folder")
    frames = options.num_frames
    for split in requested:
        if split in manifest.splits and manifest.splits[split].num_rows != counts[split] * frames:
            raise DataError(
                f"{out} already has {manifest.splits[split].num_rows // frames} scenes in "
                f"{split!r}, not {counts[split]}"
            )
    return [split for split in requested if split not in manifest.splits]
