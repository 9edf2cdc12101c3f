"""Training on a store that is read shard by shard, from this machine or over a network.

A memory-mapped data set must be on this machine; a stream holds only a few row groups in memory. It
reads the shards in random order, the row groups of each shard in random order, and shuffles the
rows in a buffer. The order is a function of the seed, the epoch and the lengths of the shards.

HF datasets can stream Parquet too, but it assigns whole shards to workers, so that their shares
differ, and a resumed run refills its shuffle buffer with other rows. Here all workers of all
processes have equal shares without overlap, whatever the number of shards, and a resumed run
continues at the exact sample, reading again only the rows in the shuffle buffer.
"""

import logging
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, islice
from typing import Any, NamedTuple, TypeVar

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import IterableDataset, get_worker_info

from latentslots.data.errors import DataError
from latentslots.data.loading.samples import Sample, SampleReader, shared_flags
from latentslots.data.store.manifest import Manifest, Shard, has_manifest, is_address, read_manifest
from latentslots.data.store.reader import dataset_path, find_shards, shards_fingerprint
from latentslots.files import retry

logger = logging.getLogger(__name__)

SHARDS, GROUPS, ROWS = 1, 2, 3
"""Parts of the seeds of the random orders, so that no two orders are drawn from the same seed."""
Row = tuple[int, dict[str, Any]]
"""Index of a row in its split, and its values by column."""

NUM_RETRIES = 5
FIRST_WAIT_SECONDS = 0.5
_SHARDS_MEASURED = 16
T = TypeVar("T")


class Stretch(NamedTuple):
    """Rows `start` to `stop` of a shard, counted in the order of the epoch."""

    shard: int
    start: int
    stop: int


class ShardOrder:
    """Divides the rows of every epoch into equal shares without overlap, one per stream.

    The shards of an epoch, in random order, form a ring of rows with a random start. Stream s of S
    gets the s-th of S consecutive shares, each of the same number of full batches. The few rows
    that are left over differ from epoch to epoch.

    Args:
        shard_rows: Rows of each shard.
        batch_size: Rows per batch.
        num_streams: Processes times workers.
        seed: Another seed gives another order.

    Raises:
        DataError: If the rows do not fill one batch of each stream.
    """

    def __init__(
        self, shard_rows: Sequence[int], *, batch_size: int, num_streams: int, seed: int
    ) -> None:
        if batch_size < 1:
            raise DataError(f"batch_size must be at least 1, got {batch_size}")
        self.num_rows = sum(shard_rows)
        self.batches_per_epoch = self.num_rows // (num_streams * batch_size)
        if not self.batches_per_epoch:
            streams = f" in each of {num_streams} streams" if num_streams > 1 else ""
            raise DataError(
                f"the data set has {self.num_rows} rows, which do not fill one batch of "
                f"{batch_size}{streams} (processes times workers)"
            )
        self.shard_rows, self.seed = shard_rows, seed
        self.rows_per_epoch = self.batches_per_epoch * batch_size

    def stretches(self, epoch: int, stream: int) -> Iterator[Stretch]:
        """Yield the share of a stream in an epoch, in order."""
        draws = np.random.default_rng([self.seed, epoch, SHARDS])
        order = draws.permutation(len(self.shard_rows)).tolist()
        start = (int(draws.integers(self.num_rows)) + stream * self.rows_per_epoch) % self.num_rows
        stop = start + self.rows_per_epoch
        begin = 0
        for shard in [*order, *order]:
            end = begin + self.shard_rows[shard]
            if begin < stop and start < end:
                yield Stretch(shard, max(start - begin, 0), min(stop, end) - begin)
            begin = end


class ImageStream:
    """A split of a store, read as a stream; its samples are those of `ImageDataset`.

    Args:
        path: The store, on this machine or at an fsspec address.
        split: Name of the split.
        resolution: Side R of the square that every image is resized and cropped to.
        shuffle_buffer: Rows that a worker shuffles together.
        on_bad_sample: What to do with a row that cannot be used: raise an `error` that names it, or
            `skip` to the next good row, which is then used twice, and log the bad row once.

    Raises:
        DataError: If there is no such store, or it cannot be read.
    """

    def __init__(
        self,
        path: str,
        *,
        split: str = "train",
        resolution: int,
        shuffle_buffer: int = 1000,
        on_bad_sample: str = "error",
    ) -> None:
        if shuffle_buffer < 1:
            raise DataError(f"shuffle_buffer must be at least 1, got {shuffle_buffer}")
        if on_bad_sample not in ("error", "skip"):
            raise DataError(f"on_bad_sample must be 'error' or 'skip', got {on_bad_sample!r}")
        self.path = dataset_path(path).rstrip("/")
        manifest = _read_with_retries(self.path, lambda: _read_manifest(self.path))
        self.shards = find_shards(self.path, manifest, split)
        self.shuffle_buffer, self.on_bad_sample = shuffle_buffer, on_bad_sample
        self.fingerprint = shards_fingerprint(self.shards)
        with self._open(self.shards[0]) as file:
            columns = file.columns()
        if "image" not in columns:
            raise DataError(f"the data set needs an image column 'image', got {columns}")
        self.reader = SampleReader(columns, resolution)
        lengths = [shard.num_rows for shard in self.shards]
        self._first_rows = list(accumulate(lengths[:-1], initial=0))
        self._is_bad = shared_flags(len(self))

    def __len__(self) -> int:
        """Number of rows."""
        return sum(shard.num_rows for shard in self.shards)

    def spread(self, count: int) -> list[Sample]:
        """Samples from shards at equal distances, for measuring the statistics of the split.

        Raises:
            DataError: If no row can be used.
        """
        chosen = min(_SHARDS_MEASURED, len(self.shards), count)
        samples: list[Sample] = []
        for i in range(chosen):
            shard = i * len(self.shards) // chosen
            share = (i + 1) * count // chosen - i * count // chosen
            whole = Stretch(shard, 0, self.shards[shard].num_rows)
            good = filter(None, map(self.read_sample, self.rows(whole, groups_seed=None)))
            samples += islice(good, share)
        if not samples:
            raise DataError(f"none of the first images of {self.path} can be used")
        return samples

    def read_sample(self, row: Row, *, flip: bool = False) -> Sample | None:
        """Convert a row to tensors; `None` if it cannot be used and is to be skipped."""
        index, cells = row
        if self._is_bad[index]:
            return None
        try:
            sample = self.reader(cells, flip, where=f"row {index}")
        except DataError as error:
            if self.on_bad_sample == "error":
                raise
            self._is_bad[index] = True
            logger.warning("skipped: %s", error)
            return None
        sample["index"] = torch.tensor(index)
        return sample

    def rows(self, stretch: Stretch, *, groups_seed: Sequence[int] | None) -> Iterator[Row]:
        """Yield the rows of a stretch, with the row groups of its shard in the seed's order."""
        with self._open(self.shards[stretch.shard]) as file:
            sizes = file.row_groups()
            if sum(sizes) != self.shards[stretch.shard].num_rows:
                raise DataError(
                    f"{file.location} has {sum(sizes)} rows, but dataset_info.json lists "
                    f"{self.shards[stretch.shard].num_rows}"
                )
            firsts = list(accumulate(sizes[:-1], initial=self._first_rows[stretch.shard]))
            order = np.arange(len(sizes))
            if groups_seed is not None:
                order = np.random.default_rng(groups_seed).permutation(len(sizes))
            begin = 0
            for group in order.tolist():
                start = max(stretch.start - begin, 0)
                stop = min(stretch.stop - begin, sizes[group])
                if start < stop:
                    table = file.read(group, self.reader.columns).slice(start, stop - start)
                    yield from enumerate(table.to_pylist(), firsts[group] + start)
                begin += sizes[group]

    def _open(self, shard: Shard) -> "_ShardFile":
        return _ShardFile(f"{self.path}/{shard.file}")


class _ShardFile:
    """A Parquet file that is opened when it is read first, and again after a broken connection."""

    def __init__(self, location: str) -> None:
        self.location = location
        self._file: pq.ParquetFile | None = None

    def __enter__(self) -> "_ShardFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def columns(self) -> list[str]:
        return list(self._read(lambda file: file.schema_arrow.names))

    def row_groups(self) -> list[int]:
        """Number of rows of each row group."""
        return self._read(
            lambda file: [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        )

    def read(self, group: int, columns: list[str]) -> pa.Table:
        return self._read(lambda file: file.read_row_group(group, columns=columns))

    def _read(self, read: Callable[[pq.ParquetFile], T]) -> T:
        def open_and_read() -> T:
            try:
                if self._file is None:
                    self._file = _open_parquet(self.location)
                return read(self._file)
            except BaseException:
                self._close()
                raise

        return _read_with_retries(self.location, open_and_read)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close(force=True)
            self._file = None


def _open_parquet(location: str) -> pq.ParquetFile:
    filesystem, path = fsspec.url_to_fs(location)
    # Row groups are read in random order: bytes that fsspec reads ahead would be wasted.
    options = {"cache_type": "none"} if is_address(location) else {}
    file = filesystem.open(path, "rb", **options)
    try:
        return pq.ParquetFile(file, pre_buffer=True)
    except BaseException:
        file.close()
        raise


def _read_manifest(path: str) -> Manifest:
    if not is_address(path) and not has_manifest(path):
        raise FileNotFoundError(path)
    return read_manifest(path)


def _read_with_retries(location: str, read: Callable[[], T]) -> T:
    """Read from a location; over a network, failed attempts are repeated a few times.

    Raises:
        DataError: If nothing can be read.
    """
    try:
        return retry(
            read,
            retries=NUM_RETRIES if is_address(location) else 0,
            retriable=lambda error: (
                not isinstance(error, ImportError | ValueError) and not _is_missing(error)
            ),
            first_wait=FIRST_WAIT_SECONDS,
        )
    except DataError:
        raise
    except (ImportError, ValueError) as error:
        raise DataError(f"{location} cannot be read: {error}") from error
    except Exception as error:  # each file system of fsspec raises its own
        if _is_missing(error):
            if location.endswith(".parquet"):
                raise DataError(f"{location} is missing") from None
            raise DataError(f"only a store can be streamed, and {location} holds none") from None
        raise DataError(f"{location} cannot be read: {error.__cause__ or error}") from error


def _is_missing(error: Exception) -> bool:
    """Whether a file does not exist; fsspec raises the same error if a server does not respond."""
    cause = error.__cause__
    no_response = cause is not None and getattr(cause, "status", None) != 404
    return isinstance(error, FileNotFoundError) and not no_response


class StreamedSamples(IterableDataset[Sample]):
    """Endless samples of one process; every worker makes whole batches of its own stream.

    Args:
        stream: The split to read.
        batch_size: Rows per batch of this process.
        seed: Another seed gives another order.
        random_flip: Flip half of the rows.
        start_batch: Batches to skip, which this process has used already.
        num_workers: Workers of the loader; another number gives another order.
        num_processes: Processes that share the data set.
        process_index: Index of this process.

    Raises:
        DataError: If the rows do not fill one batch of every worker of every process.
    """

    def __init__(
        self,
        stream: ImageStream,
        *,
        batch_size: int,
        seed: int,
        random_flip: bool,
        start_batch: int,
        num_workers: int,
        num_processes: int,
        process_index: int,
    ) -> None:
        if not 0 <= process_index < num_processes:
            raise DataError(f"process_index must be in 0..{num_processes - 1}, got {process_index}")
        if start_batch < 0:
            raise DataError(f"start_batch must be at least 0, got {start_batch}")
        self.stream, self.batch_size, self.random_flip = stream, batch_size, random_flip
        self.start_batch, self.num_workers = start_batch, max(num_workers, 1)
        self.process_index = process_index
        self.order = ShardOrder(
            [shard.num_rows for shard in stream.shards],
            batch_size=batch_size,
            num_streams=num_processes * self.num_workers,
            seed=seed,
        )

    def __iter__(self) -> Iterator[Sample]:
        """Yield samples from `start_batch` on, endlessly."""
        info = get_worker_info()
        # Stream n mod W makes batch n. The loader takes its first batch from worker 0, whatever its
        # number, so the streams are assigned to the workers in rotation.
        number = (self.start_batch + (0 if info is None else info.id)) % self.num_workers
        done = len(range(number, self.start_batch, self.num_workers))
        stream_index = self.process_index * self.num_workers + number
        epoch, batch = divmod(done, self.order.batches_per_epoch)
        while True:
            yield from self._epoch(epoch, stream_index, batch * self.batch_size)
            epoch, batch = epoch + 1, 0

    def _epoch(self, epoch: int, stream_index: int, start: int) -> Iterator[Sample]:
        """Yield the samples of an epoch from row `start` of the stream's share on."""
        rows_per_epoch, seed = self.order.rows_per_epoch, self.order.seed
        count = -(-rows_per_epoch // self.stream.shuffle_buffer)
        ends = [(i + 1) * rows_per_epoch // count for i in range(count)]
        first = bisect_right(ends, start)
        begin = ends[first - 1] if first else 0
        rows = self._rows(epoch, stream_index, begin)
        for buffer in range(first, count):
            buffered = list(islice(rows, ends[buffer] - begin))
            draws = np.random.default_rng([seed, epoch, ROWS, stream_index, buffer])
            order, flips = draws.permutation(len(buffered)), draws.random(len(buffered)) < 0.5
            for position in range(max(start - begin, 0), len(buffered)):
                flip = bool(self.random_flip and flips[position])
                yield self._good_sample(buffered, order, position, flip)
            begin = ends[buffer]
            del buffered  # frees its memory before the next rows are read

    def _rows(self, epoch: int, stream_index: int, skip: int) -> Iterator[Row]:
        """Yield the rows of a stream's share, without the first `skip`."""
        for shard, start, stop in self.order.stretches(epoch, stream_index):
            passed = min(skip, stop - start)
            skip -= passed
            if start + passed < stop:
                stretch = Stretch(shard, start + passed, stop)
                seed = [self.order.seed, epoch, GROUPS, shard]
                yield from self.stream.rows(stretch, groups_seed=seed)

    def _good_sample(self, rows: list[Row], order: np.ndarray, position: int, flip: bool) -> Sample:
        """Return the sample at a position in the buffer, or the next one that can be used."""
        for num_skipped in range(len(rows)):
            row = rows[order[(position + num_skipped) % len(rows)]]
            sample = self.stream.read_sample(row, flip=flip)
            if sample is not None:
                if self.stream.on_bad_sample == "skip":
                    sample["num_skipped"] = torch.tensor(num_skipped)
                return sample
        raise DataError(
            f"none of the {len(rows)} images in the shuffle buffer can be used: check the data, or "
            "use a larger shuffle_buffer"
        )
