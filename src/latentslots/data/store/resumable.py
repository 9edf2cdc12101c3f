"""Writing a split in blocks, by several processes, so that an interrupted import can be resumed.

A block is some rows of the split in a hidden Parquet file of its own, which appears once it is
complete. A resumed import makes only the missing blocks; the split has the same bytes as without
the interruption, whatever the number of processes.
"""

import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from latentslots.data.errors import DataError
from latentslots.data.store.manifest import UNLISTED, has_manifest, read_manifest
from latentslots.data.store.rows import (
    ROW_GROUP_BYTES,
    ROW_GROUP_ROWS,
    RowEncoder,
    size_metadata,
)
from latentslots.data.store.source_files import SourceFiles
from latentslots.data.store.writer import StoreWriter, refuse_full_disk
from latentslots.files import atomic_file, exclusive, write_text

REQUIRED_SPACE = 0.8
"""Fraction of the estimated space that must be free; below 1, because estimates may be too high."""
_SPEC_FILE = "made_by.json"
MakeRows = Callable[[Any], Iterable[Mapping[str, Any]]]
"""Makes the rows of a block, as arguments of `StoreWriter.add`, from the block's description."""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The processes that make blocks.

    Attributes:
        count: Number of processes; by default one per core. With 1, the calling process makes the
            blocks.
        initializer: Called first in each process.
        arguments: Arguments of the initializer.
    """

    count: int | None = None
    initializer: Callable[..., None] | None = None
    arguments: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        """Reject a count below 1."""
        if self.count is not None and self.count < 1:
            raise DataError(f"workers must be at least 1, got {self.count}")


def is_written(out: Path, split: str, spec: Mapping[str, Any], files: SourceFiles) -> bool:
    """Whether a store that an importer makes has a split already.

    Args:
        out: Folder of the store, which may not exist.
        split: Name of the split.
        spec: Program and options, which the store records as `made_by`.
        files: The files that the split is made from.

    Raises:
        DataError: If the store was made with other options, or the split from other files.
    """
    if not has_manifest(str(out)):
        return False
    manifest = read_manifest(str(out))
    if dict(manifest.made_by) != dict(spec):
        raise DataError(f"{out} holds other data ({manifest.kind}): choose another folder")
    if split not in manifest.splits:
        return False
    if manifest.splits[split].source not in ("", files.fingerprint):
        raise DataError(
            f"{out} holds {split!r} made from other files: remove it, or choose another folder"
        )
    _remove_leftovers(out, split)
    return True


def is_added(out: Path, split: str, source: str) -> bool:
    """Whether a store that a user assembles has a split already.

    Args:
        out: Folder of the store, which may not exist.
        split: Name of the split.
        source: Fingerprint of the files that the split is made from, and of the options.

    Raises:
        DataError: If the store is a public data set or generated scenes.
    """
    if not has_manifest(str(out)):
        return False
    manifest = read_manifest(str(out))
    if manifest.kind != "images":
        raise DataError(
            f"{out} holds {manifest.kind}, to which no images can be added: choose another folder"
        )
    added = split in manifest.splits and manifest.splits[split].source == source
    if added:
        _remove_leftovers(out, split)
    return added


def _remove_leftovers(out: Path, split: str) -> None:
    """Remove what a failure left of writing a split that is complete."""
    with suppress(OSError):  # such as a disk that can only be read
        shutil.rmtree(_blocks_folder(out, split), ignore_errors=True)
        (out / split / UNLISTED).unlink(missing_ok=True)


def _blocks_folder(out: Path, split: str) -> Path:
    return out / f".{split}.blocks.partial"


def write_items(
    writer: StoreWriter,
    items: Sequence[Any],
    make_rows: MakeRows,
    *,
    block_size: int,
    spec: Mapping[str, Any],
    source: str | os.PathLike[str],
    workers: int | None,
    progress: bool,
    expected_bytes: int = 0,
) -> None:
    """Write one split of a store from a list with one item per image, as `write_blocks` does.

    Args:
        writer: Writer of the split, not entered yet.
        items: Descriptions of the images.
        make_rows: Makes the rows of some items.
        block_size: Items per block.
        spec: See `write_blocks`.
        source: See `write_blocks`.
        workers: Number of processes; by default one per core.
        progress: Whether to show a progress bar on stderr.
        expected_bytes: See `write_blocks`.
    """
    blocks = {
        f"{first:07d}": tuple(items[first : first + block_size])
        for first in range(0, len(items), block_size)
    }
    write_blocks(
        writer,
        blocks,
        make_rows,
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
    make_rows: MakeRows,
    *,
    spec: Mapping[str, Any],
    source: str | os.PathLike[str] = "",
    workers: Workers = Workers(),
    progress: bool = False,
    unit: str = "block",
    sizes: Mapping[str, int] | None = None,
    expected_bytes: int = 0,
) -> None:
    """Write one split of a store, or resume writing it.

    Args:
        writer: Writer of the split, not entered yet.
        blocks: Descriptions of the blocks by name; the split has them in this order.
        make_rows: Makes the rows of a block; a function of a module, so that processes can import
            it.
        spec: Everything that the rows depend on. Blocks of another spec are refused.
        source: Origin of the rows. Existing blocks must have the same source; the store does not
            record it.
        workers: The processes.
        progress: Whether to show a progress bar on stderr.
        unit: Unit of the progress bar.
        sizes: Units per block; by default 1.
        expected_bytes: Least size of the split if it is known, so that a lack of disk space is
            reported before the first block. Otherwise the first blocks give an estimate.

    Raises:
        DataError: If the folder cannot be written to, existing blocks are of other data, a row is
            invalid, the disk is full or will be, or a process is killed. Complete blocks are kept
            for resuming.
    """
    with exclusive(writer.path / writer.split):
        _write_blocks(
            writer,
            blocks,
            make_rows,
            spec={**spec, "source": os.fspath(source)},
            workers=workers,
            bar=tqdm(desc=writer.split, unit=unit, disable=not progress),
            sizes=sizes or dict.fromkeys(blocks, 1),
            expected_bytes=expected_bytes,
        )


def _write_blocks(
    writer: StoreWriter,
    blocks: Mapping[str, Any],
    make_rows: MakeRows,
    *,
    spec: Mapping[str, Any],
    workers: Workers,
    bar: Any,
    sizes: Mapping[str, int],
    expected_bytes: int,
) -> None:
    folder = _open_folder(writer, spec)
    files = {name: folder / f"{name}.parquet" for name in blocks}
    missing = {name: block for name, block in blocks.items() if not _is_complete(files[name])}
    _check_schema(writer, [files[name] for name in blocks if name not in missing])
    bar.total = sum(sizes.values())
    bar.update(sum(sizes[name] for name in blocks if name not in missing))
    jobs = [
        (writer.encoder, make_rows, block, files[name], name) for name, block in missing.items()
    ]
    num_bytes = {name: files[name].stat().st_size for name in blocks if name not in missing}
    try:
        _check_space(writer.path, expected_bytes, sum(num_bytes.values()))
        with bar:
            for name in _make_blocks(jobs, workers):
                bar.update(sizes[name])
                num_bytes[name] = files[name].stat().st_size
                done = sum(sizes[name] for name in num_bytes) / sum(sizes.values())
                written = sum(num_bytes.values())
                _check_space(writer.path, round(written / done), written)
        with writer:
            for file in files.values():
                writer.add_block(file)
    except OSError as error:
        refuse_full_disk(writer.path, error)
        raise
    finally:
        if not any(folder.glob("*.parquet")):  # there is nothing to resume
            shutil.rmtree(folder)
            if not any(writer.path.iterdir()):
                writer.path.rmdir()
    shutil.rmtree(folder)


def _check_space(path: Path, all_bytes: int, written: int) -> None:
    """Raise an error as soon as the blocks and the split are known not to fit on the disk."""
    needed, free = 2 * all_bytes - written, shutil.disk_usage(path).free
    if free < REQUIRED_SPACE * needed:
        raise DataError(
            f"{path} needs about {needed / 1e9:.1f} GB more while it is written, of which "
            f"{all_bytes / 1e9:.1f} GB stay, but only {free / 1e9:.1f} GB are free: make room and "
            "repeat the command to resume"
        )


def _make_blocks(jobs: Sequence[tuple[Any, ...]], workers: Workers) -> Iterable[str]:
    """Make blocks and yield the name of each when it is complete."""
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
        results = [pool.submit(_make_block, *job) for job in jobs]
        try:
            for result in results:
                yield result.result()
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process ended, killed perhaps for lack of memory: repeat the command, "
                "which goes on from what is complete, with fewer workers"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker(workers: Workers) -> None:
    # Ctrl-C reaches all processes of a terminal; the parent ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    if workers.initializer is not None:
        workers.initializer(*workers.arguments)


def _exit_with_parent() -> None:
    """Exit when the parent is killed; a worker would wait forever after its next block."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _make_block(encoder: RowEncoder, make_rows: MakeRows, block: Any, file: Path, name: str) -> str:
    smallest, largest = [2**31, 2**31], [0, 0]
    rows: list[dict[str, Any]] = []
    num_bytes = 0
    with (
        atomic_file(file) as partial,
        pq.ParquetWriter(partial, encoder.schema, write_statistics=False) as parquet,
    ):

        def flush() -> None:
            parquet.write_table(pa.Table.from_pylist(rows, schema=encoder.schema))
            rows.clear()

        for number, values in enumerate(make_rows(block)):
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
        parquet.add_key_value_metadata(size_metadata(smallest, largest))
    return name


def _is_complete(file: Path) -> bool:
    """Whether a block exists and has Parquet's footer; a full disk may have truncated it."""
    if not file.is_file():
        return False
    try:
        pq.read_metadata(file)
    except (pa.ArrowInvalid, OSError):
        return False
    return True


def _check_schema(writer: StoreWriter, files: Iterable[Path]) -> None:
    """Refuse blocks with other columns, or with other class names, which the metadata hold."""
    expected, key = writer.encoder.schema, b"huggingface"
    for file in files:
        schema = pq.read_schema(file)
        class_names = (schema.metadata or {}).get(key)
        if not schema.equals(expected) or class_names != expected.metadata.get(key):
            raise DataError(
                f"{writer.path} holds an unfinished split {writer.split!r} with other columns or "
                f"classes: remove {file.parent}, or choose another folder"
            )


def _open_folder(writer: StoreWriter, spec: Mapping[str, Any]) -> Path:
    """Create the folder of a split's blocks, or resume with the blocks that are in it."""
    folder = _blocks_folder(writer.path, writer.split)
    content = json.dumps(spec, indent=2) + "\n"
    file = folder / _SPEC_FILE
    has_blocks = any(folder.glob("*.parquet"))
    if has_blocks and file.exists() and file.read_text(encoding="utf-8") != content:
        raise DataError(
            f"{writer.path} holds an unfinished split {writer.split!r} of other data: remove "
            f"{folder}, or choose another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for partial in folder.glob(".*.partial"):
        partial.unlink(missing_ok=True)
    write_text(file, content)
    return folder
