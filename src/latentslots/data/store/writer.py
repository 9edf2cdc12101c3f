"""Writing one split of a store, all or nothing."""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel

from latentslots.data.errors import DataError
from latentslots.data.store.encoding import Picture
from latentslots.data.store.manifest import (
    FILE_NAME,
    Manifest,
    Shard,
    SplitManifest,
    has_manifest,
    read_manifest,
    write_manifest,
)
from latentslots.data.store.rows import ROW_GROUP_BYTES, ROW_GROUP_ROWS, RowEncoder, block_sizes
from latentslots.files import publish


class StoreWriter:
    """Adds one split to a store, new or existing.

    The shards are written into a hidden folder beside and appear, with their entry in
    `dataset_info.json`, when the `with` block ends; if it ends with an error, nothing is left.

    Args:
        path: Folder of the store; made if it is not there.
        split: Name of the split, which the store must not have yet.
        name: Name of the data set. None: as the store says, or else the folder's name.
        kind: What the data are: `images`, or a public data set such as `movi-e`. None: as the store
            says, or else `images`.
        license: License of the images.
        credit: Whom to name as their author.
        segmentation: Whether rows have a segmentation.
        ignore: Whether rows may have an `ignore` mask.
        video: Whether rows are frames, which have a `video` and a `frame`.
        attributes: What is known of each object: HF feature per name. The names of a `ClassLabel`
            go into `dataset_info.json` too.
        columns: Further columns, one value per image: HF feature per name.
        made_by: The program and the options that made the images, where a program did.
        source: Fingerprint of what the split is made of.
        shard_bytes: A shard is closed when it has this size.

    Example:
        ```python
        with StoreWriter("data/mine", "train", segmentation=True) as writer:
            for image, ids in scenes:
                writer.add(image, segmentation=ids)
        ```
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str = "train",
        *,
        name: str | None = None,
        kind: str | None = None,
        license: str | None = None,
        credit: str | None = None,
        segmentation: bool = False,
        ignore: bool = False,
        video: bool = False,
        attributes: Mapping[str, Any] | None = None,
        columns: Mapping[str, Any] | None = None,
        made_by: Mapping[str, Any] | None = None,
        source: str = "",
        shard_bytes: int = 256 * 2**20,
    ) -> None:
        self.path, self.split, self.source = Path(path), split, source
        self.shard_bytes = shard_bytes
        self.encoder = RowEncoder(
            segmentation=segmentation,
            ignore=ignore,
            video=video,
            attributes=attributes,
            columns=columns,
        )
        self.num_rows = 0
        self._check_target()
        self._manifest = self._describe(name, kind, license, credit, made_by)

    def __enter__(self) -> "StoreWriter":
        """Make the hidden folder; one that a killed import left is thrown away."""
        self._made_path = not self.path.exists()
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        self._smallest, self._largest = (2**31, 2**31), (0, 0)
        self._shards: list[Shard] = []
        self._rows: list[dict[str, Any]] = []
        self._row_bytes = 0
        self._parquet: pq.ParquetWriter | None = None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let the split appear, or leave nothing of it.

        Raises:
            DataError: If the disk is full.
        """
        try:
            if isinstance(error, OSError):
                refuse_full_disk(self.path, error)
            if error is None:
                self._commit()
        except OSError as problem:
            refuse_full_disk(self.path, problem)
            raise
        finally:
            if self._parquet is not None:
                self._parquet.close()
            shutil.rmtree(self._partial, ignore_errors=True)
            if self._made_path and self.path.is_dir() and not any(self.path.iterdir()):
                self.path.rmdir()

    @property
    def _partial(self) -> Path:
        return self.path / f".{self.split}.partial"

    def add(
        self,
        image: Picture,
        *,
        segmentation: Picture | None = None,
        ignore: Picture | None = None,
        attributes: Mapping[str, Sequence[Any]] | None = None,
        video: str | None = None,
        frame: int | None = None,
        source: str | None = None,
        **columns: Any,
    ) -> None:
        """Append a row.

        Args:
            image: Encoded bytes, which are stored as they are, or pixels, which become a PNG.
            segmentation: Ids in 0..65535, of the image's size.
            ignore: Mask that is not 0 where the segmentation says nothing.
            attributes: For every declared name a list; item i describes the object with id i + 1.
            video: Name of the video that the image is a frame of.
            frame: Number of the frame.
            source: File name of the image, by which messages can name it.
            columns: Values of the further columns.
        """
        where = f"row {self.num_rows} of split {self.split!r}"
        row = {
            "image": image,
            "segmentation": segmentation,
            "ignore": ignore,
            "attributes": attributes,
            "video": video,
            "frame": frame,
            "source": source,
            **columns,
        }
        encoded = self.encoder.encode(row, where=where)
        self._grow(encoded.size, encoded.size)
        self._rows.append(encoded.row)
        self._row_bytes += encoded.num_bytes
        self.num_rows += 1
        if len(self._rows) >= ROW_GROUP_ROWS or self._row_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def add_block(self, path: Path) -> None:
        """Append the rows of a file that `latentslots.data.store.resumable` wrote, as they are."""
        self._flush()
        with pq.ParquetFile(path) as block:
            smallest, largest = block_sizes(block)
            self._grow(smallest, largest)
            for group in range(block.num_row_groups):
                table = block.read_row_group(group)
                self._write(table, block.metadata.row_group(group).total_byte_size)
                self.num_rows += len(table)

    def _grow(self, smallest: tuple[int, int], largest: tuple[int, int]) -> None:
        """Widen the range of widths and heights."""
        self._smallest = min(self._smallest[0], smallest[0]), min(self._smallest[1], smallest[1])
        self._largest = max(self._largest[0], largest[0]), max(self._largest[1], largest[1])

    def _flush(self) -> None:
        if not self._rows:
            return
        self._write(pa.Table.from_pylist(self._rows, schema=self.encoder.schema), self._row_bytes)
        self._rows, self._row_bytes = [], 0

    def _write(self, rows: pa.Table, num_bytes: int) -> None:
        """Write a row group, into a new shard where the last one is full."""
        if self._parquet is None:
            self._file = self._partial / f"part-{len(self._shards):05d}.parquet"
            self._shard_rows = self._shard_size = 0
            # Statistics of pictures are pictures, in a footer that every reader fetches first.
            self._parquet = pq.ParquetWriter(
                self._file, self.encoder.schema, write_statistics=False
            )
        self._parquet.write_table(rows)
        self._shard_rows += len(rows)
        self._shard_size += num_bytes
        if self._shard_size >= self.shard_bytes:
            self._close_shard()

    def _close_shard(self) -> None:
        if self._parquet is None:
            return
        self._parquet.close()
        self._parquet = None
        with self._file.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        self._shards.append(
            Shard(
                file=f"{self.split}/{self._file.name}",
                num_rows=self._shard_rows,
                num_bytes=self._file.stat().st_size,
                sha256=sha256,
            )
        )

    def _commit(self) -> None:
        self._flush()
        self._close_shard()
        if not self._shards:
            raise DataError(f"no image was added to split {self.split!r} of {self.path}")
        written = SplitManifest(
            num_rows=self.num_rows,
            smallest=self._smallest,
            largest=self._largest,
            shards=tuple(self._shards),
            source=self.source,
        )
        publish(self._partial, self.path / self.split)
        # Another split may have been added since this writer was made.
        latest = read_manifest(str(self.path)) if has_manifest(str(self.path)) else self._manifest
        write_manifest(
            self.path,
            replace(self._manifest, splits={**latest.splits, self.split: written}),
        )

    def _check_target(self) -> None:
        if not re.fullmatch(r"\w+", self.split):
            raise DataError(
                f"the name of a split is made of letters, digits and _, got {self.split!r}"
            )
        if self.path.exists() and not self.path.is_dir():
            raise DataError(f"{self.path} is a file; a store is a folder")
        if has_manifest(str(self.path)):
            if self.split in read_manifest(str(self.path)).splits:
                raise DataError(f"{self.path} already has a split {self.split!r}")
        elif self.path.is_dir() and any(not _is_leftover(entry) for entry in self.path.iterdir()):
            raise DataError(f"{self.path} is not empty and not a store: it has no {FILE_NAME}")
        if (self.path / self.split).exists():
            raise DataError(
                f"{self.path / self.split} exists, but {FILE_NAME} does not list it: remove it"
            )

    def _describe(
        self,
        name: str | None,
        kind: str | None,
        license: str | None,
        credit: str | None,
        made_by: Mapping[str, Any] | None,
    ) -> Manifest:
        class_names = {
            attribute: tuple(feature.names)
            for attribute, feature in self.encoder.attributes.items()
            if isinstance(feature, ClassLabel)
        }
        if not has_manifest(str(self.path)):
            return Manifest(
                name=name or self.path.absolute().name,
                kind=kind or "images",
                license=license or "",
                credit=credit or "",
                class_names=class_names,
                made_by=made_by or {},
            )
        there = read_manifest(str(self.path))
        given: dict[str, Any] = {"name": name, "kind": kind, "license": license}
        given |= {"credit": credit, "made_by": made_by}
        known = {key: getattr(there, key) for key in given}
        given |= {f"class names of {k}": v for k, v in class_names.items()}
        known |= {f"class names of {k}": v for k, v in there.class_names.items()}
        for key, value in given.items():
            if value is not None and value != known.get(key, value):
                raise DataError(f"{self.path} has {key} {known[key]!r}, not {value!r}")
        return replace(there, class_names={**there.class_names, **class_names})


def refuse_full_disk(path: Path, error: OSError) -> None:
    """Say in one sentence that the disk is full, where that is the error."""
    if error.errno == errno.ENOSPC:
        raise DataError(
            f"there is no space left for {path}: make some, and give the same command again"
        ) from error


def _is_leftover(entry: Path) -> bool:
    return entry.name.startswith(".") and entry.name.endswith(".partial")
