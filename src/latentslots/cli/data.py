"""`latentslots data {make,import,merge,info,cache-latents}`."""

import json
import logging
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, TypeVar

import tyro

PROG = "latentslots data"
Kind = TypeVar("Kind", bound=str)
_MADE: tuple[Literal["scenes", "scenes-textured", "parts"], ...] = (
    "scenes",
    "scenes-textured",
    "parts",
)
_MULTI_OBJECT = (
    "clevr-with-masks",
    "multi-dsprites-binarized",
    "multi-dsprites-colored-on-grayscale",
    "multi-dsprites-colored-on-colored",
    "objects-room",
    "tetrominoes",
)
_IMPORTED = ("arrays", "folder", *(f"movi-{letter}" for letter in "abcdef"), *_MULTI_OBJECT)
USAGE = f"""usage: {PROG} make scenes OUT              scenes of plain objects, drawn by MuJoCo
       {PROG} make scenes-textured OUT     the same with textures
       {PROG} make parts OUT               figures of exchangeable parts
       {PROG} import arrays SOURCE.npz OUT   images (and masks) from NumPy arrays
       {PROG} import folder SOURCE OUT       a folder of images (and a twin folder of masks)
       {PROG} import movi-e SOURCE OUT       MOVi-A to F: shards, their address, or `public`
       {PROG} import clevr-with-masks SOURCE OUT   also tetrominoes, objects-room and
                                             multi-dsprites-{{binarized,colored-on-...}}
       {PROG} merge SOURCE SOURCE ... --out OUT   several data sets become one
       {PROG} info PATH                      counts, sizes, objects; a contact sheet
       {PROG} cache-latents PATH             encode all images once, before training

{PROG} ACTION --help tells more (make and import: {PROG} make scenes --help)."""


@dataclass(frozen=True, kw_only=True)
class MakeParts:
    """Make a data set of figures, with exact masks of their parts; a half-made one is continued."""

    out: tyro.conf.Positional[str]
    """Folder of the data set."""
    num_train: int = 16_000
    """Images of the split `train`."""
    num_validation: int = 1_000
    """The same for `validation`."""
    num_test: int = 0
    """The same for `test`: to be scored once, at the end."""
    size: int = 64
    """Pixels per side."""
    seed: int = 0
    """Number of the first scene; the same number gives the same scene everywhere."""
    edit_pairs: bool = False
    """Make pairs: everything again with one thing removed, replaced or recolored, objects of scenes
    also moved, or another ground."""
    workers: int | None = None
    """Processes; by default one per core."""


@dataclass(frozen=True, kw_only=True)
class MakeScenes(MakeParts):
    """Make a data set of scenes, with exact masks and labels; a half-made one is continued."""

    min_objects: int = 3
    """Fewest objects of a scene."""
    max_objects: int = 6
    """Most objects of a scene."""
    video: bool = False
    """Make videos of 24 frames, of objects thrown together, instead of images."""


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

    source: tyro.conf.Positional[str]
    """The .npz file."""
    out: tyro.conf.Positional[str]
    """Folder of the data set, new or existing."""


@dataclass(frozen=True, kw_only=True)
class ImportFolder(_Import):
    """Import a folder of images, with a twin folder of masks where there is one."""

    source: tyro.conf.Positional[str]
    """Folder with images at any depth."""
    out: tyro.conf.Positional[str]
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
    seed: int = 0
    """Another seed holds out other images."""


@dataclass(frozen=True, kw_only=True)
class ImportMovi:
    """Import MOVi's TFRecord shards; a half-written data set is gone on with."""

    source: tyro.conf.Positional[str]
    """A folder of shards, the address of one on the web, or `public` for the authors' bucket."""
    out: tyro.conf.Positional[str]
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

    source: tyro.conf.Positional[str]
    """The file, one GZIP stream of TFRecords."""
    out: tyro.conf.Positional[str]
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
class Merge:
    """Make one data set of several, in random order, to learn from all of them at once."""

    sources: tyro.conf.Positional[tuple[str, ...]]
    """The data sets: two or more."""
    out: str
    """Folder of the new data set."""
    seed: int = 0
    """Another seed gives another order."""


@dataclass(frozen=True, kw_only=True)
class Info:
    """Say what a data set holds."""

    path: tyro.conf.Positional[str]
    """A data set, a folder of images, or `bundled` for the scenes that ship with the package."""
    contact_sheet: str = ""
    """Also draw images with their masks, into this PNG."""
    split: str = "train"
    """Split that the contact sheet shows."""
    num: int = 32
    """Images on the contact sheet."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True, kw_only=True)
class CacheLatents:
    """Encode all images of a split once, so that training reads latents instead of pixels.

    Training does this by itself when it finds no latents.
    """

    path: tyro.conf.Positional[str]
    """A data set, or a folder of images."""
    vae: str = "bundled"
    """The autoencoder: `bundled`, a folder, or a hub id."""
    split: str = "train"
    """Which split."""
    resolution: int = 256
    """Pixels per side, as in training."""
    flip: bool = False
    """Also encode the mirrored images, for training with --data.random-flip."""
    batch_size: int = 32
    """Images at once."""
    output_dir: str = ""
    """Where the latents go; by default beside the data set's shards."""
    on_bad_sample: Literal["error", "skip"] = "error"
    """What to do with an image that cannot be read."""


def run(arguments: list[str]) -> int:
    """Find the action, parse and run it."""
    actions = {
        "make": _make,
        "import": _import,
        "merge": _merge,
        "info": _info,
        "cache-latents": _cache_latents,
    }
    if not arguments or arguments[0] not in actions:
        asked = bool(arguments) and arguments[0] in ("-h", "--help")
        print(USAGE, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    if arguments[0] in ("make", "import") and arguments[1:2] in (["-h"], ["--help"]):
        print(USAGE)  # what can be made or imported; the options follow from that
        return 0
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    return actions[arguments[0]](arguments[1:])


def _make(arguments: list[str]) -> int:
    kind, rest = _first("make", _MADE, arguments)
    wanted = MakeParts if kind == "parts" else MakeScenes
    given = asdict(tyro.cli(wanted, prog=f"{PROG} make {kind}", args=rest))

    from latentslots.data.scenes.make import SceneOptions, make_scenes

    names = [field.name for field in fields(SceneOptions) if field.name in given]
    looks = {name: given.pop(name) for name in names}
    print(make_scenes(given.pop("out"), SceneOptions(kind=kind, **looks), **given, progress=True))
    return 0


def _first(action: str, kinds: tuple[Kind, ...], arguments: list[str]) -> tuple[Kind, list[str]]:
    """Split what an action is done with from the rest of its arguments."""
    if not arguments or arguments[0] not in kinds:
        got = repr(arguments[0]) if arguments else "nothing"
        raise ValueError(f"data {action} takes one of {', '.join(kinds)} first, got {got}")
    return kinds[kinds.index(arguments[0])], arguments[1:]


def _import(arguments: list[str]) -> int:
    kind, rest = _first("import", _IMPORTED, arguments)
    prog = f"{PROG} import {kind}"
    if kind == "arrays":
        from latentslots.data.arrays import import_arrays

        out = import_arrays(**asdict(tyro.cli(ImportArrays, prog=prog, args=rest)), progress=True)
    elif kind == "folder":
        from latentslots.data.image_folder import import_folder

        options = asdict(tyro.cli(ImportFolder, prog=prog, args=rest))
        out = import_folder(options.pop("source"), options.pop("out"), **options, progress=True)
    elif kind in _MULTI_OBJECT:
        out = _import_multi_object(kind, tyro.cli(ImportMultiObject, prog=prog, args=rest))
    else:
        return _import_movi(kind, tyro.cli(ImportMovi, prog=prog, args=rest))
    print(out)
    return 0


def _import_multi_object(kind: str, options: ImportMultiObject) -> Path:
    from latentslots.data.multi_object import LAYOUTS, MultiObjectOptions, import_multi_object

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


def _import_movi(variant: str, options: ImportMovi) -> int:
    from latentslots.data.movi import find_movi, import_movi
    from latentslots.data.movi_records import MoviOptions

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
        return 0
    out = import_movi(
        options.source,
        options.out,
        taken,
        size=options.size,
        splits=options.splits,
        workers=options.workers,
        progress=True,
    )
    print(out)
    return 0


def _merge(arguments: list[str]) -> int:
    options = tyro.cli(Merge, prog=f"{PROG} merge", args=arguments)

    from latentslots.data.merge import merge_stores

    print(merge_stores(options.sources, options.out, seed=options.seed, progress=True))
    return 0


def _info(arguments: list[str]) -> int:
    options = tyro.cli(Info, prog=f"{PROG} info", args=arguments)

    from latentslots.data.info import contact_sheet, info

    found = info(options.path)
    print(json.dumps(asdict(found)) if options.json else found)
    if options.contact_sheet:
        sheet = contact_sheet(options.path, options.split, options.contact_sheet, num=options.num)
        print(sheet, file=sys.stderr)
    return 0


def _cache_latents(arguments: list[str]) -> int:
    options = tyro.cli(CacheLatents, prog=f"{PROG} cache-latents", args=arguments)

    import torch

    from latentslots.build import latents_dir
    from latentslots.config import DataConfig
    from latentslots.data.latents import cache_latents
    from latentslots.data.manifest import has_manifest
    from latentslots.data.store import load_dataset
    from latentslots.models.autoencoder import load_vae

    if not options.output_dir and not has_manifest(options.path):
        raise ValueError("a plain folder of images keeps no latents: name an --output-dir")
    vae = load_vae(options.vae).to("cuda" if torch.cuda.is_available() else "cpu")
    data = DataConfig(path=options.path, resolution=options.resolution, latents=options.output_dir)
    folder = latents_dir(data, options.split, vae, fallback=Path(options.path))
    cache_latents(
        load_dataset(options.path, split=options.split),
        vae,
        folder,
        resolution=options.resolution,
        batch_size=options.batch_size,
        flip=options.flip,
        on_bad_sample=options.on_bad_sample,
        progress=True,
    )
    print(folder)
    return 0
