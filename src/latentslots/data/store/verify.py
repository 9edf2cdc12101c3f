"""Reading a whole store again: every byte, every picture, every label."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from latentslots.data.errors import DataError
from latentslots.data.store.encoding import decode
from latentslots.data.store.manifest import has_manifest, read_manifest
from latentslots.data.transforms import check_segmentation

MASKS = {"segmentation", "ignore"}
_BATCH = 64


def verify(path: str | os.PathLike[str], *, progress: bool = False) -> list[str]:
    """Find what is wrong with a store on this machine.

    Shards are compared with their hashes; all pictures are decoded, further layers too;
    segmentations and `ignore` masks must hold ids and be as large as their images, attributes must
    be of one length, and ids must have attributes where there are some.

    Args:
        path: Folder of the store.
        progress: Whether to show a bar on stderr.

    Returns:
        A sentence for everything that is wrong, of a shard the first thing alone; none where all is
        well.

    Raises:
        DataError: If there is no store.
    """
    root = Path(path)
    if not has_manifest(str(root)):
        raise DataError(f"there is no store at {root}: it holds no dataset_info.json")
    problems = []
    manifest = read_manifest(str(root))
    total = sum(split.num_rows for split in manifest.splits.values())
    with tqdm(total=total, unit="image", disable=not progress) as bar:
        for split in manifest.splits.values():
            for shard in split.shards:
                found = next(_wrong(root / shard.file, shard), None)
                if found is not None:
                    problems.append(f"{shard.file}: {found}")
                bar.update(shard.num_rows)
    return problems


def _wrong(file: Path, shard: Any) -> Iterator[str]:
    if not file.is_file():
        yield "it is missing"
        return
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    if sha256 != shard.sha256:
        yield "its bytes are not those that were written"
    try:
        with pq.ParquetFile(file) as parquet:
            if parquet.metadata.num_rows != shard.num_rows:
                yield f"it has {parquet.metadata.num_rows} rows instead of {shard.num_rows}"
            number = 0
            for batch in parquet.iter_batches(batch_size=_BATCH):
                for row in batch.to_pylist():
                    yield from _wrong_row(row, f"row {number}")
                    number += 1
    except (pa.ArrowException, OSError) as error:
        yield f"it cannot be read: {error}"


def _wrong_row(row: dict[str, Any], where: str) -> Iterator[str]:
    pictures: dict[str, Image.Image] = {}
    for column, cell in row.items():
        if not isinstance(cell, dict) or set(cell) != {"bytes", "path"}:
            continue
        try:
            pictures[column] = decode(cell, where=f"{where}, {column}")
        except DataError as error:
            yield str(error)
            return
    size = ImageOps.exif_transpose(pictures["image"]).size
    for column in MASKS & set(pictures):
        try:
            check_segmentation(pictures[column], size)
        except ValueError as error:
            yield f"{where}, {column}: {error}"
            return
    lengths = {len(values) for values in (row.get("attributes") or {}).values()}
    if len(lengths) > 1:
        yield f"{where}: its attributes have different lengths"
    elif lengths and "segmentation" in pictures:
        largest = int(np.asarray(pictures["segmentation"]).max())
        if largest > max(lengths):
            yield f"{where}: it has the id {largest}, and attributes of {max(lengths)} objects"
