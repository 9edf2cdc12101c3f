"""Verifying a store: every byte, image and label."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm.auto import tqdm

from latentslots.data.errors import DataError
from latentslots.data.store.encoding import DECODING_ERRORS, decode, decode_ids
from latentslots.data.store.manifest import Shard, has_manifest, read_manifest
from latentslots.data.transforms import check_segmentation, to_rgb
from latentslots.fingerprint import file_sha256

MASK_COLUMNS = {"segmentation", "ignore"}
_BATCH = 64


def verify(path: str | os.PathLike[str], *, progress: bool = False) -> list[str]:
    """List the errors in a store on this machine.

    Shards are compared with their hashes, and all images are decoded, further image columns
    included. Segmentations and `ignore` masks must hold ids and have the size of their image. The
    attributes of an image must have equal length, and every id of its segmentation a value.

    Args:
        path: Folder of the store.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The first error of every faulty shard, as a sentence; empty if the store is valid.

    Raises:
        DataError: If there is no store.
    """
    root = Path(path)
    if not has_manifest(str(root)):
        raise DataError(f"there is no store at {root}: it holds no dataset_info.json")
    errors = []
    manifest = read_manifest(str(root))
    total = sum(split.num_rows for split in manifest.splits.values())
    with tqdm(total=total, unit="image", disable=not progress) as bar:
        for split in manifest.splits.values():
            for shard in split.shards:
                error = next(_shard_errors(root / shard.file, shard), None)
                if error is not None:
                    errors.append(f"{shard.file}: {error}")
                bar.update(shard.num_rows)
    return errors


def _shard_errors(file: Path, shard: Shard) -> Iterator[str]:
    if not file.is_file():
        yield "it is missing"
        return
    if file_sha256(file) != shard.sha256:
        yield "its content has changed since it was written"
    try:
        with pq.ParquetFile(file) as parquet:
            if parquet.metadata.num_rows != shard.num_rows:
                yield f"it has {parquet.metadata.num_rows} rows instead of {shard.num_rows}"
            number = 0
            for batch in parquet.iter_batches(batch_size=_BATCH):
                for row in batch.to_pylist():
                    yield from _row_errors(row, f"row {number}")
                    number += 1
    except (pa.ArrowException, OSError) as error:
        yield f"it cannot be read: {error}"


def _row_errors(row: dict[str, Any], where: str) -> Iterator[str]:
    images: dict[str, Image.Image] = {}
    for column, cell in row.items():
        if not isinstance(cell, dict) or set(cell) != {"bytes", "path"}:
            continue
        try:
            decoded = (decode_ids if column in MASK_COLUMNS else decode)(
                cell, where=f"{where}, {column}"
            )
            images[column] = to_rgb(decoded) if column == "image" else decoded
        except DataError as error:
            yield str(error)
            return
        except DECODING_ERRORS as error:
            yield f"{where}, {column} cannot be used: {error}"
            return
    size = images["image"].size
    for column in MASK_COLUMNS & set(images):
        try:
            check_segmentation(images[column], size)
        except ValueError as error:
            yield f"{where}, {column}: {error}"
            return
    lengths = {len(values) for values in (row.get("attributes") or {}).values()}
    if len(lengths) > 1:
        yield f"{where}: its attributes have different lengths"
    elif lengths and "segmentation" in images:
        largest = int(np.asarray(images["segmentation"]).max())
        if largest > max(lengths):
            yield f"{where}: it has the id {largest}, but attributes of {max(lengths)} objects"
