"""`latentslots data {make,import,merge,info,verify,cache-latents}`."""

import json
import logging
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Union

import tyro

from latentslots.cli.data_import import IMPORTS
from latentslots.cli.import_options import Out
from latentslots.config.seeds import check_seed

PROG = "latentslots data"
Data = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")]
Kind = Literal["scenes", "scenes-textured", "parts"]


@dataclass(frozen=True, kw_only=True)
class MakeParts:
    """Figures of exchangeable parts, with masks of the parts."""

    kind: ClassVar[Kind] = "parts"

    out: Out
    """Folder of the data set, new or interrupted; an interrupted one is resumed."""
    num_train: int = 16_000
    """Images in the split `train`."""
    num_validation: int = 1_000
    """Images in the split `validation`."""
    num_test: int = 0
    """Images in the split `test`."""
    size: int = 64
    """Side of the images in pixels."""
    seed: int = 0
    """Number of the first scene; the same number gives the same scene on every machine."""
    edit_pairs: bool = False
    """Make pairs of images, before and after an edit: an object or part is removed, replaced or
    recolored, an object of a scene is moved, or the ground is changed."""
    workers: int | None = None
    """Number of processes; by default one per core."""

    def run(self) -> int:
        """Make the data set and print its folder."""
        from latentslots.data.scenes.make import SceneOptions, make_scenes

        options = asdict(self)
        names = [field.name for field in fields(SceneOptions) if field.name in options]
        scenes = SceneOptions(kind=self.kind, **{name: options.pop(name) for name in names})
        print(make_scenes(options.pop("out"), scenes, **options, progress=True))
        return 0


@dataclass(frozen=True, kw_only=True)
class MakeScenes(MakeParts):
    """Scenes of plain objects on a plain ground."""

    kind: ClassVar[Kind] = "scenes"

    min_objects: int = 3
    """Least number of objects in a scene."""
    max_objects: int = 6
    """Greatest number of objects in a scene."""
    video: bool = False
    """Make videos of 24 frames, of objects thrown together, instead of images."""


@dataclass(frozen=True, kw_only=True)
class MakeTexturedScenes(MakeScenes):
    """Scenes of textured objects on a textured ground."""

    kind: ClassVar[Kind] = "scenes-textured"


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Merge several data sets into one, in random order."""

    sources: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="DATA ...")]
    """The data sets: two or more."""
    out: str
    """Folder of the new data set."""
    weights: tuple[float, ...] = ()
    """Proportions of the data sets, such as 1 1 for equal parts; by default every image is taken
    once."""
    seed: int = 0
    """Another seed gives another order."""

    def run(self) -> int:
        """Merge the data sets and print the folder of the new one."""
        check_seed(self.seed)

        from latentslots.data.store.merge import merge_stores

        weights = self.weights or None
        print(merge_stores(self.sources, self.out, weights=weights, seed=self.seed, progress=True))
        return 0


@dataclass(frozen=True, kw_only=True)
class Info:
    """Summarize a data set, and draw a contact sheet."""

    path: Data
    """A data set, a folder of images, or `bundled` for the scenes that ship with the package."""
    contact_sheet: str = ""
    """Also draw images with their masks into this .png or .jpg file."""
    split: str = "train"
    """Split on the contact sheet."""
    num: int = 32
    """Images on the contact sheet."""
    json: bool = False
    """Print JSON instead of a table."""

    def run(self) -> int:
        """Print the summary, and the path of the contact sheet to stderr."""
        from latentslots.data.store.info import contact_sheet, info

        summary = info(self.path)
        print(json.dumps(asdict(summary)) if self.json else summary)
        if self.contact_sheet:
            sheet = contact_sheet(self.path, self.split, self.contact_sheet, num=self.num)
            print(sheet, file=sys.stderr)
        return 0


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Verify the hashes, images and labels of a data set."""

    path: Data
    """The data set. The exit code is 2 if there are errors."""

    def run(self) -> int:
        """Print the errors to stderr."""
        from latentslots.data.store.verify import verify

        errors = verify(self.path, progress=True)
        for error in errors:
            print(f"{PROG}: {error}", file=sys.stderr)
        if not errors:
            print(f"{self.path}: no errors")
        return 2 if errors else 0


@dataclass(frozen=True, kw_only=True)
class CacheLatents:
    """Encode all images of a split once, before training."""

    path: Data
    """A data set, or a folder of images."""
    vae: str = "bundled"
    """The autoencoder: `bundled`, a folder, or a hub id."""
    split: str = "train"
    """Split to encode."""
    resolution: int = 256
    """Side of the images in pixels, as in training."""
    flip: bool = False
    """Also encode the flipped images, for training with --data.random-flip."""
    batch_size: int = 32
    """Images per batch."""
    output_dir: str = ""
    """Folder of the latents; by default beside the shards of the data set."""
    on_bad_sample: Literal["error", "skip"] = "error"
    """What to do with an image that cannot be read: stop with an error, or skip it."""

    def run(self) -> int:
        """Encode the images and print the folder of the latents."""
        from latentslots.build.data import build_split, latents_dir
        from latentslots.config import DataConfig
        from latentslots.data.loading.cache_writer import cache_latents
        from latentslots.data.store.manifest import has_manifest
        from latentslots.device import to_device
        from latentslots.models.autoencoder import load_vae

        if not self.output_dir and not has_manifest(self.path):
            raise ValueError(
                f"{self.path} is not a store to put latents into: name an --output-dir"
            )
        vae = to_device(load_vae(self.vae))
        data = DataConfig(path=self.path, resolution=self.resolution, latents=self.output_dir)
        folder = latents_dir(data, self.split, vae, fallback=Path(self.path))
        cache_latents(
            build_split(data, self.split),
            vae,
            folder,
            resolution=self.resolution,
            batch_size=self.batch_size,
            flip=self.flip,
            on_bad_sample=self.on_bad_sample,
            progress=True,
        )
        print(folder)
        return 0


MAKE: dict[str, type] = {
    "scenes": MakeScenes,
    "scenes-textured": MakeTexturedScenes,
    "parts": MakeParts,
}
GROUPS: dict[str, tuple[str, Mapping[str, type]]] = {
    "make": ("Render scenes or figures by MuJoCo, with exact masks.", MAKE),
    "import": ("Import arrays, a folder of images, or a public data set.", IMPORTS),
}
COMMANDS: dict[str, type] = {
    "merge": Merge,
    "info": Info,
    "verify": Verify,
    "cache-latents": CacheLatents,
}


def run(arguments: list[str]) -> int:
    """Parse the arguments and run the command; returns the exit code."""
    check_name(arguments, [*GROUPS, *COMMANDS], command="data")
    if arguments[0] in GROUPS:
        check_name(arguments[1:], GROUPS[arguments[0]][1], command=f"data {arguments[0]}")
    groups = [
        Annotated[subcommands(commands), tyro.conf.subcommand(name, description=description)]
        for name, (description, commands) in GROUPS.items()
    ]
    all_commands: Any = Union[(*groups, subcommands(COMMANDS))]
    command = tyro.cli(all_commands, prog=PROG, args=arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    exit_code: int = command.run()
    return exit_code


def subcommands(commands: Mapping[str, type]) -> Any:
    """A union of options classes, each a subcommand with its name."""
    named = (Annotated[cls, tyro.conf.subcommand(name)] for name, cls in commands.items())
    return Union[tuple(named)]  # noqa: UP007  (`|` takes no list)


def check_name(arguments: list[str], names: Iterable[str], *, command: str) -> None:
    """Refuse a missing or unknown subcommand in one sentence; tyro handles flags.

    Args:
        arguments: The arguments, the first of which names a subcommand.
        names: Names of the subcommands.
        command: The command, for the message.

    Raises:
        ValueError: If the first argument is not among the names.
    """
    word = arguments[0] if arguments else ""
    if word.replace("_", "-") not in names and not word.startswith("-"):
        got = repr(word) if word else "nothing"
        raise ValueError(f"{command} takes one of {', '.join(names)}, got {got}")
