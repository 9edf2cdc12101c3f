"""`latentslots data {make,import,merge,info,verify,cache-latents}`."""

import json
import logging
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from latentslots.cli.data_import import PROG, first_word
from latentslots.cli.data_import import run as import_data
from latentslots.config.seeds import check_seed

_MADE: tuple[Literal["scenes", "scenes-textured", "parts"], ...] = (
    "scenes",
    "scenes-textured",
    "parts",
)
USAGE = f"""usage: {PROG} make scenes OUT              scenes of plain objects, drawn by MuJoCo
       {PROG} make scenes-textured OUT     the same with textures
       {PROG} make parts OUT               figures of exchangeable parts
       {PROG} import arrays SOURCE.npz OUT   images (and masks) from NumPy arrays
       {PROG} import folder SOURCE OUT       a folder of images (and a twin folder of masks)
       {PROG} import movi-e SOURCE OUT       MOVi-A to F: shards, their address, or `public`
       {PROG} import clevr-with-masks SOURCE OUT   also tetrominoes, objects-room and
                                             multi-dsprites-{{binarized,colored-on-...}}
       {PROG} import clevrtex-full SOURCE OUT   also -pbg, -vbg, -grassbg, -camo and -outd
       {PROG} import clevr SOURCE OUT        the plain release, without masks
       {PROG} import coco SOURCE OUT         instances; also coco-panoptic, and voc
       {PROG} import ffhq SOURCE OUT         faces, by their numbers
       {PROG} import lsd-dump SOURCE OUT     folders of the official code; also slotdiffusion-dump
       {PROG} merge SOURCE SOURCE ... --out OUT   several data sets become one
       {PROG} info PATH                      counts, sizes, objects; a contact sheet
       {PROG} verify PATH                    read everything again, and name what is wrong
       {PROG} cache-latents PATH             encode all images once, before training

{PROG} ACTION --help tells more (make and import: {PROG} make scenes --help)."""


@dataclass(frozen=True, kw_only=True)
class MakeParts:
    """Make a data set of figures, with exact masks of their parts; a half-made one is continued."""

    out: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")]
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
class Merge:
    """Make one data set of several, in random order, to learn from all of them at once."""

    sources: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="DATA ...")]
    """The data sets: two or more."""
    out: str
    """Folder of the new data set."""
    weights: tuple[float, ...] = ()
    """Shares of the data sets, such as 1 1 for half and half; by default all images, once."""
    seed: int = 0
    """Another seed gives another order."""


@dataclass(frozen=True, kw_only=True)
class Info:
    """Say what a data set holds."""

    path: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """A data set, a folder of images, or `bundled` for the scenes that ship with the package."""
    contact_sheet: str = ""
    """Also draw images with their masks, into this .png or .jpg file."""
    split: str = "train"
    """Split that the contact sheet shows."""
    num: int = 32
    """Images on the contact sheet."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Read a whole data set again, hashes, pictures and labels; exits with 2 if any is wrong."""

    path: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
    """The data set."""


@dataclass(frozen=True, kw_only=True)
class CacheLatents:
    """Encode all images of a split once, so that training reads latents instead of pixels.

    Training does this by itself when it finds no latents.
    """

    path: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
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
        "import": import_data,
        "merge": _merge,
        "info": _info,
        "verify": _verify,
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
    kind, rest = first_word("make", _MADE, arguments)
    wanted = MakeParts if kind == "parts" else MakeScenes
    given = asdict(tyro.cli(wanted, prog=f"{PROG} make {kind}", args=rest))

    from latentslots.data.scenes.make import SceneOptions, make_scenes

    names = [field.name for field in fields(SceneOptions) if field.name in given]
    looks = {name: given.pop(name) for name in names}
    print(make_scenes(given.pop("out"), SceneOptions(kind=kind, **looks), **given, progress=True))
    return 0


def _merge(arguments: list[str]) -> int:
    options = tyro.cli(Merge, prog=f"{PROG} merge", args=arguments)
    check_seed(options.seed)

    from latentslots.data.store.merge import merge_stores

    out = merge_stores(
        options.sources,
        options.out,
        weights=options.weights or None,
        seed=options.seed,
        progress=True,
    )
    print(out)
    return 0


def _info(arguments: list[str]) -> int:
    options = tyro.cli(Info, prog=f"{PROG} info", args=arguments)

    from latentslots.data.store.info import contact_sheet, info

    found = info(options.path)
    print(json.dumps(asdict(found)) if options.json else found)
    if options.contact_sheet:
        sheet = contact_sheet(options.path, options.split, options.contact_sheet, num=options.num)
        print(sheet, file=sys.stderr)
    return 0


def _verify(arguments: list[str]) -> int:
    options = tyro.cli(Verify, prog=f"{PROG} verify", args=arguments)

    from latentslots.data.store.verify import verify

    problems = verify(options.path, progress=True)
    for problem in problems:
        print(f"latentslots data: {problem}", file=sys.stderr)
    if not problems:
        print(f"{options.path}: all is well")
    return 2 if problems else 0


def _cache_latents(arguments: list[str]) -> int:
    options = tyro.cli(CacheLatents, prog=f"{PROG} cache-latents", args=arguments)

    from latentslots.build.data import build_split, latents_dir
    from latentslots.config import DataConfig
    from latentslots.data.loading.cache_writer import cache_latents
    from latentslots.data.store.manifest import has_manifest
    from latentslots.device import to_device
    from latentslots.models.autoencoder import load_vae

    if not options.output_dir and not has_manifest(options.path):
        raise ValueError(f"{options.path} keeps no latents: name an --output-dir")
    vae = to_device(load_vae(options.vae))
    data = DataConfig(path=options.path, resolution=options.resolution, latents=options.output_dir)
    folder = latents_dir(data, options.split, vae, fallback=Path(options.path))
    cache_latents(
        build_split(data, options.split),
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
