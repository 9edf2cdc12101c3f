"""`latentslots data import NAME SOURCE OUT`: one options class per data set or format."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

from latentslots.cli.import_options import (
    AddOptions,
    ImportOptions,
    ParallelImportOptions,
    Source,
)
from latentslots.config.seeds import check_seed

Options = TypeVar("Options", bound=type[ImportOptions])


@dataclass(frozen=True, kw_only=True)
class ImportArrays(AddOptions):
    """An .npz file of images, optionally with masks."""

    source: Source
    """The .npz file, with `image` [N, H, W, 3] and optionally `mask` [N, H, W]."""
    attributes: str | None = None
    """JSON file, plain or gzipped, of the objects' attributes: for each image a list of values by
    name, whose item i belongs to the object with id i + 1."""

    def write(self) -> Path:
        """Import the arrays."""
        from latentslots.data.importers.arrays import import_arrays

        return import_arrays(**asdict(self), progress=True)


@dataclass(frozen=True, kw_only=True)
class ImportFolder(AddOptions):
    """A folder of images, optionally with a folder of masks."""

    source: Source
    """Folder with images at any depth."""
    masks: str | None = None
    """Folder with an image of ids for every image, at the same relative path."""
    palette: str | None = None
    """JSON file of ids by color, such as {"#ff0000": 1}, if the masks are pictures in color."""
    glob: str | None = None
    """Only the images that match, such as `**/*_rgb.png`."""
    validation_fraction: float | None = None
    """Hold this fraction out as `validation`."""
    group_by: Literal["file", "parent"] = "file"
    """What is held out together: single files, or all of a parent folder (a video)."""
    on_bad_sample: Literal["error", "skip"] = "error"
    """What to do with a file that cannot be read: stop with an error, or skip and count it."""
    workers: int | None = None
    """Number of processes; by default one per core."""
    seed: int = 0
    """Another seed holds out other images."""

    def write(self) -> Path:
        """Import the images."""
        from latentslots.data.importers.image_folder import import_folder

        check_seed(self.seed)
        options = asdict(self)
        return import_folder(options.pop("source"), options.pop("out"), **options, progress=True)


@dataclass(frozen=True, kw_only=True)
class ImportMovi(ParallelImportOptions):
    """MOVi, from TFRecord shards."""

    source: Source
    """A folder of shards, the web address of one, or `public` for the bucket of its authors."""
    splits: tuple[str, ...] = ("train", "validation")
    """Splits to import."""
    size: Literal[128, 256, 512] = 256
    """Side in pixels of the videos in the bucket (512: MOVi-F only)."""
    every: int = 1
    """Take every n-th frame of a video, from the first on."""
    layers: tuple[
        Literal["depth", "normal", "object_coordinates", "forward_flow", "backward_flow"], ...
    ] = ()
    """Further maps to keep of every frame."""
    dry_run: bool = False
    """Only print the number of shards and their size."""

    def write(self) -> Path:
        """Import the videos."""
        from latentslots.data.importers.movi import import_movi
        from latentslots.data.importers.movi_records import MoviOptions

        options = MoviOptions(
            variant=self.kind, every=self.every, resolution=self.resolution, layers=self.layers
        )
        return import_movi(
            self.source,
            self.out,
            options,
            size=self.size,
            splits=self.splits,
            workers=self.workers,
            progress=True,
        )

    def run(self) -> int:
        """Import the videos, or print the number and size of the shards."""
        if not self.dry_run:
            return super().run()
        from latentslots.data.importers.movi import find_movi

        for split, shards in find_movi(self.source, self.kind, size=self.size).items():
            size = "" if shards.num_bytes is None else f", {shards.num_bytes:,} bytes"
            print(f"{split}: {len(shards.locations)} shards{size}")
        return 0


@dataclass(frozen=True, kw_only=True)
class ImportMultiObject(ImportOptions):
    """One of DeepMind's multi-object data sets."""

    source: Source
    """The file, a GZIP stream of TFRecords."""
    crop: bool = False
    """Crop the images of CLEVR as usual: 192 x 192 pixels around the center."""
    max_objects: int | None = None
    """Drop images with more objects; 6 gives CLEVR6."""
    num_train: int | None = None
    """Records of the split `train`; by default the usual number."""
    num_validation: int | None = None
    """Records of the split `validation`, which follow those of `train`."""
    num_test: int | None = None
    """Records of the split `test`, the last."""

    def write(self) -> Path:
        """Import the records."""
        from latentslots.data.importers.multi_object import (
            LAYOUTS,
            MultiObjectOptions,
            import_multi_object,
        )

        options = MultiObjectOptions(
            kind=self.kind,
            crop=self.crop,
            resolution=self.resolution,
            max_objects=self.max_objects,
        )
        counts = dict(LAYOUTS[self.kind].counts)
        for split in ("train", "validation", "test"):
            count = getattr(self, f"num_{split}")
            if count is not None:
                counts[split] = count
        counts = {split: count for split, count in counts.items() if count}
        return import_multi_object(self.source, self.out, options, counts=counts, progress=True)


@dataclass(frozen=True, kw_only=True)
class ImportClevrTex(ParallelImportOptions):
    """CLEVRTex or one of its variants."""

    source: Source
    """Folder that holds the unpacked scenes at any depth."""
    crop: Literal["center", "clevr"] | None = None
    """Crop of 192 x 192 pixels: the authors' crop of CLEVRTex, or the usual one of CLEVR."""

    def write(self) -> Path:
        """Import the scenes."""
        from latentslots.data.importers.clevrtex import ClevrTexOptions, import_clevrtex

        options = ClevrTexOptions(
            variant=self.kind.removeprefix("clevrtex-"), crop=self.crop, resolution=self.resolution
        )
        return import_clevrtex(self.source, self.out, options, workers=self.workers, progress=True)


@dataclass(frozen=True, kw_only=True)
class ImportClevr(ParallelImportOptions):
    """CLEVR without masks, as it was released."""

    source: Source
    """The folder CLEVR_v1.0."""
    splits: tuple[str, ...] = ("train", "validation")
    """Splits to import: train, validation, test."""

    def write(self) -> Path:
        """Import the images."""
        from latentslots.data.importers.clevr import import_clevr

        return import_clevr(**asdict(self), progress=True)


@dataclass(frozen=True, kw_only=True)
class ImportFfhq(ParallelImportOptions):
    """FFHQ, or any folder of images named by numbers."""

    source: Source
    """Folder with images at any depth, such as thumbnails128x128."""
    num_train: int = 60_000
    """Images with a lower number are `train`, all others `validation`."""

    def write(self) -> Path:
        """Import the images."""
        from latentslots.data.importers.ffhq import import_ffhq

        return import_ffhq(**asdict(self), progress=True)


@dataclass(frozen=True, kw_only=True)
class ImportDump(ParallelImportOptions):
    """Folders of frames that the scripts of other code wrote."""

    source: Source
    """The folder that holds the splits."""
    license: str | None = None
    """License of the images, which such folders do not contain (MOVi's is Apache-2.0)."""
    credit: str | None = None
    """Author to be named."""

    def write(self) -> Path:
        """Import the frames."""
        from latentslots.data.importers.dumps import import_dump

        layout: Literal["lsd", "slotdiffusion"] = (
            "lsd" if self.kind == "lsd-dump" else "slotdiffusion"
        )
        options = asdict(self)
        source, out = options.pop("source"), options.pop("out")
        return import_dump(source, out, layout, **options, progress=True)


@dataclass(frozen=True, kw_only=True)
class ImportVoc(ParallelImportOptions):
    """PASCAL VOC 2012."""

    source: Source
    """The folder VOC2012, or one that holds it or VOCdevkit."""
    lists: tuple[str, ...] = ("train=trainaug", "validation=val")
    """For each split, a list of ImageSets/Segmentation."""

    def write(self) -> Path:
        """Import the images."""
        from latentslots.data.importers.voc import VocOptions, import_voc

        lists = {}
        for text in self.lists:
            split, _, name = text.partition("=")
            if not (split and name):
                raise ValueError(f"--lists takes SPLIT=LIST, got {text!r}")
            lists[split] = name
        options = VocOptions(resolution=self.resolution)
        return import_voc(
            self.source, self.out, options, lists=lists, workers=self.workers, progress=True
        )


@dataclass(frozen=True, kw_only=True)
class ImportCoco(ParallelImportOptions):
    """COCO, or other data in its format."""

    source: Source
    """Folder with `annotations/`, and `train2017/` and `val2017/` directly or in `images/`."""
    splits: tuple[str, ...] = ("train", "validation")
    """Splits to import; a single one with --annotations."""
    annotations: str | None = None
    """JSON file of other data in COCO's format."""
    images: str | None = None
    """Folder of the images of such data; by default SOURCE."""
    license: str | None = None
    """License of such data."""
    credit: str | None = None
    """Author of such data to be named."""
    crowd: Literal["ignore", "keep", "drop"] = "ignore"
    """What a region that holds a crowd becomes: not scored, an object, or background."""

    def write(self) -> Path:
        """Import the images."""
        from latentslots.data.importers.coco import CocoOptions, import_coco

        options = asdict(self)
        names = [field.name for field in fields(CocoOptions) if field.name in options]
        chosen = {name: options.pop(name) for name in names}
        coco = CocoOptions(kind="instances" if self.kind == "coco" else "panoptic", **chosen)
        source, out = options.pop("source"), options.pop("out")
        return import_coco(source, out, coco, **options, progress=True)


@dataclass(frozen=True, kw_only=True)
class ImportCocoInstances(ImportCoco):
    """COCO's instances, or other data in this format."""

    kind: ClassVar[str] = "coco"

    overlap: Literal["first", "last"] = "first"
    """The instance that gets a pixel which several contain: the first or the last in the file."""
    ignore_overlap: bool = False
    """Exclude such pixels from scoring."""


@dataclass(frozen=True, kw_only=True)
class ImportCocoPanoptic(ImportCoco):
    """COCO's panoptic segmentations, or other data in this format."""

    kind: ClassVar[str] = "coco-panoptic"

    stuff: bool = True
    """Include stuff, such as grass and sky, as objects."""


def _variant(options: Options, kind: str, description: str) -> Options:
    """A subclass for one of several data sets with the same options."""
    content = {"__doc__": description, "__module__": __name__, "kind": kind}
    variant: Options = type(options.__name__, (options,), content)  # type: ignore[assignment]  # a class made here has the type `type`
    return variant


_MULTI_OBJECT = {
    "clevr-with-masks": "CLEVR with masks, as released by DeepMind",
    "multi-dsprites-binarized": "Multi-dSprites, binarized",
    "multi-dsprites-colored-on-grayscale": "Multi-dSprites, colored on grayscale",
    "multi-dsprites-colored-on-colored": "Multi-dSprites, colored on colored",
    "objects-room": "Objects Room",
    "tetrominoes": "Tetrominoes",
}
_CLEVRTEX = {
    "full": "CLEVRTex",
    "pbg": "CLEVRTex with plain backgrounds",
    "vbg": "CLEVRTex with varied backgrounds",
    "grassbg": "CLEVRTex with grass backgrounds",
    "camo": "CLEVRTex with camouflaged objects",
    "outd": "CLEVRTex with shapes and materials out of distribution",
}
IMPORTS: dict[str, type[ImportOptions]] = {
    "arrays": ImportArrays,
    "folder": ImportFolder,
    **{
        f"movi-{letter}": _variant(
            ImportMovi, f"movi-{letter}", f"MOVi-{letter.upper()}, videos from TFRecord shards."
        )
        for letter in "abcdef"
    },
    **{
        kind: _variant(ImportMultiObject, kind, f"{title}.")
        for kind, title in _MULTI_OBJECT.items()
    },
    "clevr": ImportClevr,
    **{
        f"clevrtex-{name}": _variant(ImportClevrTex, f"clevrtex-{name}", f"{title}.")
        for name, title in _CLEVRTEX.items()
    },
    "coco": ImportCocoInstances,
    "coco-panoptic": ImportCocoPanoptic,
    "voc": ImportVoc,
    "ffhq": ImportFfhq,
    "lsd-dump": _variant(ImportDump, "lsd-dump", "Folders that the official LSD's script wrote."),
    "slotdiffusion-dump": _variant(
        ImportDump, "slotdiffusion-dump", "Folders that SlotDiffusion's script wrote."
    ),
}
