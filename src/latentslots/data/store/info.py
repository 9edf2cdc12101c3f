"""Summary of a data set: a table of numbers, and a contact sheet of its images."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasets import Image as ImageFeature
from jaxtyping import Shaped
from PIL import Image, ImageOps

from latentslots.data.errors import DataError
from latentslots.data.store.encoding import decode, decode_ids
from latentslots.data.store.manifest import Manifest, has_manifest, read_manifest
from latentslots.data.store.reader import dataset_path, find_shards, load_dataset, split_names
from latentslots.data.transforms import ResizeCenterCrop, to_ids
from latentslots.fingerprint import text_sha256

_IMAGE_COLUMNS = ("image", "segmentation")
_LABELS = "attributes"
_MAX_SAMPLES = 1000
_MAX_ROW_GROUPS = 16
_CELLS_PER_LINE = 8
_GAP = 4
# Okabe and Ito's colors, distinct for color-blind readers too; further ids repeat them.
_PALETTE = np.array(
    [
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (0, 114, 178),
        (213, 94, 0),
        (204, 121, 167),
    ]
)


@dataclass(frozen=True, kw_only=True)
class SceneStatistics:
    """How difficult generated scenes are to segment, as fractions of images.

    Attributes:
        hidden: Share of images with an object that others hide by 5 % or more.
        truncated: Share of images with an object that is outside the image by 5 % or more.
        alike: Share of images with two objects of one color, or of one family of textures.
        widths: Smallest, median and largest width of an object as a fraction of the image's width.
    """

    hidden: float
    truncated: float
    alike: float
    widths: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class SplitInfo:
    """Summary of one split.

    Attributes:
        num_images: Images in the split.
        num_bytes: Size on disk in bytes.
        num_sampled: Images, spread over the split, that `sizes` and `objects` were counted on.
        sizes: Sampled images by width and height, such as `320x240`.
        objects: Sampled images by number of visible objects; empty without masks.
        scenes: Statistics of the sampled images, if `data make` made them.
        sha256: Hash of the hashes of a store's shards; empty for a folder of images.
    """

    num_images: int
    num_bytes: int
    num_sampled: int
    sizes: Mapping[str, int]
    objects: Mapping[int, int]
    scenes: SceneStatistics | None = None
    sha256: str = ""

    @property
    def mean_objects(self) -> float | None:
        """Objects per image; `None` without masks."""
        if not self.objects:
            return None
        return sum(number * count for number, count in self.objects.items()) / self.num_sampled


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """Summary of a data set; its string is a table."""

    path: str
    name: str
    kind: str
    license: str
    credit: str
    class_names: Mapping[str, tuple[str, ...]]
    splits: Mapping[str, SplitInfo]

    def __str__(self) -> str:
        """Format the summary as a table."""
        lines = [f"{self.name} ({self.kind}), {self.path}"]
        lines.append(f"license: {self.license or 'not stated'}")
        if self.credit:
            lines.append(f"credit: {self.credit}")
        lines += [f"{name}: {', '.join(names)}" for name, names in self.class_names.items()]
        head = ("split", "images", "size on disk", "pixels", "objects per image")
        rows = [head, *(_cells(name, split) for name, split in self.splits.items())]
        lines += _table(rows)
        for name, split in self.splits.items():
            if split.objects:
                counts = ", ".join(f"{number}: {count}" for number, count in split.objects.items())
                lines.append(f"objects in {split.num_sampled} images of {name}: {counts}")
        hashes = [f"{name} {split.sha256[:16]}" for name, split in self.splits.items()]
        if all(split.sha256 for split in self.splits.values()):
            lines.append(f"sha256: {', '.join(hashes)}")
        scenes = {name: split.scenes for name, split in self.splits.items() if split.scenes}
        if scenes:
            lines += _table([_SCENE_HEAD, *(_scene_cells(*item) for item in scenes.items())])
        return "\n".join(lines)


def info(path: str | os.PathLike[str]) -> DatasetInfo:
    """Summarize a store or a folder of images on this machine.

    Sizes and objects are counted on at most 1000 images per split.
    """
    path = dataset_path(path)
    names = split_names(path)
    stored = has_manifest(path)
    manifest = read_manifest(path) if stored else Manifest(name=Path(path).name, kind="folder")
    return DatasetInfo(
        path=path,
        name=manifest.name,
        kind=manifest.kind,
        license=manifest.license,
        credit=manifest.credit,
        class_names=manifest.class_names,
        splits={name: _describe(path, name, manifest if stored else None) for name in names},
    )


def contact_sheet(
    path: str | os.PathLike[str],
    split: str,
    out: str | os.PathLike[str],
    *,
    num: int = 32,
    tile: int = 96,
) -> Path:
    """Draw images of a split, each beside its segmentation in colors.

    Args:
        path: A store or a folder of images on this machine.
        split: Name of the split.
        out: File to write, `.png` or `.jpg`.
        num: Images to draw, spread over the split.
        tile: Side of an image in pixels.

    Returns:
        The file.
    """
    if num < 1:
        raise DataError(f"num must be at least 1, got {num}")
    out = Path(out)
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise DataError(f"a contact sheet is a .png or .jpg file, got {out}")
    crop = ResizeCenterCrop(tile)
    cells = []
    for row in _sample(dataset_path(path), split, num):
        image, ids = crop(**{name: decode(cell, where=name) for name, cell in row.items()})
        pixels = np.asarray(image)
        gap = np.full((tile, _GAP, 3), 255, np.uint8)
        overlay = [] if ids is None else [gap, _overlay(pixels, to_ids(ids).numpy())]
        cells.append(np.concatenate([pixels, *overlay], axis=1))
    height, width = cells[0].shape[:2]
    columns = min(len(cells), _CELLS_PER_LINE)
    lines = -(-len(cells) // columns)
    step_x, step_y = width + 3 * _GAP, height + 3 * _GAP
    sheet = Image.new("RGB", (columns * step_x, lines * step_y), "white")
    for number, cell in enumerate(cells):
        line, column = divmod(number, columns)
        sheet.paste(Image.fromarray(cell), (column * step_x + _GAP, line * step_y + _GAP))
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
    return out


def _describe(path: str, split: str, manifest: Manifest | None) -> SplitInfo:
    sizes: Counter[str] = Counter()
    objects: Counter[int] = Counter()
    num_sampled = 0
    labels = []
    for row in _sample(path, split, _MAX_SAMPLES, columns=(*_IMAGE_COLUMNS, _LABELS)):
        width, height = ImageOps.exif_transpose(decode(row["image"], where="image")).size
        sizes[f"{width}x{height}"] += 1
        if "segmentation" in row:
            ids = np.asarray(decode_ids(row["segmentation"], where="segmentation"))
            objects[len(np.setdiff1d(ids, [0]))] += 1
        labels.append(row.get(_LABELS, {}))
        num_sampled += 1
    sha256 = ""
    if manifest is None:
        files = load_dataset(path, split=split).cast_column("image", ImageFeature(decode=False))
        num_images = len(files)
        num_bytes = sum(Path(cell["path"]).stat().st_size for cell in files["image"])
    else:
        num_images, num_bytes = manifest.splits[split].num_rows, manifest.splits[split].num_bytes
        sha256 = text_sha256("".join(shard.sha256 for shard in manifest.splits[split].shards))
    return SplitInfo(
        num_images=num_images,
        num_bytes=num_bytes,
        num_sampled=num_sampled,
        sizes=dict(sizes.most_common()),
        objects=dict(sorted(objects.items())),
        scenes=_scene_statistics(labels),
        sha256=sha256,
    )


def _scene_statistics(labels: list[dict[str, Any]]) -> SceneStatistics | None:
    if not all({"occlusion", "truncation", "apparent_width"} <= row.keys() for row in labels):
        return None
    looks = [row.get("color_label", row.get("texture_label", [])) for row in labels]
    widths = np.concatenate([row["apparent_width"] for row in labels])
    return SceneStatistics(
        hidden=float(np.mean([max(row["occlusion"]) >= 0.05 for row in labels])),
        truncated=float(np.mean([max(row["truncation"]) >= 0.05 for row in labels])),
        alike=float(np.mean([len(set(look)) < len(look) for look in looks])),
        widths=(float(widths.min()), float(np.median(widths)), float(widths.max())),
    )


def _sample(
    path: str, split: str, num: int, *, columns: Sequence[str] = _IMAGE_COLUMNS
) -> Iterator[dict[str, dict[str, Any]]]:
    """Yield about `num` rows, spread over a split, with encoded images.

    Of a store, only a few row groups are read, so that a large one is summarized in seconds.
    """
    if not has_manifest(path):
        files = load_dataset(path, split=split).cast_column("image", ImageFeature(decode=False))
        for index in _spread(len(files), num):
            yield {"image": files[index]["image"]}
        return
    manifest = read_manifest(path)
    shards = [
        pq.ParquetFile(Path(path) / shard.file) for shard in find_shards(path, manifest, split)
    ]
    groups = [(shard, group) for shard in shards for group in range(shard.num_row_groups)]
    chosen = [groups[index] for index in _spread(len(groups), _MAX_ROW_GROUPS)]
    for position, (shard, group) in enumerate(chosen):
        present = [name for name in columns if name in shard.schema_arrow.names]
        rows = shard.read_row_group(group, columns=present)
        count = (position + 1) * num // len(chosen) - position * num // len(chosen)
        for index in _spread(len(rows), count):
            yield {name: cell for name in present if (cell := rows[name][index].as_py())}


def _spread(total: int, num: int) -> list[int]:
    """Choose `num` of `total` indices at equal distances."""
    num = min(num, total)
    return [i * total // num for i in range(num)]


def _overlay(
    pixels: Shaped[np.ndarray, "H W 3"], ids: Shaped[np.ndarray, "H W"]
) -> Shaped[np.ndarray, "H W 3"]:
    colors = np.where(ids[..., None] > 0, _PALETTE[(ids - 1) % len(_PALETTE)], 0)
    return (0.4 * pixels + 0.6 * colors).astype(np.uint8)


_SCENE_HEAD = (
    "images with an object",
    "partly hidden",
    "partly out of view",
    "like another",
    "widths in % of the image (smallest, median, largest)",
)


def _scene_cells(name: str, scenes: SceneStatistics) -> tuple[str, ...]:
    shares = (scenes.hidden, scenes.truncated, scenes.alike)
    widths = ", ".join(f"{100 * width:.0f}" for width in scenes.widths)
    return (name, *(f"{100 * share:.0f} %" for share in shares), widths)


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Format rows of cells as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _cells(name: str, split: SplitInfo) -> tuple[str, ...]:
    sizes = list(split.sizes)
    pixels = sizes[0] if len(sizes) == 1 else f"{sizes[0]} and {len(sizes) - 1} other sizes"
    mean = split.mean_objects
    return (
        name,
        f"{split.num_images:,}",
        f"{split.num_bytes / 1e6:,.1f} MB",
        pixels,
        "no masks" if mean is None else f"{mean:.2f}",
    )
