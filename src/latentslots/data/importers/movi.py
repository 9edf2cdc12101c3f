"""Importing MOVi (Greff et al., 2022, https://arxiv.org/abs/2203.03570): videos with exact masks.

The data lie in TFRecord shards, one record a video of 24 frames. A row is a frame, with its
segmentation, where the camera was, and what is known of every object in that frame; object `i` has
the id `i + 1`.
"""

import hashlib
import json
import os
import re
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
from latentslots.data.store.sources import Source
from latentslots.data.store.writer import StoreWriter

BUCKET = "https://storage.googleapis.com/kubric-public/tfds"
SPLITS = ("train", "validation", "test")
_FILE = re.compile(r"(?P<name>.+)-(?P<split>\w+)\.tfrecord-(?P<number>\d{5})-of-(?P<count>\d{5})")


@dataclass(frozen=True, kw_only=True)
class MoviShards:
    """The shards of a split, in order: paths, or addresses.

    Attributes:
        places: Where they are.
        num_bytes: Their size, all together, where it is known.
        lengths: How many videos each has, where a `dataset_info.json` tells.
    """

    places: tuple[str, ...]
    num_bytes: int | None = field(default=None, compare=False)
    lengths: tuple[int, ...] = field(default=(), compare=False)

    @property
    def source(self) -> Source:
        """What tells them from others: their names and their size."""
        names = "\n".join(place.rpartition("/")[2] for place in self.places)
        content = f"{names}\n{self.num_bytes}".encode()
        return Source(hashlib.sha256(content).hexdigest()[:16], self.num_bytes or 0)


def find_movi(
    source: str | os.PathLike[str], variant: str, *, size: int = 256
) -> dict[str, MoviShards]:
    """Find the shards of every split.

    Args:
        source: A folder that holds them at any depth, the address of one on the web with its
            `dataset_info.json`, or `public` for the bucket of MOVi's authors.
        variant: One of `VARIANTS`.
        size: Of the videos in the bucket: 128 or 256 pixels, for MOVi-F also 512.

    Raises:
        DataError: If there are none, or one is missing.
    """
    if str(source) == "public":
        source = f"{BUCKET}/{variant.replace('-', '_')}/{size}x{size}/1.0.0"
    if is_url(source):
        return _listed(str(source).rstrip("/"), variant)
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
                f"{folder} holds {split!r} of {variant} more than once: name one of its folders"
            )
        paths = [shards[number] for number in range(count)]
        splits[split] = MoviShards(
            places=tuple(map(str, paths)),
            num_bytes=sum(path.stat().st_size for path in paths),
            lengths=_told_lengths(parent, split, count),
        )
    return {split: splits[split] for split in sorted(splits, key=_order)}


def _told_lengths(folder: Path, split: str, count: int) -> tuple[int, ...]:
    """How many videos the shards of a folder have, where its `dataset_info.json` tells."""
    file = folder / "dataset_info.json"
    if not file.is_file():
        return ()
    for told in _read_info(file, str(file)):
        if told["name"] == split and len(told["shardLengths"]) == count:
            return tuple(map(int, told["shardLengths"]))
    return ()


def _read_info(file: Path, name: str) -> list[dict[str, Any]]:
    """What a `dataset_info.json` says of every split."""
    try:
        splits: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["splits"]
        for split in splits:
            split["name"], list(map(int, split["shardLengths"])), int(split.get("numBytes", 0))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{name} does not list shards: {error!r}") from error
    return splits


def _listed(address: str, variant: str) -> dict[str, MoviShards]:
    """What the `dataset_info.json` of an address names."""
    place = f"{address}/dataset_info.json"
    with tempfile.TemporaryDirectory() as folder:
        told = _read_info(download(place, Path(folder) / "dataset_info.json"), place)
    splits = {}
    for split in told:
        lengths = tuple(map(int, split["shardLengths"]))
        stem = f"{variant.replace('-', '_')}-{split['name']}.tfrecord"
        names = (f"{stem}-{n:05d}-of-{len(lengths):05d}" for n in range(len(lengths)))
        splits[split["name"]] = MoviShards(
            places=tuple(f"{address}/{name}" for name in names),
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
    """Write MOVi as a store; one that is half written is gone on with.

    Images and masks are stored as they came. Of every object, all that the records tell is in
    `attributes`, frame by frame; `bboxes` are 0 in the frames in which an object is out of sight.

    Args:
        source: See `find_movi`. Shards from the web are fetched one by one by every worker, and
            thrown away when they are read.
        out: Folder of the store, new or half written.
        options: What to take.
        size: See `find_movi`.
        splits: Which splits.
        workers: Processes; by default one per core.
        progress: Whether to show a bar on stderr.

    Returns:
        The folder of the store.

    Raises:
        DataError: If a split or a shard is not there, or damaged.
    """
    out = Path(out)
    found = find_movi(source, options.variant, size=size)
    for split in splits:
        if split not in found:
            raise DataError(f"{source} has no split {split!r}, only {', '.join(found)}")
    for split in splits:
        shards = found[split]
        places = shards.places
        spec = {
            "program": "latentslots data import",
            "variant": options.variant,
            "every": options.every,
            "resolution": options.resolution,
            "layers": list(options.layers),
            "size": size if str(source) == "public" else None,
        }
        if is_written(out, split, spec, shards.source):
            continue
        downloads = out / f".{split}.downloads.partial"
        first = _fetched(places[0], downloads)
        lengths = shards.lengths or (0,) * len(places)
        blocks = {
            f"{number:05d}": (place, length, str(downloads), options)
            for number, (place, length) in enumerate(zip(places, lengths, strict=True))
        }
        write_blocks(
            _writer(out, split, options, spec, shards.source, _peek(first)),
            blocks,
            _shard_rows,
            spec=spec,
            source=places[0],
            workers=Workers(count=workers),
            progress=progress,
            unit="shard",
        )
        _throw_away(downloads)
    return out


def _fetched(place: str, folder: Path) -> Path:
    return download(place, folder / place.rpartition("/")[2]) if is_url(place) else Path(place)


def _throw_away(folder: Path) -> None:
    if folder.is_dir():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def _peek(shard: Path) -> dict[str, Feature]:
    """The features of a shard's first video: not all of MOVi has all attributes."""
    for record in read_records(shard):
        return parse_example(record.data)
    raise TFRecordError(f"{shard} holds no record")


def _writer(
    out: Path,
    split: str,
    options: MoviOptions,
    spec: Mapping[str, Any],
    source: Source,
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
        source=source.fingerprint,
    )


def _shard_rows(work: tuple[str, int, str, MoviOptions]) -> Iterator[dict[str, Any]]:
    """The frames of a shard's videos; a fetched shard is gone afterwards."""
    place, length, folder, options = work
    path = _fetched(place, Path(folder))
    count = 0
    for record in read_records(path):
        count += 1
        try:
            yield from video_rows(parse_example(record.data), options)
        except (TFRecordError, KeyError, ValueError, IndexError) as error:
            reason = f"has no {error}" if isinstance(error, KeyError) else f"is no MOVi: {error}"
            raise DataError(f"{path}, the record at byte {record.offset}, {reason}") from error
    if not count:
        raise TFRecordError(f"{path} holds no record")
    if length and count != length:
        raise DataError(f"{path} holds {count} videos, and dataset_info.json says {length}")
    if is_url(place):
        path.unlink()
