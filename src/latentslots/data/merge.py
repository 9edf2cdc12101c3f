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
from latentslots.data.manifest import Manifest, has_manifest, read_manifest
from latentslots.data.store import load_dataset
from latentslots.data.writer import StoreWriter

logger = logging.getLogger(__name__)


def merge_stores(
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    progress: bool = False,
) -> Path:
    """Write the splits that all sources have, their images in random order, as a new store.

    Kept are the images' bytes, the segmentations where every source has them, and in the column
    `dataset` the name of the store that a row comes from.

    Args:
        sources: Two stores or more.
        out: Folder of the new store.
        seed: Another seed gives another order.
        progress: Draw a progress bar.
    """
    paths = [os.fspath(source) for source in sources]
    if len(paths) < 2:
        raise DataError(f"there is nothing to merge: {len(paths)} data sets were named")
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
            _write(writers, parts, manifests, Path(out), split, seed=seed, progress=progress)
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
    *,
    seed: int,
    progress: bool,
) -> None:
    pictures = ["image"]
    if all("segmentation" in part.column_names for part in parts):
        pictures.append("segmentation")
    raw = [_encoded(part.select_columns(pictures)) for part in parts]
    places = [(number, row) for number, part in enumerate(raw) for row in range(len(part))]
    order = np.random.default_rng(seed).permutation(len(places))
    made = StoreWriter(
        out,
        split,
        kind="+".join(manifest.kind for manifest in manifests),
        license=_join(manifest.license for manifest in manifests),
        credit=_join(manifest.credit for manifest in manifests),
        segmentation="segmentation" in pictures,
        columns={"dataset": Value("string")},
    )
    writer = writers.enter_context(made)
    for place in tqdm(order, desc=split, unit="image", disable=not progress):
        number, row = places[place]
        cells = {name: cell["bytes"] for name, cell in raw[number][row].items()}
        writer.add(**cells, dataset=manifests[number].name)


def _encoded(part: Dataset) -> Dataset:
    for name in part.column_names:
        part = part.cast_column(name, ImageFeature(decode=False))
    return part


def _join(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(text for text in texts if text))
