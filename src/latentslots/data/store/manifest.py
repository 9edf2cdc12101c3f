"""`dataset_info.json`, the manifest of a store: its content, written once a split is complete."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import fsspec

from latentslots.data.errors import DataError
from latentslots.files import write_json

FILE_NAME = "dataset_info.json"
UNLISTED = ".unlisted.partial"
"""In the folder of a split until the manifest lists it."""
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One Parquet file of a split."""

    file: str
    """Path relative to the store."""
    num_rows: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class SplitManifest:
    """One split.

    Attributes:
        num_rows: Images in it.
        smallest: Least width and least height of its images, in pixels.
        largest: Greatest width and greatest height.
        shards: Its files in order.
        source: Fingerprint of the files that it was made from (`data.store.source_files`); empty if
            it was not made from files.
    """

    num_rows: int
    smallest: tuple[int, int]
    largest: tuple[int, int]
    shards: tuple[Shard, ...]
    source: str = ""

    @property
    def num_bytes(self) -> int:
        """Size on disk in bytes."""
        return sum(shard.num_bytes for shard in self.shards)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A store: origin of the images, names of the classes, and the splits."""

    name: str
    kind: str
    license: str = ""
    credit: str = ""
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For each attribute with classes, their names in order of the class numbers."""
    made_by: Mapping[str, Any] = field(default_factory=dict)
    """Program and options that made the store; empty if a user assembled it."""
    splits: Mapping[str, SplitManifest] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


def is_address(path: str) -> bool:
    """Whether a path is a remote address such as `gs://bucket/data`."""
    return "://" in path


def has_manifest(path: str) -> bool:
    """Whether a folder, local or remote, is a store."""
    try:
        filesystem, root = fsspec.url_to_fs(path)
    except ImportError as error:
        raise DataError(f"{path} cannot be reached: {error}") from error
    return bool(filesystem.exists(f"{root}/{FILE_NAME}"))


def read_manifest(path: str) -> Manifest:
    """Read the manifest of a store, local or at any fsspec address."""
    location = f"{path.rstrip('/')}/{FILE_NAME}"
    with fsspec.open(location, "rt", encoding="utf-8") as file:
        text = file.read()
    try:
        content = json.loads(text)
        version = content["format_version"]
        if version != FORMAT_VERSION:
            raise DataError(
                f"{location} has format version {version!r}; this release reads {FORMAT_VERSION}"
            )
        return _parse(content)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{location} is damaged, or not the manifest of a store: {error}"
        ) from error


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write the manifest of a store, complete or not at all."""
    write_json(path / FILE_NAME, asdict(manifest))


def _check(split: dict[str, Any]) -> None:
    """Refuse numbers of rows that are none, or do not add up.

    Raises:
        TypeError: If there are such.
    """
    shards = [Shard(**shard) for shard in split["shards"]]
    numbers = [split["num_rows"], *split["smallest"], *split["largest"]]
    numbers += [number for shard in shards for number in (shard.num_rows, shard.num_bytes)]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise TypeError("a number of rows, bytes or pixels is not an integer of 0 or more")
    if sum(shard.num_rows for shard in shards) != split["num_rows"]:
        raise TypeError("the rows of the shards do not add up")


def _parse(content: dict[str, Any]) -> Manifest:
    for split in content["splits"].values():
        _check(split)
    splits = {
        name: SplitManifest(
            num_rows=split["num_rows"],
            smallest=tuple(split["smallest"]),
            largest=tuple(split["largest"]),
            shards=tuple(Shard(**shard) for shard in split["shards"]),
            source=split.get("source", ""),
        )
        for name, split in content["splits"].items()
    }
    class_names = {name: tuple(names) for name, names in content["class_names"].items()}
    return Manifest(**{**content, "splits": splits, "class_names": class_names})
