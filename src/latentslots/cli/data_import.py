"""`latentslots data import NAME SOURCE OUT`: every data set that can be imported."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro

from latentslots.config.seeds import check_seed

PROG = "latentslots data"
Kind = TypeVar("Kind", bound=str)
_MULTI_OBJECT = (
    "clevr-with-masks",
    "multi-dsprites-binarized",
    "multi-dsprites-colored-on-grayscale",
    "multi-dsprites-colored-on-colored",
    "objects-room",
    "tetrominoes",
)
_CLEVRTEX = tuple(f"clevrtex-{name}" for name in ("full", "pbg", "vbg", "grassbg", "camo", "outd"))


@dataclass(frozen=True, kw_only=True)
class _Import:
    split: str = "train"
    """Split to write, which the data set must not have yet."""
    name: str | None = None
    """Name of the data set; by default that of its folder."""
    resolution: int | None = None
    """Resize the shortest side to this and crop the center; by default images stay as they are."""
    license: str | None = None
    """Licence of the images."""
    credit: str | None = None
    """Whom to name as their author."""


@dataclass(frozen=True, kw_only=True)
class ImportArrays(_Import):
    """Import an .npz file with `image` [N, H, W, 3] and optionally `mask` [N, H, W]."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """The .npz file."""
    out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")]
    """Folder of the data set, new or existing."""
    attributes: str | None = None
    """JSON file, perhaps gzipped: for each image a list of its objects' values by name; item i
    tells of the object with id i + 1."""


@dataclass(frozen=True, kw_only=True)
class ImportFolder(_Import):
    """Import a folder of images, with a twin folder of masks where there is one."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """Folder with images at any depth."""
    out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")]
    """Folder of the data set, new or existing."""
    masks: str | None = None
    """Folder with one image of ids for every image, at the same relative path."""
    glob: str | None = None
    """Only the images that match, such as `**/*_rgb.png`."""
    validation_fraction: float | None = None
    """Hold this share out as `validation`."""
    group_by: Literal["file", "parent"] = "file"
    """What is held out together: single files, or all of a parent folder (a video)."""
    on_bad_sample: Literal["error", "skip"] = "error"
    """What to do with a file that cannot be read: stop, or go on without it and count."""
    workers: int | None = None
    """Processes; by default one per core."""
    seed: int = 0
    """Another seed holds out other images."""


@dataclass(frozen=True, kw_only=True)
class ImportMovi:
    """Import MOVi's TFRecord shards; a half-written data set is gone on with."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """A folder of shards, the address of one on the web, or `public` for the authors' bucket."""
    out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")]
    """Folder of the data set, new or half written."""
    splits: tuple[str, ...] = ("train", "validation")
    """Which splits."""
    size: Literal[128, 256, 512] = 256
    """Pixels per side of the videos in the bucket (512: MOVi-F alone)."""
    every: int = 1
    """Every n-th frame of a video, from the first."""
    resolution: int | None = None
    """Resize the frames to this; by default they stay as they are."""
    layers: tuple[
        Literal["depth", "normal", "object_coordinates", "forward_flow", "backward_flow"], ...
    ] = ()
    """What else to keep of every frame."""
    workers: int | None = None
    """Processes, each with a shard of its own; by default one per core."""
    dry_run: bool = False
    """Only say how many shards and bytes there are."""


@dataclass(frozen=True, kw_only=True)
class ImportMultiObject:
    """Import one of DeepMind's multi-object data sets; a half-written one is gone on with."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """The file, one GZIP stream of TFRecords."""
    out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")]
    """Folder of the data set, new or half written."""
    crop: bool = False
    """Of CLEVR, the usual crop alone: 192 x 192 pixels around the middle."""
    resolution: int | None = None
    """Resize the images to this; by default they stay as they are."""
    max_objects: int | None = None
    """Leave out images with more objects; 6 makes CLEVR6."""
    num_train: int | None = None
    """Records of the split `train`; by default as many as is usual."""
    num_validation: int | None = None
    """The same for `validation`, which follow those of `train`."""
    num_test: int | None = None
    """The same for `test`, the last."""


@dataclass(frozen=True, kw_only=True)
class ImportClevrTex:
    """Import CLEVRTex, or one of its variants; a half-written data set is gone on with."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """Folder that holds the unpacked scenes, at any depth."""
    out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")]
    """Folder of the data set, new or half written."""
    crop: Literal["center", "clevr"] | None = None
    """The middle 192 x 192 pixels: as CLEVRTex's authors cut it, or as CLEVR is cut."""
    resolution: int | None = None
    """Resize the images to this; by default they stay as they are."""
    workers: int | None = None
    """Processes; by default one per core."""


@dataclass(frozen=True, kw_only=True)
class ImportCoco:
    """Import COCO, or data in its format; a half-written data set is gone on with."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """Folder with `annotations/`, and with `train2017/` and `val2017/`, also in `images/`."""
    out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")]
    """Folder of the data set, new or half written."""
    splits: tuple[str, ...] = ("train", "validation")
    """Which splits; one alone with --annotations."""
    annotations: str | None = None
    """Of other data in COCO's format, the JSON file."""
    images: str | None = None
    """Of such data, the folder of the images; by default SOURCE."""
    license: str | None = None
    """Of such data, their license."""
    credit: str | None = None
    """Of such data, whom to name as their author."""
    crowd: Literal["ignore", "keep", "drop"] = "ignore"
    """A region that holds a crowd: not scored, an object like any other, or background."""
    resolution: int | None = None
    """Resize the images to this; by default they stay as they are."""
    workers: int | None = None
    """Processes; by default one per core."""


@dataclass(frozen=True, kw_only=True)
class ImportCocoInstances(ImportCoco):
    """Import COCO's instances; a half-written data set is gone on with."""

    overlap: Literal["first", "last"] = "first"
    """Who owns a pixel that several objects claim: the first or the last in the file."""
    ignore_overlap: bool = False
    """Do not score such pixels."""


@dataclass(frozen=True, kw_only=True)
class ImportCocoPanoptic(ImportCoco):
    """Import COCO's panoptic segmentation; a half-written data set is gone on with."""

    stuff: bool = True
    """Whether grass, sky and their like are objects, too."""


@dataclass(frozen=True, kw_only=True)
class ImportVoc:
    """Import PASCAL VOC 2012; a half-written data set is gone on with."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """The folder VOC2012, or one that holds it or VOCdevkit."""
    out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")]
    """Folder of the data set, new or half written."""
    lists: tuple[str, ...] = ("train=trainaug", "validation=val")
    """For each split, a list of ImageSets/Segmentation."""
    resolution: int | None = None
    """Resize the images to this; by default they stay as they are."""
    workers: int | None = None
    """Processes; by default one per core."""


@dataclass(frozen=True, kw_only=True)
class ImportFiles:
    """Import files; a half-written data set is gone on with."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """The folder that holds the splits."""
    out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")]
    """Folder of the data set, new or half written."""
    resolution: int | None = None
    """Resize the images to this; by default they stay as they are."""
    workers: int | None = None
    """Processes; by default one per core."""


@dataclass(frozen=True, kw_only=True)
class ImportDump(ImportFiles):
    """Import folders that other code made of videos; a half-written data set is gone on with."""

    license: str | None = None
    """Of the images: a dump does not tell (MOVi's are Apache-2.0)."""
    credit: str | None = None
    """Whom to name as their author."""


@dataclass(frozen=True, kw_only=True)
class ImportClevr(ImportFiles):
    """Import CLEVR without masks; a half-written data set is gone on with."""

    splits: tuple[str, ...] = ("train", "validation")
    """Which splits; `test` is there, too."""


@dataclass(frozen=True, kw_only=True)
class ImportFfhq(ImportFiles):
    """Import FFHQ; a half-written data set is gone on with."""

    num_train: int = 60_000
    """Images with a lower number are `train`, the others `validation`."""


def first_word(
    action: str, kinds: tuple[Kind, ...], arguments: list[str]
) -> tuple[Kind, list[str]]:
    """Split what an action is done with from the rest of its arguments."""
    if not arguments or arguments[0] not in kinds:
        got = repr(arguments[0]) if arguments else "nothing"
        raise ValueError(f"data {action} takes one of {', '.join(kinds)} first, got {got}")
    return kinds[kinds.index(arguments[0])], arguments[1:]


def run(arguments: list[str]) -> int:
    """Parse and import."""
    kind, rest = first_word("import", tuple(_IMPORTED), arguments)
    wanted, import_it = _IMPORTED[kind]
    out = import_it(kind, tyro.cli(wanted, prog=f"{PROG} import {kind}", args=rest))
    if out is not None:
        print(out)
    return 0


def _arrays(kind: str, options: ImportArrays) -> Path:
    from latentslots.data.importers.arrays import import_arrays

    return import_arrays(**asdict(options), progress=True)


def _folder(kind: str, options: ImportFolder) -> Path:
    from latentslots.data.importers.image_folder import import_folder

    check_seed(options.seed)
    given = asdict(options)
    return import_folder(given.pop("source"), given.pop("out"), **given, progress=True)


def _movi(variant: str, options: ImportMovi) -> Path | None:
    from latentslots.data.importers.movi import find_movi, import_movi
    from latentslots.data.importers.movi_records import MoviOptions

    taken = MoviOptions(
        variant=variant,
        every=options.every,
        resolution=options.resolution,
        layers=options.layers,
    )
    if options.dry_run:
        for split, shards in find_movi(options.source, variant, size=options.size).items():
            size = "" if shards.num_bytes is None else f", {shards.num_bytes:,} bytes"
            print(f"{split}: {len(shards.places)} shards{size}")
        return None
    return import_movi(
        options.source,
        options.out,
        taken,
        size=options.size,
        splits=options.splits,
        workers=options.workers,
        progress=True,
    )


def _multi_object(kind: str, options: ImportMultiObject) -> Path:
    from latentslots.data.importers.multi_object import (
        LAYOUTS,
        MultiObjectOptions,
        import_multi_object,
    )

    taken = MultiObjectOptions(
        kind=kind,
        crop=options.crop,
        resolution=options.resolution,
        max_objects=options.max_objects,
    )
    asked = {
        "train": options.num_train,
        "validation": options.num_validation,
        "test": options.num_test,
    }
    usual = LAYOUTS[kind].counts
    counts = {
        split: usual.get(split, 0) if count is None else count for split, count in asked.items()
    }
    wanted = {split: count for split, count in counts.items() if count}
    return import_multi_object(options.source, options.out, taken, counts=wanted, progress=True)


def _clevr(kind: str, options: ImportClevr) -> Path:
    from latentslots.data.importers.clevr import import_clevr

    return import_clevr(**asdict(options), progress=True)


def _clevrtex(kind: str, options: ImportClevrTex) -> Path:
    from latentslots.data.importers.clevrtex import ClevrTexOptions, import_clevrtex

    taken = ClevrTexOptions(
        variant=kind.removeprefix("clevrtex-"), crop=options.crop, resolution=options.resolution
    )
    return import_clevrtex(
        options.source, options.out, taken, workers=options.workers, progress=True
    )


def _coco(kind: str, options: ImportCoco) -> Path:
    from latentslots.data.importers.coco import CocoOptions, import_coco

    given = asdict(options)
    names = [field.name for field in fields(CocoOptions) if field.name in given]
    how = {name: given.pop(name) for name in names}
    taken = CocoOptions(kind="instances" if kind == "coco" else "panoptic", **how)
    return import_coco(given.pop("source"), given.pop("out"), taken, **given, progress=True)


def _voc(kind: str, options: ImportVoc) -> Path:
    from latentslots.data.importers.voc import VocOptions, import_voc

    lists = {}
    for given in options.lists:
        split, _, name = given.partition("=")
        if not (split and name):
            raise ValueError(f"--lists takes SPLIT=LIST, got {given!r}")
        lists[split] = name
    taken = VocOptions(resolution=options.resolution)
    return import_voc(
        options.source, options.out, taken, lists=lists, workers=options.workers, progress=True
    )


def _ffhq(kind: str, options: ImportFfhq) -> Path:
    from latentslots.data.importers.ffhq import import_ffhq

    return import_ffhq(**asdict(options), progress=True)


def _dump(kind: str, options: ImportDump) -> Path:
    from latentslots.data.importers.dumps import import_dump

    maker: Literal["lsd", "slotdiffusion"] = "lsd" if kind == "lsd-dump" else "slotdiffusion"
    given = asdict(options)
    return import_dump(given.pop("source"), given.pop("out"), maker, **given, progress=True)


_IMPORTED: dict[str, tuple[type, Callable[..., Path | None]]] = {
    "arrays": (ImportArrays, _arrays),
    "folder": (ImportFolder, _folder),
    **{f"movi-{letter}": (ImportMovi, _movi) for letter in "abcdef"},
    **dict.fromkeys(_MULTI_OBJECT, (ImportMultiObject, _multi_object)),
    "clevr": (ImportClevr, _clevr),
    **dict.fromkeys(_CLEVRTEX, (ImportClevrTex, _clevrtex)),
    "coco": (ImportCocoInstances, _coco),
    "coco-panoptic": (ImportCocoPanoptic, _coco),
    "voc": (ImportVoc, _voc),
    "ffhq": (ImportFfhq, _ffhq),
    "lsd-dump": (ImportDump, _dump),
    "slotdiffusion-dump": (ImportDump, _dump),
}
