"""Importing MOVi (Greff et al., 2022, https://arxiv.org/abs/2203.03570): videos with exact masks.

The data are TFRecord shards, in which each record is a video of 24 frames. A row of the store is a
frame with its segmentation, the camera's pose, and the attributes of all objects in that frame;
object `i` has the id `i + 1`.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentslots.data.errors import DataError
from latentslots.data.importers.download import download, is_url
from latentslots.data.importers.movi_records import (
    MoviOptions,
    attribute_features,
    columns,
    video_rows,
)
from latentslots.data.importers.tfrecord import Feature, TFRecordError, parse_example, read_records
from latentslots.data.store.resumable import Workers, is_written, write_blocks
from latentslots.data.store.source_files import SourceFiles
from latentslots.data.store.writer import StoreWriter
from latentslots.files import read_json
from latentslots.fingerprint import text_sha256

BUCKET = "https://storage.googleapis.com/kubric-public/tfds"
SPLITS = ("train", "validation", "test")
_FILE = re.compile(r"(?P<name>.+)-(?P<split>\w+)\.tfrecord-(?P<number>\d{5})-of-(?P<count>\d{5})")


@dataclass(frozen=True, kw_only=True)
class MoviShards:
    """The shards of a split, in order.

    Attributes:
        locations: Their paths or web addresses.
        num_bytes: Their total size, if it is known.
        lengths: Videos in each, if a `dataset_info.json` lists them.
    """

    locations: tuple[str, ...]
    num_bytes: int | None = field(default=None, compare=False)
    lengths: tuple[int, ...] = field(default=(), compare=False)

    @property
    def source_files(self) -> SourceFiles:
        """Fingerprint of their names and total size."""
        names = "\n".join(location.rpartition("/")[2] for location in self.locations)
        return SourceFiles(text_sha256(f"{names}\n{self.num_bytes}")[:16], self.num_bytes or 0)


def find_movi(
    source: str | os.PathLike[str], variant: str, *, size: int = 256
) -> dict[str, MoviShards]:
    """Find the shards of every split.

    Args:
        source: A folder that holds the shards at any depth, the web address of a folder that holds
            them and their `dataset_info.json`, or `public` for the bucket of MOVi's authors.
        variant: One of `VARIANTS`.
        size: Side of the videos in the bucket in pixels: 128 or 256, for MOVi-F also 512.

    Raises:
        DataError: If there are no shards, or one is missing.
    """
    if str(source) == "public":
        source = f"{BUCKET}/{variant.replace('-', '_')}/{size}x{size}/1.0.0"
    if is_url(source):
        return _list_shards(str(source).rstrip("/"), variant)
    folder = Path(source)
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    found: dict[tuple[Path, str, str, int], dict[int, Path]] = {}
    for path in sorted(folder.rglob(f"{variant.replace('-', '_')}-*.tfrecord-*")):
        if match := _FILE.fullmatch(path.name):
            key = (path.parent, match["name"], match["split"], int(match["count"]))
            found.setdefault(key, {})[int(match["number"])] = path
    if not found:
        raise DataError(
            f"{folder} holds no shards of {variant}, such as "
            f"{variant.replace('-', '_')}-train.tfrecord-00000-of-01024"
        )
    splits: dict[str, MoviShards] = {}
    for (parent, name, split, count), shards in found.items():
        missing = sorted(set(range(count)) - set(shards))
        if missing:
            raise DataError(
                f"{parent} lacks {len(missing)} of the {count} shards of {split!r}, "
                f"{name}-{split}.tfrecord-{missing[0]:05d}-of-{count:05d} first"
            )
        if split in splits:
            raise DataError(
                f"{folder} holds {split!r} of {variant} more than once: name one of its subfolders"
            )
        paths = [shards[number] for number in range(count)]
        splits[split] = MoviShards(
            locations=tuple(map(str, paths)),
            num_bytes=sum(path.stat().st_size for path in paths),
            lengths=_listed_lengths(parent, split, count),
        )
    return {split: splits[split] for split in sorted(splits, key=_order)}


def _listed_lengths(folder: Path, split: str, count: int) -> tuple[int, ...]:
    """Videos in each shard of a folder, if its `dataset_info.json` lists them."""
    file = folder / "dataset_info.json"
    if not file.is_file():
        return ()
    for info in _read_info(file, str(file)):
        if info["name"] == split and len(info["shardLengths"]) == count:
            return tuple(map(int, info["shardLengths"]))
    return ()


def _read_info(file: Path, name: str) -> list[dict[str, Any]]:
    """Read the entries of the splits in a `dataset_info.json`."""
    try:
        splits: list[dict[str, Any]] = read_json(file)["splits"]
        for split in splits:
            split["name"], list(map(int, split["shardLengths"])), int(split.get("numBytes", 0))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{name} does not list shards: {error!r}") from error
    return splits


def _list_shards(address: str, variant: str) -> dict[str, MoviShards]:
    """List the shards at a web address by its `dataset_info.json`."""
    url = f"{address}/dataset_info.json"
    with tempfile.TemporaryDirectory() as folder:
        infos = _read_info(download(url, Path(folder) / "dataset_info.json"), url)
    splits = {}
    for split in infos:
        lengths = tuple(map(int, split["shardLengths"]))
        stem = f"{variant.replace('-', '_')}-{split['name']}.tfrecord"
        names = (f"{stem}-{n:05d}-of-{len(lengths):05d}" for n in range(len(lengths)))
        splits[split["name"]] = MoviShards(
            locations=tuple(f"{address}/{name}" for name in names),
            num_bytes=int(split["numBytes"]) if "numBytes" in split else None,
            lengths=lengths,
        )
    return {split: splits[split] for split in sorted(splits, key=_order)}


def _order(split: str) -> tuple[int, str]:
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS), split)


def import_movi(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: MoviOptions,
    *,
    size: int = 256,
    splits: Sequence[str] = ("train", "validation"),
    workers: int | None = None,
    progress: bool = False,
) -> Path:
    """Write MOVi as a store, or resume an interrupted import.

    The bytes of images and masks are stored unchanged, unless they are resized. `attributes` has
    all values of the objects in the records, frame by frame; `bboxes` are 0 in frames in which an
    object is not visible.

    Args:
        source: See `find_movi`. Every worker downloads one shard at a time, and deletes it once
            it is read.
        out: Folder of the store, new or of an interrupted import.
        options: Variant, frames and layers to import.
        size: See `find_movi`.
        splits: Names of the splits.
        workers: Number of processes; by default one per core.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The folder of the store.

    Raises:
        DataError: If a split or a shard is missing or damaged.
    """
    out = Path(out)
    found = find_movi(source, options.variant, size=size)
    for split in splits:
        if split not in found:
            raise DataError(f"{source} has no split {split!r}, only {', '.join(found)}")
    for split in splits:
        shards = found[split]
        locations = shards.locations
        spec = {
            "program": "latentslots data import",
            "variant": options.variant,
            "every": options.every,
            "resolution": options.resolution,
            "layers": list(options.layers),
            "size": size if str(source) == "public" else None,
        }
        if is_written(out, split, spec, shards.source_files):
            continue
        downloads = out / f".{split}.downloads.partial"
        first = _local_path(locations[0], downloads)
        lengths = shards.lengths or (0,) * len(locations)
        blocks = {
            f"{number:05d}": (location, length, str(downloads), options)
            for number, (location, length) in enumerate(zip(locations, lengths, strict=True))
        }
        write_blocks(
            _writer(out, split, options, spec, shards.source_files, _first_video(first)),
            blocks,
            _shard_rows,
            spec=spec,
            source=locations[0],
            workers=Workers(count=workers),
            progress=progress,
            unit="shard",
        )
        shutil.rmtree(downloads, ignore_errors=True)
    return out


def _local_path(location: str, downloads: Path) -> Path:
    """Path of a shard, downloaded first if its location is a web address."""
    if is_url(location):
        return download(location, downloads / location.rpartition("/")[2])
    return Path(location)


def _first_video(shard: Path) -> dict[str, Feature]:
    """Read the features of the first video, because the attributes differ between variants."""
    for record in read_records(shard):
        return parse_example(record.data)
    raise TFRecordError(f"{shard} holds no record")


def _writer(
    out: Path,
    split: str,
    options: MoviOptions,
    spec: Mapping[str, Any],
    source_files: SourceFiles,
    first: Mapping[str, Feature],
) -> StoreWriter:
    return StoreWriter(
        out,
        split,
        kind=options.variant,
        license="Apache-2.0",
        credit="Kubric authors, https://github.com/google-research/kubric",
        segmentation=True,
        video=True,
        attributes=attribute_features(options.variant, first),
        columns=columns(first, options),
        made_by=spec,
        source=source_files.fingerprint,
    )


def _shard_rows(shard: tuple[str, int, str, MoviOptions]) -> Iterator[dict[str, Any]]:
    """Yield the frames of a shard's videos; a downloaded shard is deleted afterwards."""
    location, length, downloads, options = shard
    path = _local_path(location, Path(downloads))
    count = 0
    for record in read_records(path):
        count += 1
        try:
            yield from video_rows(parse_example(record.data), options)
        except (TFRecordError, KeyError, ValueError, IndexError) as error:
            reason = f"has no {error}" if isinstance(error, KeyError) else f"is not MOVi: {error}"
            raise DataError(f"{path}: the record at byte {record.offset} {reason}") from error
    if not count:
        raise TFRecordError(f"{path} holds no record")
    if length and count != length:
        raise DataError(f"{path} holds {count} videos, but dataset_info.json lists {length}")
    if is_url(location):
        path.unlink()
