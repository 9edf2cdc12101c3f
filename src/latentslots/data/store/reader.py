"""Reading data sets: a store of Parquet shards, or a plain folder of images.

A store is a folder `<path>/<split>/part-00000.parquet` beside a `dataset_info.json`. Its rows:

- `image`: the encoded image.
- `segmentation`, optional: a PNG of ids of 8 or 16 bits; 0 is the background.
- `ignore`, optional: a PNG that is not 0 at pixels that are not scored.
- `attributes`, optional: lists of equal length; item i describes the object with id i + 1.
- `video` and `frame`, if the images are frames of videos.

`latentslots.data.store.writer` writes stores.
"""

import atexit
import logging
import os
import re
from collections.abc import Sequence
from functools import cache
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Literal, overload

import datasets
from datasets import Dataset, IterableDataset
from datasets.exceptions import DatasetGenerationError
from datasets.splits import NamedSplit

from latentslots.bundled import bundled_folder
from latentslots.data.errors import DataError, UnknownSplitError
from latentslots.data.store.folder import folder_splits, load_folder
from latentslots.data.store.manifest import (
    UNLISTED,
    Manifest,
    Shard,
    has_manifest,
    is_address,
    read_manifest,
)
from latentslots.fingerprint import text_sha256

logger = logging.getLogger(__name__)

BUNDLED_SCENES = "scenes"
_PARTIAL_SPLIT = re.compile(r"\.(\w+)(\.\w+)?\.partial")
_HINTS = {"data/scenes": "create it by `latentslots data make scenes data/scenes`"}


@overload
def load_dataset(
    path: str | os.PathLike[str],
    *,
    split: str = ...,
    glob: str | None = ...,
    validation_fraction: float | None = ...,
    group_by: str = ...,
    seed: int = ...,
    streaming: Literal[False] = ...,
    hint: str | None = ...,
) -> Dataset: ...
@overload
def load_dataset(
    path: str | os.PathLike[str],
    *,
    split: str = ...,
    glob: str | None = ...,
    validation_fraction: float | None = ...,
    group_by: str = ...,
    seed: int = ...,
    streaming: Literal[True],
    hint: str | None = ...,
) -> IterableDataset: ...
def load_dataset(
    path: str | os.PathLike[str],
    *,
    split: str = "train",
    glob: str | None = None,
    validation_fraction: float | None = None,
    group_by: str = "file",
    seed: int = 0,
    streaming: bool = False,
    hint: str | None = None,
) -> Dataset | IterableDataset:
    """Open one split of a store, or of a plain folder of images, without reading it into memory.

    Args:
        path: A store, on this machine or at an fsspec address (`gs://...`, `hf://...`); a
            folder that holds images at any depth; or `bundled`, the 128 scenes that ship with the
            package (split `validation`).
        split: `train`, `validation`, or another split of the store.
        glob: For a folder: only the images that match, such as `**/*_rgb.png`.
        validation_fraction: For a folder: the fraction that is held out as `validation`.
        group_by: What is held out together: each `file` by itself, or all images of a `parent`
            folder, which is then their `video`.
        seed: Another seed holds out other images.
        streaming: Read row by row from the store's location, instead of a memory-mapped copy in
            the cache of HF datasets.
        hint: How to obtain the data, added to the error if `path` does not exist.

    Returns:
        For a store, rows as this module's docstring lists them; for a folder, `image` and `video`.

    Raises:
        DataError: If there is no such data set or split, or an option does not apply.
    """
    path = dataset_path(path)
    if glob is None and _is_store(path):
        if validation_fraction is not None:
            raise DataError(
                f"{path} is a store, which has splits already: validation_fraction applies to "
                "folders of images"
            )
        return _load_store(path, split, streaming=streaming)
    _check_folder(path, hint or _HINTS.get(path.rstrip("/")))
    folder = load_folder(
        Path(path).absolute(),
        split=split,
        glob=glob,
        validation_fraction=validation_fraction,
        group_by=group_by,
        seed=seed,
    )
    return folder.to_iterable_dataset() if streaming else folder


def dataset_path(path: str | os.PathLike[str]) -> str:
    """Resolve the name `bundled` to its folder; other paths are returned unchanged."""
    return str(bundled_folder(BUNDLED_SCENES)) if path == "bundled" else os.fspath(path)


def split_names(path: str | os.PathLike[str]) -> list[str]:
    """List the splits of a store, or of a folder of images that is opened without options."""
    path = os.fspath(path)
    if _is_store(path):
        return list(read_manifest(path).splits)
    _check_folder(path, _HINTS.get(path.rstrip("/")))
    return folder_splits(Path(path))


def dataset_fingerprint(dataset: Dataset) -> str:
    """Fingerprint of a data set's content: equal for equal shards or files, in any location.

    HF datasets updates it in `select`, `filter`, `shuffle` and so on, so that different selections
    have different fingerprints.
    """
    return str(dataset._fingerprint)


def find_shards(path: str, manifest: Manifest, split: str) -> tuple[Shard, ...]:
    """List the shards of a split. On this machine, their existence and size are checked.

    Raises:
        DataError: If there is no such split, or a shard is missing or incomplete.
    """
    if split not in manifest.splits:
        raise UnknownSplitError(
            f"{path} has no split {split!r}, only {', '.join(map(repr, manifest.splits))}"
        )
    shards = manifest.splits[split].shards
    for shard in () if is_address(path) else shards:
        file = Path(path) / shard.file
        if not file.is_file():
            raise DataError(f"{path} is incomplete: {shard.file} is missing")
        if file.stat().st_size != shard.num_bytes:
            raise DataError(
                f"{path} is incomplete: {shard.file} has {file.stat().st_size} bytes instead of "
                f"{shard.num_bytes}"
            )
    return shards


def shards_fingerprint(shards: Sequence[Shard]) -> str:
    """Fingerprint of a split's content: equal for equal shards, in any location."""
    return text_sha256("\n".join(shard.sha256 for shard in shards))[:32]


def _is_store(path: str) -> bool:
    return (is_address(path) or Path(path).is_dir()) and has_manifest(path)


def _load_store(path: str, split: str, *, streaming: bool) -> Dataset | IterableDataset:
    shards = find_shards(path, read_manifest(path), split)
    if not is_address(path):
        path = escape(str(Path(path).absolute()))  # HF datasets treats file names as patterns
    files = [f"{path.rstrip('/')}/{shard.file}" for shard in shards]
    if streaming:
        return datasets.load_dataset(
            "parquet", data_files={split: files}, split=split, streaming=True
        )
    fingerprint = shards_fingerprint(shards)
    # With the fingerprint in the configuration's name, HF datasets converts a rewritten store
    # again, even if the time stamps of its files did not change.
    try:
        dataset = Dataset.from_parquet(
            files,
            split=NamedSplit(split),
            config_name=f"store-{fingerprint}",
            cache_dir=_cache_dir(),
        )
    except DatasetGenerationError as error:
        cause = error.__cause__ or error
        raise DataError(
            f"{path} is damaged ({cause}): `latentslots data verify` names the file"
        ) from error
    return Dataset(dataset.data, info=dataset.info, split=dataset.split, fingerprint=fingerprint)


@cache
def _cache_dir() -> str:
    """The cache of HF datasets, or a temporary folder if that cannot be written to."""
    folder = Path(datasets.config.HF_DATASETS_CACHE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return str(folder)
    except OSError:
        temporary = TemporaryDirectory(prefix="latentslots-", ignore_cleanup_errors=True)
        atexit.register(temporary.cleanup)
        logger.warning(
            "%s cannot be written to: %s takes its place until this program ends; set HF_HOME to a "
            "folder that can be written to",
            folder,
            temporary.name,
        )
        return temporary.name


def _check_folder(path: str, hint: str | None) -> None:
    if is_address(path):
        raise DataError(
            f"there is no store at {path}, or it cannot be reached: it has no dataset_info.json"
        )
    if not Path(path).exists():
        raise DataError(f"there is no data set at {path}{f': {hint}' if hint else ''}")
    if not Path(path).is_dir():
        raise DataError(f"{path} is a file; a data set is a folder")
    partial = [_PARTIAL_SPLIT.fullmatch(entry.name) for entry in Path(path).glob(".*.partial")]
    splits = [match[1] for match in partial if match]
    splits += [entry.parent.name for entry in Path(path).glob(f"*/{UNLISTED}")]
    if splits:
        raise DataError(
            f"{path} is incomplete: writing split {min(splits)!r} was interrupted; repeat the "
            "command to resume it"
        )
    if next(Path(path).iterdir(), None) is None:
        raise DataError(f"{path} is an empty folder")
