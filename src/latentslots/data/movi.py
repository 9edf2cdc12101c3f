"""Importing MOVi (Greff et al., 2022, https://arxiv.org/abs/2203.03570): videos with exact masks.

The data lie in TFRecord shards, one record a video of 24 frames. A row is a frame, with its
segmentation, where the camera was, and what is known of every object in that frame; object `i` has
the id `i + 1`.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from latentslots.data.blocks import Workers, is_written, write_blocks
from latentslots.data.download import TIMEOUT_SECONDS, download, is_url
from latentslots.data.errors import DataError
from latentslots.data.movi_records import (
    MoviOptions,
    attribute_features,
    columns,
    video_rows,
)
from latentslots.data.tfrecord import Feature, TFRecordError, parse_example, read_records
from latentslots.data.writer import StoreWriter

BUCKET = "https://storage.googleapis.com/kubric-public/tfds"
SPLITS = ("train", "validation", "test")
_FILE = re.compile(r"(?P<name>.+)-(?P<split>\w+)\.tfrecord-(?P<number>\d{5})-of-(?P<count>\d{5})")


@dataclass(frozen=True, kw_only=True)
class MoviShards:
    """The shards of a split, in order: paths, or addresses.

    Attributes:
        places: Where they are.
        num_bytes: Their size, all together, where it is known.
    """

    places: tuple[str, ...]
    num_bytes: int | None = field(default=None, compare=False)


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
        num_bytes = sum(path.stat().st_size for path in paths)
        splits[split] = MoviShards(places=tuple(map(str, paths)), num_bytes=num_bytes)
    return {split: splits[split] for split in sorted(splits, key=_order)}


def _listed(address: str, variant: str) -> dict[str, MoviShards]:
    """What the `dataset_info.json` of an address names."""
    try:
        with urlopen(f"{address}/dataset_info.json", timeout=TIMEOUT_SECONDS) as response:
            content = json.load(response)
        splits = {}
        for split in content["splits"]:
            count = len(split["shardLengths"])
            stem = f"{variant.replace('-', '_')}-{split['name']}.tfrecord"
            splits[split["name"]] = MoviShards(
                places=tuple(f"{address}/{stem}-{n:05d}-of-{count:05d}" for n in range(count)),
                num_bytes=int(split["numBytes"]) if "numBytes" in split else None,
            )
    except OSError as error:
        raise DataError(f"{address}/dataset_info.json cannot be fetched: {error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{address}/dataset_info.json does not list shards: {error!r}") from error
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
        places = found[split].places
        spec = {
            "program": "latentslots data import",
            "variant": options.variant,
            "every": options.every,
            "resolution": options.resolution,
            "layers": list(options.layers),
            "size": size if str(source) == "public" else None,
        }
        if is_written(out, split, spec):
            continue
        downloads = out / f".{split}.downloads.partial"
        first = _fetched(places[0], downloads)
        blocks = {
            f"{number:05d}": (place, str(downloads), options) for number, place in enumerate(places)
        }
        write_blocks(
            _writer(out, split, options, spec, _peek(first)),
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
    )


def _shard_rows(work: tuple[str, str, MoviOptions]) -> Iterator[dict[str, Any]]:
    """The frames of a shard's videos; a fetched shard is gone afterwards."""
    place, folder, options = work
    path = _fetched(place, Path(folder))
    for record in read_records(path):
        try:
            yield from video_rows(parse_example(record.data), options)
        except (TFRecordError, KeyError, ValueError) as error:
            reason = f"has no {error}" if isinstance(error, KeyError) else f"is no MOVi: {error}"
            raise DataError(f"{path}, the record at byte {record.offset}, {reason}") from error
    if is_url(place):
        path.unlink()
