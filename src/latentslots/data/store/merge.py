"""Merging several stores into one, to train on all of them."""

import logging
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from datasets import Dataset, Value
from datasets import Image as ImageFeature
from tqdm import tqdm

from latentslots.data.errors import DataError
from latentslots.data.store.manifest import Manifest, has_manifest, read_manifest
from latentslots.data.store.reader import load_dataset
from latentslots.data.store.writer import StoreWriter

logger = logging.getLogger(__name__)

_IMAGE_COLUMNS = ("image", "segmentation", "ignore")


def merge_stores(
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    weights: Sequence[float] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Path:
    """Write a new store of the splits that all sources have, with their images in random order.

    The images' bytes, file names and licenses are kept. Segmentations, with their `ignore` masks,
    are kept if every source has them; so are `video` and `frame`, with the source's number before
    the names of videos. The new column `dataset` names the store that a row comes from. Other
    columns, attributes among them, are dropped with a warning.

    Args:
        sources: Two stores or more.
        out: Folder of the new store.
        weights: Proportions of the sources in the new store, which is as large as all sources
            together: images of a source with fewer than its share are repeated, and of one with
            more, some are dropped. By default every image is taken once.
        seed: Another seed gives another order and selection.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The folder of the new store.

    Raises:
        DataError: If a source is not a store, they have no split in common, or `out` is a store.
    """
    paths = [os.fspath(source) for source in sources]
    if len(paths) < 2:
        raise DataError(f"merging needs at least two data sets, got {len(paths)}")
    if weights is not None and len(weights) != len(paths):
        raise DataError(
            f"weights must have one value per data set, got {len(weights)} for {len(paths)}"
        )
    if weights is not None and not min(weights) > 0:
        raise DataError(f"weights must be above 0, got {min(weights):g}")
    if has_manifest(os.fspath(out)):
        raise DataError(f"{out} already holds a data set: choose another folder")
    manifests = [_manifest(path) for path in paths]
    splits = [name for name in manifests[0].splits if all(name in m.splits for m in manifests)]
    if not splits:
        raise DataError(f"{', '.join(paths)} have no split in common")
    for path, manifest in zip(paths, manifests, strict=True):
        for name in set(manifest.splits) - set(splits):
            logger.warning("split %r of %s is dropped: not all data sets have it", name, path)
    with ExitStack() as writers:  # no split appears before all are complete
        for split in splits:
            parts = [load_dataset(path, split=split) for path in paths]
            random = np.random.default_rng(seed)
            order = _order([len(part) for part in parts], weights, random)
            _write(writers, parts, manifests, Path(out), split, order, progress=progress)
    return Path(out)


def _manifest(path: str) -> Manifest:
    if not has_manifest(path):
        raise DataError(f"{path} is not a store: convert it by `latentslots data import` first")
    return read_manifest(path)


def _write(
    writers: ExitStack,
    parts: list[Dataset],
    manifests: list[Manifest],
    out: Path,
    split: str,
    order: Sequence[tuple[int, int]],
    *,
    progress: bool,
) -> None:
    columns_of = [set(part.column_names) for part in parts]
    in_all, in_any = set.intersection(*columns_of), set.union(*columns_of)
    kept = {"image"} | (in_all & {"segmentation", "video", "frame"}) | (in_any & {"license"})
    if "segmentation" in kept:
        kept |= in_any & {"ignore"}
    dropped = sorted(in_any - kept - {"dataset"})
    if dropped:
        logger.warning("columns of %r are dropped: %s", split, ", ".join(dropped))
    encoded = [_without_decoding(part, kept) for part in parts]
    columns = {"dataset": Value("string")}
    if "license" in kept:
        columns["license"] = Value("string")
    store_writer = StoreWriter(
        out,
        split,
        kind="+".join(manifest.kind for manifest in manifests),
        license=_join(manifest.license for manifest in manifests),
        credit=_join(manifest.credit for manifest in manifests),
        segmentation="segmentation" in kept,
        ignore="ignore" in kept,
        video="video" in kept,
        columns=columns,
    )
    writer = writers.enter_context(store_writer)
    for number, row in tqdm(order, desc=split, unit="image", disable=not progress):
        cells = encoded[number][row]
        present = [name for name in _IMAGE_COLUMNS if cells.get(name) is not None]
        values = {name: cells[name]["bytes"] for name in present}
        values["source"] = cells["image"]["path"]
        if "video" in kept:
            values |= {"video": f"{number}/{cells['video']}", "frame": cells.get("frame")}
        if "license" in kept:
            values["license"] = cells.get("license") or ""
        writer.add(**values, dataset=manifests[number].name)


def _order(
    sizes: Sequence[int], weights: Sequence[float] | None, random: np.random.Generator
) -> list[tuple[int, int]]:
    """Draw the order of the rows, as pairs of a source's number and a row in it."""
    if weights is None:
        rows = [(number, row) for number, size in enumerate(sizes) for row in range(size)]
    else:
        ends = np.round(np.cumsum(weights) / sum(weights) * sum(sizes)).astype(int)
        rows = []
        for number, (size, count) in enumerate(zip(sizes, np.diff(ends, prepend=0), strict=True)):
            rounds = [random.permutation(size) for _ in range(-(-count // size))]
            rows += [(number, int(row)) for row in np.concatenate(rounds)[:count]]
    return [rows[i] for i in random.permutation(len(rows))]


def _without_decoding(part: Dataset, kept: set[str]) -> Dataset:
    """The kept columns of a data set, with images as encoded bytes."""
    part = part.select_columns(sorted(kept & set(part.column_names)))
    for name in set(_IMAGE_COLUMNS) & set(part.column_names):
        part = part.cast_column(name, ImageFeature(decode=False))
    return part


def _join(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(text for text in texts if text))
