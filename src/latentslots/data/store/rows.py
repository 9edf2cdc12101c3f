"""One row of a store: what is said of an image, checked and encoded."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, Image, List, Value

from latentslots.data.errors import DataError
from latentslots.data.store.encoding import Picture, encode_ids, encode_image, picture_header
from latentslots.data.transforms import ID_MODES

RESERVED_COLUMNS = ("image", "segmentation", "ignore", "attributes", "video", "frame")
ROW_GROUP_ROWS = 100
ROW_GROUP_BYTES = 16 * 2**20
_PICTURES = ("image", "segmentation", "ignore")
_SIZES = "latentslots.sizes"


@dataclass(frozen=True)
class EncodedRow:
    """A row, the width and height of its image, and the bytes of its pictures."""

    row: dict[str, Any]
    size: tuple[int, int]
    num_bytes: int


class RowEncoder:
    """Turns what is known of an image into a row, or refuses it.

    Args:
        segmentation: Whether rows have a segmentation.
        ignore: Whether rows may have an `ignore` mask.
        video: Whether rows are frames, which have a `video` and a `frame`.
        attributes: What is known of each object: HF feature per name.
        columns: Further columns, one value per image: HF feature per name.

    Attributes:
        features: Of the rows, in HF's words.
        schema: The same in Arrow's.
    """

    def __init__(
        self,
        *,
        segmentation: bool = False,
        ignore: bool = False,
        video: bool = False,
        attributes: Mapping[str, Any] | None = None,
        columns: Mapping[str, Any] | None = None,
    ) -> None:
        self.attributes, columns = dict(attributes or {}), dict(columns or {})
        taken = sorted(set(columns) & set(RESERVED_COLUMNS))
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
        self.features = Features(features | columns)
        self.schema = self.features.arrow_schema

    def encode(self, row: Mapping[str, Any], *, where: str) -> EncodedRow:
        """Encode a row.

        Args:
            row: The arguments of `StoreWriter.add`; those that are `None` are as if not given.
            where: How messages name the row.

        Raises:
            DataError: If it is none of this store.
        """
        known = {name: value for name, value in row.items() if value is not None}
        source = known.pop("source", None)
        where += f" ({source})" if source else ""
        present = {name: known.pop(name) for name in _PICTURES if name in known}
        values, attributes = known, known.get("attributes")
        self._check_columns({*present, *values}, where)
        if attributes is not None:
            self._check_attributes(attributes, where)
        pictures, size = self._encode_pictures(present, where)
        row = self._encode(values, where)
        row |= {column: {"bytes": data, "path": None} for column, data in pictures.items()}
        row["image"]["path"] = source
        return EncodedRow(row, size, sum(map(len, pictures.values())))

    def _check_columns(self, given: set[str], where: str) -> None:
        unknown = sorted(given - set(self.features))
        if unknown:
            raise DataError(f"{where} has a {unknown[0]!r}, which the writer was not told of")
        missing = sorted(set(self.features) - given - {"ignore", "frame"})
        if missing:
            raise DataError(f"{where} has no {missing[0]!r}")

    def _encode_pictures(
        self, pictures: Mapping[str, Picture], where: str
    ) -> tuple[dict[str, bytes], tuple[int, int]]:
        try:
            encoded = {
                column: encode_image(picture) if column == "image" else encode_ids(picture)
                for column, picture in pictures.items()
            }
            headers = {column: picture_header(content) for column, content in encoded.items()}
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        width, height = headers["image"][0]
        for column, (other, mode) in headers.items():
            if column != "image" and mode not in ID_MODES:
                raise DataError(f"{where}: the {column} has no ids any more: its mode is {mode}")
            if other != (width, height):
                raise DataError(
                    f"{where}: the {column} is {other[0]}x{other[1]} pixels, but its image is "
                    f"{width}x{height}"
                )
        return encoded, (width, height)

    def _encode(self, values: Mapping[str, Any], where: str) -> dict[str, Any]:
        row = {}
        for column, value in values.items():
            try:
                row[column] = _plain(self.features[column], value)
                pa.array([row[column]], type=self.schema.field(column).type)
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                raise DataError(f"{where} has a {column!r} of another type: {error}") from error
        return row

    def _check_attributes(
        self, values: Mapping[str, Sequence[Any] | np.ndarray], where: str
    ) -> None:
        if set(values) != set(self.attributes):
            raise DataError(
                f"{where} has the attributes {sorted(values)}, but the writer was told of "
                f"{sorted(self.attributes)}"
            )
        lengths = {name: len(value) for name, value in values.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"{where}: its attributes have different lengths: {lengths}")


def with_sizes(smallest: Sequence[int], largest: Sequence[int]) -> dict[str, str]:
    """Parquet metadata that tells the range of widths and heights in a block of rows."""
    return {_SIZES: json.dumps([smallest, largest])}


def block_sizes(block: pq.ParquetFile) -> tuple[tuple[int, int], tuple[int, int]]:
    """Smallest and largest width and height in a block of rows."""
    smallest, largest = json.loads(block.metadata.metadata[_SIZES.encode()])
    return tuple(smallest), tuple(largest)


def _plain(feature: Any, value: Any) -> Any:
    """Turn arrays into lists and class names into numbers, and refuse numbers without a name."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(feature, dict):
        return {name: _plain(feature[name], item) for name, item in value.items()}
    if isinstance(feature, List):
        return [_plain(feature.feature, item) for item in value]
    return feature.encode_example(value) if isinstance(feature, ClassLabel) else value
