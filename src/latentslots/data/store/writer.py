"""Writing one split of a store, completely or not at all."""

import errno
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel

from latentslots.data.errors import DataError
from latentslots.data.store.encoding import ImageLike
from latentslots.data.store.manifest import (
    FILE_NAME,
    UNLISTED,
    Manifest,
    Shard,
    SplitManifest,
    has_manifest,
    read_manifest,
    write_manifest,
)
from latentslots.data.store.rows import ROW_GROUP_BYTES, ROW_GROUP_ROWS, RowEncoder, block_sizes
from latentslots.files import publish
from latentslots.fingerprint import file_sha256


class StoreWriter:
    """Adds one split to a new or existing store.

    The shards are written into a hidden folder. They appear, with their entry in
    `dataset_info.json`, when the `with` block ends; after an error, they are deleted.

    Args:
        path: Folder of the store; created if it does not exist.
        split: Name of the split, which the store must not have yet.
        name: Name of the data set; by default the store's, or else the folder's.
        kind: `images`, or a public data set such as `movi-e`; by default the store's, or else
            `images`.
        license: License of the images.
        credit: Author to be named.
        segmentation: Whether rows have a segmentation.
        ignore: Whether rows may have an `ignore` mask.
        video: Whether rows are frames, with a `video` and a `frame`.
        attributes: HF feature of every attribute of an object, by name. The names of a `ClassLabel`
            are also written to `dataset_info.json`.
        columns: HF feature of every further column, by name; each has one value per image.
        made_by: Program and options that make the store; empty if a user assembles it.
        source: Fingerprint of the files that the split is made from.
        shard_bytes: Size at which a shard is closed.

    Raises:
        DataError: If the folder holds something else, or the store has such a split or does not
            match the arguments.

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
        """Create the hidden folder; files that a killed process left in it are deleted."""
        self._created_path = not self.path.exists()
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
        """Publish the split, or delete everything that was written.

        Raises:
            DataError: If the disk is full.
        """
        try:
            if isinstance(error, OSError):
                refuse_full_disk(self.path, error)
            if error is None:
                self._commit()
        except OSError as write_error:
            refuse_full_disk(self.path, write_error)
            raise
        finally:
            if self._parquet is not None:
                self._parquet.close()
            shutil.rmtree(self._partial, ignore_errors=True)
            if self._created_path and self.path.is_dir() and not any(self.path.iterdir()):
                self.path.rmdir()

    @property
    def _partial(self) -> Path:
        return self.path / f".{self.split}.partial"

    def add(
        self,
        image: ImageLike,
        *,
        segmentation: ImageLike | None = None,
        ignore: ImageLike | None = None,
        attributes: Mapping[str, Sequence[Any]] | None = None,
        video: str | None = None,
        frame: int | None = None,
        source: str | None = None,
        **columns: Any,
    ) -> None:
        """Append a row.

        Args:
            image: Encoded bytes, which are stored unchanged, or pixels, which are encoded as PNG.
            segmentation: Ids in 0..65535, of the image's size.
            ignore: Mask that is not 0 at pixels that are not scored.
            attributes: For every declared name a list; item i belongs to the object with id i + 1.
            video: Name of the video that the image is a frame of.
            frame: Number of the frame.
            source: File name of the image, for error messages.
            columns: Values of the further columns.

        Raises:
            DataError: If the row does not have the declared columns, or an invalid value.
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
        self._include_sizes(encoded.size, encoded.size)
        self._rows.append(encoded.row)
        self._row_bytes += encoded.num_bytes
        self.num_rows += 1
        if len(self._rows) >= ROW_GROUP_ROWS or self._row_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def add_block(self, path: Path) -> None:
        """Append the rows of a block that `latentslots.data.store.resumable` wrote, unchanged."""
        self._flush()
        with pq.ParquetFile(path) as block:
            smallest, largest = block_sizes(block)
            self._include_sizes(smallest, largest)
            for group in range(block.num_row_groups):
                table = block.read_row_group(group)
                self._write(table, block.metadata.row_group(group).total_byte_size)
                self.num_rows += len(table)

    def _include_sizes(self, smallest: tuple[int, int], largest: tuple[int, int]) -> None:
        """Extend the range of widths and heights."""
        self._smallest = min(self._smallest[0], smallest[0]), min(self._smallest[1], smallest[1])
        self._largest = max(self._largest[0], largest[0]), max(self._largest[1], largest[1])

    def _flush(self) -> None:
        if not self._rows:
            return
        self._write(pa.Table.from_pylist(self._rows, schema=self.encoder.schema), self._row_bytes)
        self._rows, self._row_bytes = [], 0

    def _write(self, rows: pa.Table, num_bytes: int) -> None:
        """Write a row group, into a new shard if the last one is full."""
        if self._parquet is None:
            self._file = self._partial / f"part-{len(self._shards):05d}.parquet"
            self._shard_rows = self._shard_size = 0
            # Parquet's statistics of image columns are whole images, in the footer that every
            # reader fetches first.
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
        self._shards.append(
            Shard(
                file=f"{self.split}/{self._file.name}",
                num_rows=self._shard_rows,
                num_bytes=self._file.stat().st_size,
                sha256=file_sha256(self._file),
            )
        )

    def _commit(self) -> None:
        self._flush()
        self._close_shard()
        if not self._shards:
            raise DataError(f"no image was added to split {self.split!r} of {self.path}")
        split = SplitManifest(
            num_rows=self.num_rows,
            smallest=self._smallest,
            largest=self._largest,
            shards=tuple(self._shards),
            source=self.source,
        )
        # Until the manifest lists it, the split is marked as one that may be removed.
        (self._partial / UNLISTED).touch()
        publish(self._partial, self.path / self.split)
        # Another split may have been added since this writer was created.
        latest = read_manifest(str(self.path)) if has_manifest(str(self.path)) else self._manifest
        write_manifest(
            self.path,
            replace(self._manifest, splits={**latest.splits, self.split: split}),
        )
        with suppress(OSError):  # the split is complete
            (self.path / self.split / UNLISTED).unlink()

    def _check_target(self) -> None:
        if not re.fullmatch(r"\w+", self.split):
            raise DataError(
                f"the name of a split must consist of letters, digits and _, got {self.split!r}"
            )
        if self.path.exists() and not self.path.is_dir():
            raise DataError(f"{self.path} is a file; a store is a folder")
        if has_manifest(str(self.path)):
            if self.split in read_manifest(str(self.path)).splits:
                raise DataError(f"{self.path} already has a split {self.split!r}")
        elif self.path.is_dir() and any(not _is_leftover(entry) for entry in self.path.iterdir()):
            raise DataError(f"{self.path} is not empty and not a store: it has no {FILE_NAME}")
        if _is_leftover(self.path / self.split):
            shutil.rmtree(self.path / self.split)
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
        manifest = read_manifest(str(self.path))
        given: dict[str, Any] = {"name": name, "kind": kind, "license": license}
        given |= {"credit": credit, "made_by": made_by}
        stored = {key: getattr(manifest, key) for key in given}
        given |= {f"class names of {k}": v for k, v in class_names.items()}
        stored |= {f"class names of {k}": v for k, v in manifest.class_names.items()}
        for key, value in given.items():
            if value is not None and value != stored.get(key, value):
                raise DataError(f"{self.path} has {key} {stored[key]!r}, not {value!r}")
        return replace(manifest, class_names={**manifest.class_names, **class_names})


def refuse_full_disk(path: Path, error: OSError) -> None:
    """Raise a `DataError` if the error is that the disk is full."""
    if error.errno == errno.ENOSPC:
        raise DataError(
            f"no space is left on the disk of {path}: make room and repeat the command"
        ) from error


def _is_leftover(entry: Path) -> bool:
    """Whether a file or folder in a store was left by a failure, and belongs to no split."""
    hidden = entry.name.startswith(".") and entry.name.endswith(".partial")
    return hidden or (entry / UNLISTED).exists()
