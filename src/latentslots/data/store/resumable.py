"""Writing a split in pieces, on as many processes as there are cores, so that nothing is lost.

The rows of a split are made in blocks, each a hidden Parquet file that appears when it is whole.
What is killed goes on with the blocks that are missing, and ends with the same bytes.
"""

import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from latentslots.data.errors import DataError
from latentslots.data.store.manifest import has_manifest, read_manifest
from latentslots.data.store.rows import (
    ROW_GROUP_BYTES,
    ROW_GROUP_ROWS,
    RowEncoder,
    with_sizes,
)
from latentslots.data.store.sources import Source
from latentslots.data.store.writer import StoreWriter, refuse_full_disk
from latentslots.files import atomic_file, write_text

SURE_SHARE = 0.8
"""Of the space that blocks to come are expected to need, what must be free."""
_SPEC_FILE = "made_by.json"
Make = Callable[[Any], Iterable[Mapping[str, Any]]]
"""Makes the rows of a block (arguments of `StoreWriter.add`) from what says which they are."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The processes that make blocks.

    Attributes:
        count: How many; by default one per core. With 1, the calling process does it.
        initializer: Called in each of them first, with `arguments`.
        arguments: See there.
    """

    count: int | None = None
    initializer: Callable[..., None] | None = None
    arguments: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        """Refuse none."""
        if self.count is not None and self.count < 1:
            raise DataError(f"workers must be at least 1, got {self.count}")


def is_written(out: Path, split: str, spec: Mapping[str, Any], source: Source) -> bool:
    """Tell whether a store has a split already.

    Args:
        out: Folder of the store, which may not be there.
        split: Name of the split.
        spec: As for `write_blocks`; the store's `made_by`.
        source: What the split is made of.

    Raises:
        DataError: If the store is of other data.
    """
    if not has_manifest(str(out)):
        return False
    manifest = read_manifest(str(out))
    if dict(manifest.made_by) != dict(spec):
        raise DataError(f"{out} holds other data ({manifest.kind}): choose another folder")
    if split not in manifest.splits:
        return False
    if manifest.splits[split].source not in ("", source.fingerprint):
        raise DataError(
            f"{out} holds {split!r} of other files than these: choose another folder, or remove it"
        )
    return True


def is_joined(out: Path, split: str, source: str) -> bool:
    """Tell whether a store of images that anybody brought together has a split already.

    Args:
        out: Folder of the store, which may not be there.
        split: Name of the split.
        source: Fingerprint of what it would be made of.

    Raises:
        DataError: If the store is of other data: a public data set, or made scenes.
    """
    if not has_manifest(str(out)):
        return False
    manifest = read_manifest(str(out))
    if manifest.kind != "images":
        raise DataError(f"{out} holds {manifest.kind}, which nothing can join: name another")
    return split in manifest.splits and manifest.splits[split].source == source


def write_items(
    writer: StoreWriter,
    items: Sequence[Any],
    make: Make,
    *,
    block_size: int,
    spec: Mapping[str, Any],
    source: str | os.PathLike[str],
    workers: int | None,
    progress: bool,
    expected_bytes: int = 0,
) -> None:
    """Write one split of a store from a list of what its images are made of.

    Args:
        writer: As for `write_blocks`.
        items: What says of every image which it is.
        make: Makes the rows of some of them.
        block_size: Items in a block.
        spec: As for `write_blocks`.
        source: As for `write_blocks`.
        workers: Processes; by default one per core.
        progress: Whether to show a bar on stderr.
        expected_bytes: As for `write_blocks`.
    """
    blocks = {
        f"{first:07d}": tuple(items[first : first + block_size])
        for first in range(0, len(items), block_size)
    }
    write_blocks(
        writer,
        blocks,
        make,
        spec=spec,
        source=source,
        workers=Workers(count=workers),
        progress=progress,
        unit="image",
        sizes={name: len(block) for name, block in blocks.items()},
        expected_bytes=expected_bytes,
    )


def write_blocks(
    writer: StoreWriter,
    blocks: Mapping[str, Any],
    make: Make,
    *,
    spec: Mapping[str, Any],
    source: str | os.PathLike[str] = "",
    workers: Workers = Workers(),
    progress: bool = False,
    unit: str = "block",
    sizes: Mapping[str, int] | None = None,
    expected_bytes: int = 0,
) -> None:
    """Write one split of a store, or go on with it.

    Args:
        writer: Of the split, not entered yet.
        blocks: What says which rows a block has, by the block's name; the split has them in this
            order.
        make: Makes them; a function of a module, which workers can import.
        spec: What the rows depend on: blocks that were made for another one are refused.
        source: Where they come from; the store does not tell, but half-made blocks must share it.
        workers: The processes.
        progress: Whether to show a bar on stderr.
        unit: What the bar counts.
        sizes: How many of these a block is; by default 1.
        expected_bytes: What the split will have at least, where that is known: a disk without room
            for it is found before anything is made. The blocks tell in any case.

    Raises:
        DataError: If the store cannot be written to, half-made blocks are of other data, a row
            cannot be encoded, or the disk is full, or too full to hold all: what was made stays,
            and is gone on with.
    """
    folder = _folder(writer, {**spec, "source": os.fspath(source)})
    files = {name: folder / f"{name}.parquet" for name in blocks}
    missing = {name: work for name, work in blocks.items() if not _is_whole(files[name])}
    _check_schema(writer, [files[name] for name in blocks if name not in missing])
    sizes = sizes or dict.fromkeys(blocks, 1)
    bar = tqdm(
        total=sum(sizes.values()),
        initial=sum(sizes[name] for name in blocks if name not in missing),
        desc=writer.split,
        unit=unit,
        disable=not progress,
    )
    jobs = [(writer.encoder, make, work, files[name], name) for name, work in missing.items()]
    made = {name: files[name].stat().st_size for name in blocks if name not in missing}
    try:
        _check_space(writer.path, expected_bytes, sum(made.values()))
        with bar:
            for name in _run(jobs, workers):
                bar.update(sizes[name])
                made[name] = files[name].stat().st_size
                done = sum(sizes[name] for name in made) / sum(sizes.values())
                written = sum(made.values())
                _check_space(writer.path, round(written / done), written)
        with writer:
            for file in files.values():
                writer.add_block(file)
    except OSError as error:
        refuse_full_disk(writer.path, error)
        raise
    finally:
        if not any(folder.glob("*.parquet")):  # nothing to go on with
            shutil.rmtree(folder)
            if not any(writer.path.iterdir()):
                writer.path.rmdir()
    shutil.rmtree(folder)


def _check_space(path: Path, all_bytes: int, written: int) -> None:
    """Stop as soon as it is known that all blocks, and the split, will not fit."""
    needed, free = 2 * all_bytes - written, shutil.disk_usage(path).free
    if free < SURE_SHARE * needed:
        raise DataError(
            f"{path} will need about {needed / 1e9:.1f} GB more while it is written, of which "
            f"{all_bytes / 1e9:.1f} stay, but {free / 1e9:.1f} are free: make some, and give the "
            "same command again to go on"
        )


def _run(jobs: Sequence[tuple[Any, ...]], workers: Workers) -> Iterable[str]:
    """Make blocks, and name each when it is whole."""
    count = min(workers.count or os.cpu_count() or 1, len(jobs))
    if count <= 1:
        if workers.initializer is not None and jobs:
            workers.initializer(*workers.arguments)
        for job in jobs:
            yield _make_block(*job)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        count, mp_context=context, initializer=_start_worker, initargs=(workers,)
    ) as pool:
        waiting = [pool.submit(_make_block, *job) for job in jobs]
        try:
            for made in waiting:
                yield made.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker(workers: Workers) -> None:
    # Ctrl-C reaches all processes of a terminal; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    if workers.initializer is not None:
        workers.initializer(*workers.arguments)


def _leave_with_parent() -> None:
    """A first process that is killed ends no other: they would make a block more, and then wait."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _make_block(encoder: RowEncoder, make: Make, work: Any, file: Path, name: str) -> str:
    smallest, largest = [2**31, 2**31], [0, 0]
    rows: list[dict[str, Any]] = []
    num_bytes = 0
    with (
        atomic_file(file) as beside,
        pq.ParquetWriter(beside, encoder.schema, write_statistics=False) as parquet,
    ):

        def flush() -> None:
            parquet.write_table(pa.Table.from_pylist(rows, schema=encoder.schema))
            rows.clear()

        for number, values in enumerate(make(work)):
            encoded = encoder.encode(values, where=f"row {number} of {name}")
            rows.append(encoded.row)
            num_bytes += encoded.num_bytes
            for side in (0, 1):
                smallest[side] = min(smallest[side], encoded.size[side])
                largest[side] = max(largest[side], encoded.size[side])
            if len(rows) >= ROW_GROUP_ROWS or num_bytes >= ROW_GROUP_BYTES:
                flush()
                num_bytes = 0
        if rows:
            flush()
        parquet.add_key_value_metadata(with_sizes(smallest, largest))
    return name


def _is_whole(file: Path) -> bool:
    """Whether a block was written to its end; a disk that was full may have cut it."""
    if not file.is_file():
        return False
    try:
        pq.read_metadata(file)
    except (pa.ArrowInvalid, OSError):
        return False
    return True


def _check_schema(writer: StoreWriter, files: Iterable[Path]) -> None:
    """Refuse blocks of other columns, or with other names of classes, which the metadata hold."""
    wanted, key = writer.encoder.schema, b"huggingface"
    for file in files:
        found = pq.read_schema(file)
        if not found.equals(wanted) or (found.metadata or {}).get(key) != wanted.metadata.get(key):
            raise DataError(
                f"{writer.path} holds a half-made {writer.split!r} whose columns or classes are "
                f"others: remove {file.parent}, or choose another folder"
            )


def _folder(writer: StoreWriter, spec: Mapping[str, Any]) -> Path:
    """The folder of a split's finished blocks; those that a killed program left are used."""
    folder = writer.path / f".{writer.split}.blocks.partial"
    wanted = json.dumps(spec, indent=2) + "\n"
    file = folder / _SPEC_FILE
    begun = any(folder.glob("*.parquet"))
    if begun and file.exists() and file.read_text() != wanted:
        raise DataError(
            f"{writer.path} holds a half-made {writer.split!r} of other data: remove {folder}, or "
            "choose another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for cut_off in folder.glob(".*.partial"):
        cut_off.unlink(missing_ok=True)
    write_text(file, wanted)
    return folder
