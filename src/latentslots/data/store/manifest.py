"""`dataset_info.json`: what a store holds, and the proof that it was written to the end."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import fsspec

from latentslots.data.errors import DataError
from latentslots.files import write_json

FILE_NAME = "dataset_info.json"
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
    """One split; its images are between `smallest` and `largest` (width, height) pixels."""

    num_rows: int
    smallest: tuple[int, int]
    largest: tuple[int, int]
    shards: tuple[Shard, ...]
    source: str = ""
    """Fingerprint of what it was made of, where known (`data.store.sources`)."""

    @property
    def num_bytes(self) -> int:
        """Size on disk."""
        return sum(shard.num_bytes for shard in self.shards)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A store: where its images come from, what its class numbers mean, and its splits."""

    name: str
    kind: str
    license: str = ""
    credit: str = ""
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names behind the numbers of a categorical attribute."""
    made_by: Mapping[str, Any] = field(default_factory=dict)
    """The program and the options that made the images, where a program did."""
    splits: Mapping[str, SplitManifest] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


def is_address(path: str) -> bool:
    """Tell a remote address, such as `gs://bucket/data`, from a path on this machine."""
    return "://" in path


def has_manifest(path: str) -> bool:
    """Tell whether a folder, local or remote, is a store."""
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


def _parse(content: dict[str, Any]) -> Manifest:
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
