"""Reading data sets: a store of Parquet shards, or a plain folder of images.

A store is a folder `<path>/<split>/part-00000.parquet` beside a `dataset_info.json`. Its rows:

- `image`: the encoded image.
- `segmentation`, where there is one: a PNG of ids of 8 or 16 bits; 0 is the background.
- `ignore`, optional: a PNG that is not 0 where a pixel has no trustworthy label.
- `attributes`, optional: lists of equal length; item i describes the object with id i + 1.
- `video` and `frame`, where the images are frames.

`latentslots.data.store.writer` writes them.
"""

import hashlib
import os
from glob import escape
from pathlib import Path
from typing import Literal, overload

from datasets import Dataset, IterableDataset
from datasets.splits import NamedSplit

from latentslots.bundled import bundled_folder
from latentslots.data.errors import DataError, UnknownSplitError
from latentslots.data.store.folder import folder_splits, load_folder
from latentslots.data.store.manifest import Manifest, Shard, has_manifest, is_address, read_manifest

BUNDLED_SCENES = "scenes"
_HINTS = {"data/scenes": "`latentslots data make scenes data/scenes` makes it"}


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
            folder that holds images at any depth; or `bundled`, 128 scenes that ship with the
            package (split `validation`).
        split: `train`, `validation`, or another that the store has.
        glob: Of a folder, only the images that match, such as `**/*_rgb.png`.
        validation_fraction: Of a folder, the share that is held out as `validation`.
        group_by: What is held out together: each `file` by itself, or all of a `parent` folder,
            which then names a video.
        seed: Another seed holds out other images.
        streaming: Read from where the store lies, row by row, instead of a memory-mapped copy in
            the cache of HF datasets.
        hint: How to get the data, for the message that says that `path` does not exist.

    Returns:
        Rows of a store as the head of this module lists them; of a folder, `image` and `video`.
    """
    path = dataset_path(path)
    if glob is None and _is_store(path):
        if validation_fraction is not None:
            raise DataError(
                f"{path} is a store, which has splits already: validation_fraction is for a "
                "folder of images"
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
    """Where a data set lies: `bundled` is a name, and all else a place."""
    return str(bundled_folder(BUNDLED_SCENES)) if path == "bundled" else os.fspath(path)


def split_names(path: str | os.PathLike[str]) -> list[str]:
    """Name the splits of a store, or of a folder of images that is opened without options."""
    path = os.fspath(path)
    if _is_store(path):
        return list(read_manifest(path).splits)
    _check_folder(path, _HINTS.get(path.rstrip("/")))
    return folder_splits(Path(path))


def dataset_fingerprint(dataset: Dataset) -> str:
    """Name the content of a data set: equal for equal shards or files, wherever they lie.

    It follows what HF datasets does to the rows (`select`, `filter`, `shuffle`, ...), so that two
    selections differ.
    """
    return str(dataset._fingerprint)


def find_shards(path: str, manifest: Manifest, split: str) -> tuple[Shard, ...]:
    """List the shards of a split, after a look that each is there and as long as it should be."""
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


def _is_store(path: str) -> bool:
    return (is_address(path) or Path(path).is_dir()) and has_manifest(path)


def _load_store(path: str, split: str, *, streaming: bool) -> Dataset | IterableDataset:
    shards = find_shards(path, read_manifest(path), split)
    if not is_address(path):
        path = escape(str(Path(path).absolute()))  # HF datasets takes file names for patterns
    files = [f"{path.rstrip('/')}/{shard.file}" for shard in shards]
    if streaming:
        return IterableDataset.from_parquet(files, split=NamedSplit(split))
    content = hashlib.sha256("\n".join(shard.sha256 for shard in shards).encode()).hexdigest()[:32]
    # The hash in the configuration's name makes HF datasets convert again after the store was
    # rewritten, even where the time stamps of the files did not change.
    dataset = Dataset.from_parquet(files, split=NamedSplit(split), config_name=f"store-{content}")
    return Dataset(dataset.data, info=dataset.info, split=dataset.split, fingerprint=content)


def _check_folder(path: str, hint: str | None) -> None:
    if is_address(path):
        raise DataError(
            f"there is no store at {path}, or it cannot be reached: no dataset_info.json is there"
        )
    if not Path(path).exists():
        raise DataError(f"there is no data set at {path}{f': {hint}' if hint else ''}")
    if not Path(path).is_dir():
        raise DataError(f"{path} is a file; a data set is a folder")
    unfinished = sorted(part.name for part in Path(path).glob(".*.partial"))
    if unfinished:
        split = unfinished[0].split(".")[1]
        raise DataError(f"{path} is incomplete: split {split!r} was begun and not finished")
    if next(Path(path).iterdir(), None) is None:
        raise DataError(f"{path} is an empty folder")
