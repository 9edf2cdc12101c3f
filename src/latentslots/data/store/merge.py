"""Several stores become one, to learn from all of them at once."""

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

_PICTURES = ("image", "segmentation", "ignore")


def merge_stores(
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    weights: Sequence[float] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Path:
    """Write the splits that all sources have, their images in random order, as a new store.

    Kept are the images' bytes and file names, the segmentations where every source has them, what
    they ignore, and the images' licenses; `video` and `frame` where every source has them, the
    videos' names behind the number of their source. The column `dataset` has the name of the store
    that a row comes from. Attributes are left out, and logged.

    Args:
        sources: Two stores or more.
        out: Folder of the new store.
        weights: How much of the new store is each source's, in proportion. It stays as large as all
            together: of a source that has fewer images than its share, some are there several
            times; of one that has more, some are left out. By default all, once.
        seed: Another seed gives another order, and another choice.
        progress: Draw a progress bar.
    """
    paths = [os.fspath(source) for source in sources]
    if len(paths) < 2:
        raise DataError(f"there is nothing to merge: {len(paths)} data sets were named")
    if weights is not None and len(weights) != len(paths):
        raise DataError(f"{len(weights)} weights were given for {len(paths)} data sets")
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
            logger.warning("split %r of %s is left out: not all have one", name, path)
    with ExitStack() as writers:  # no split appears before all are written
        for split in splits:
            parts = [load_dataset(path, split=split) for path in paths]
            random = np.random.default_rng(seed)
            places = _places([len(part) for part in parts], weights, random)
            _write(writers, parts, manifests, Path(out), split, places, progress=progress)
    return Path(out)


def _manifest(path: str) -> Manifest:
    if not has_manifest(path):
        raise DataError(f"{path} is no store: `latentslots data import` makes one of it")
    return read_manifest(path)


def _write(
    writers: ExitStack,
    parts: list[Dataset],
    manifests: list[Manifest],
    out: Path,
    split: str,
    places: Sequence[tuple[int, int]],
    *,
    progress: bool,
) -> None:
    there = [set(part.column_names) for part in parts]
    everywhere, anywhere = set.intersection(*there), set.union(*there)
    kept = {"image"} | (everywhere & {"segmentation", "video", "frame"}) | (anywhere & {"license"})
    if "segmentation" in kept:
        kept |= anywhere & {"ignore"}
    left_out = sorted(anywhere - kept - {"dataset"})
    if left_out:
        logger.warning("columns of %r are left out: %s", split, ", ".join(left_out))
    raw = [_encoded(part, kept) for part in parts]
    columns = {"dataset": Value("string")}
    if "license" in kept:
        columns["license"] = Value("string")
    made = StoreWriter(
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
    writer = writers.enter_context(made)
    for number, row in tqdm(places, desc=split, unit="image", disable=not progress):
        cells = raw[number][row]
        values = {name: cells[name]["bytes"] for name in _PICTURES if cells.get(name) is not None}
        values["source"] = cells["image"]["path"]
        if "video" in kept:
            values |= {"video": f"{number}/{cells['video']}", "frame": cells.get("frame")}
        if "license" in kept:
            values["license"] = cells.get("license") or ""
        writer.add(**values, dataset=manifests[number].name)


def _places(
    sizes: Sequence[int], weights: Sequence[float] | None, random: np.random.Generator
) -> list[tuple[int, int]]:
    """Which row of which source comes when."""
    if weights is None:
        places = [(number, row) for number, size in enumerate(sizes) for row in range(size)]
    else:
        ends = np.round(np.cumsum(weights) / sum(weights) * sum(sizes)).astype(int)
        places = []
        for number, (size, count) in enumerate(zip(sizes, np.diff(ends, prepend=0), strict=True)):
            rounds = [random.permutation(size) for _ in range(-(-count // size))]
            places += [(number, int(row)) for row in np.concatenate(rounds)[:count]]
    return [places[place] for place in random.permutation(len(places))]


def _encoded(part: Dataset, kept: set[str]) -> Dataset:
    part = part.select_columns(sorted(kept & set(part.column_names)))
    for name in set(_PICTURES) & set(part.column_names):
        part = part.cast_column(name, ImageFeature(decode=False))
    return part


def _join(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(text for text in texts if text))
