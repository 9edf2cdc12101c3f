"""Writing one split of a store, all or nothing."""

import hashlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, Image, List, Value

from latentslots.data.encoding import Picture, encode_ids, encode_image, picture_size
from latentslots.data.errors import DataError
from latentslots.data.manifest import (
    FILE_NAME,
    Manifest,
    Shard,
    SplitManifest,
    has_manifest,
    read_manifest,
    write_manifest,
)

RESERVED_COLUMNS = ("image", "segmentation", "ignore", "attributes", "video", "frame")
_ROW_GROUP_ROWS = 100
_ROW_GROUP_BYTES = 16 * 2**20


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
        shard_bytes: int = 256 * 2**20,
    ) -> None:
        self.path, self.split = Path(path), split
        self.attributes, self.columns = dict(attributes or {}), dict(columns or {})
        self.shard_bytes = shard_bytes
        taken = sorted(set(self.columns) & set(RESERVED_COLUMNS))
        if taken:
            raise DataError(f"a further column cannot be called {taken[0]!r}")
        features: dict[str, Any] = {"image": Image()}
        if segmentation:
            features["segmentation"] = Image()
        if ignore:
            features["ignore"] = Image()
        if self.attributes:
            features["attributes"] = {k: List(v) for k, v in self.attributes.items()}
        if video:
            features |= {"video": Value("string"), "frame": Value("int32")}
        self.features = Features(features | self.columns)
        self._schema = self.features.arrow_schema
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
        """Let the split appear, or leave nothing of it."""
        try:
            if error is None:
                self._commit()
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
        where = f"row {self.num_rows} of split {self.split!r}{f' ({source})' if source else ''}"
        named = {"attributes": attributes, "video": video, "frame": frame, **columns}
        values = {column: value for column, value in named.items() if value is not None}
        given = {"image": image, "segmentation": segmentation, "ignore": ignore}
        present = {column: picture for column, picture in given.items() if picture is not None}
        self._check_columns({*present, *values}, where)
        if attributes is not None:
            self._check_attributes(attributes, where)
        pictures = self._encode_pictures(present, where)
        row = self._encode(values, where)
        row |= {column: {"bytes": data, "path": None} for column, data in pictures.items()}
        row["image"]["path"] = source
        self._rows.append(row)
        self._row_bytes += sum(map(len, pictures.values()))
        self.num_rows += 1
        if len(self._rows) >= _ROW_GROUP_ROWS or self._row_bytes >= _ROW_GROUP_BYTES:
            self._flush()

    def _check_columns(self, given: set[str], where: str) -> None:
        unknown = sorted(given - set(self.features))
        if unknown:
            raise DataError(f"{where} has a {unknown[0]!r}, which the writer was not told of")
        missing = sorted(set(self.features) - given - {"ignore", "frame"})
        if missing:
            raise DataError(f"{where} has no {missing[0]!r}")

    def _encode_pictures(self, pictures: Mapping[str, Picture], where: str) -> dict[str, bytes]:
        try:
            encoded = {
                column: encode_image(picture) if column == "image" else encode_ids(picture)
                for column, picture in pictures.items()
            }
            sizes = {column: picture_size(content) for column, content in encoded.items()}
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        width, height = sizes["image"]
        for column, other in sizes.items():
            if other != (width, height):
                raise DataError(
                    f"{where}: the {column} is {other[0]}x{other[1]} pixels, but its image is "
                    f"{width}x{height}"
                )
        self._smallest = min(self._smallest[0], width), min(self._smallest[1], height)
        self._largest = max(self._largest[0], width), max(self._largest[1], height)
        return encoded

    def _encode(self, values: Mapping[str, Any], where: str) -> dict[str, Any]:
        row = {}
        for column, value in values.items():
            try:
                row[column] = _plain(self.features[column], value)
                pa.array([row[column]], type=self._schema.field(column).type)
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                raise DataError(f"{where} has a {column!r} of another type: {error}") from error
        return row

    def _check_attributes(self, values: Mapping[str, Sequence[Any]], where: str) -> None:
        if set(values) != set(self.attributes):
            raise DataError(
                f"{where} has the attributes {sorted(values)}, but the writer was told of "
                f"{sorted(self.attributes)}"
            )
        lengths = {name: len(value) for name, value in values.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"{where}: its attributes have different lengths: {lengths}")

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._parquet is None:
            self._file = self._partial / f"part-{len(self._shards):05d}.parquet"
            self._shard_rows = self._shard_size = 0
            self._parquet = pq.ParquetWriter(self._file, self._schema)
        self._parquet.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._shard_rows += len(self._rows)
        self._shard_size += self._row_bytes
        self._rows, self._row_bytes = [], 0
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
        )
        self._partial.rename(self.path / self.split)
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
            for attribute, feature in self.attributes.items()
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


def _plain(feature: Any, value: Any) -> Any:
    """Turn arrays into lists and class names into numbers, and refuse numbers without a name."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(feature, dict):
        return {name: _plain(feature[name], item) for name, item in value.items()}
    if isinstance(feature, List):
        return [_plain(feature.feature, item) for item in value]
    return feature.encode_example(value) if isinstance(feature, ClassLabel) else value


def _is_leftover(entry: Path) -> bool:
    return entry.name.startswith(".") and entry.name.endswith(".partial")
