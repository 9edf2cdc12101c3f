"""Endless, reproducible training batches from a memory-mapped data set.

The sampler draws everything that is random about a batch (its rows, and which of them are flipped)
from the seed and the number of the batch alone. So a resumed run gets the same batches as an
uninterrupted one, whatever the number of workers.
"""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image, IterableDataset
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from latentslots.data.errors import DataError
from latentslots.data.loading.cache import FeatureCache, LatentCache
from latentslots.data.loading.samples import Sample, SampleReader, shared_flags
from latentslots.data.loading.stream import ImageStream, StreamedSamples

logger = logging.getLogger(__name__)

Request = tuple[int, bool]
"""A row, and whether to flip it left to right."""


class ImageDataset(TorchDataset[Sample]):
    """Rows of a data set as tensors.

    A sample holds:

    - `pixel_values` [3, R, R] in [-1, 1];
    - `segmentation` [R, R], int64, and `ignore` [R, R], bool, if the data set has them;
    - `latent_mean` and `latent_std` [C, h, w], if a cache of latents is attached;
    - `features` [D, h, w], if a cache of features is attached;
    - `index`, the row;
    - with `on_bad_sample="skip"`, `num_skipped`, the number of bad rows that this row replaces.

    Args:
        dataset: Rows with an `image`, as `load_dataset` returns them without streaming.
        resolution: Side R of the square that every image is resized and cropped to.
        latents: Cache of the latents of the same rows at the same resolution.
        features: Cache of the features of the same rows at the same resolution.
        on_bad_sample: What to do with a row that cannot be used: raise an `error` that names it, or
            `skip` to the next good row and log it once.
        fingerprint: Identity of the rows, in any location; by default their number.
    """

    def __init__(
        self,
        dataset: Dataset | IterableDataset,
        resolution: int,
        *,
        latents: LatentCache | None = None,
        features: FeatureCache | None = None,
        on_bad_sample: str = "error",
        fingerprint: str = "",
    ) -> None:
        if on_bad_sample not in ("error", "skip"):
            raise DataError(f"on_bad_sample must be 'error' or 'skip', got {on_bad_sample!r}")
        if not isinstance(dataset, Dataset):
            raise DataError(
                "a streamed data set has no random access to its rows: load it without streaming, "
                "or use ImageStream"
            )
        if not isinstance(dataset.features.get("image"), Image):
            raise DataError(
                f"the data set needs an image column 'image', got {dataset.column_names}"
            )
        for cache in (latents, features):
            if cache is not None and len(cache) != len(dataset):
                raise DataError(
                    f"the cache of {cache.HOLDS} has {len(cache)} rows, but the data set has "
                    f"{len(dataset)}"
                )
        self.reader = SampleReader(dataset.column_names, resolution)
        self.rows = dataset.with_format(None).select_columns(self.reader.columns)
        for column in self.reader.columns:
            self.rows = self.rows.cast_column(column, Image(decode=False))
        self.fingerprint = fingerprint or f"{len(dataset)} images"
        self.latents = latents
        self.features = features
        self.on_bad_sample = on_bad_sample
        self._is_bad = shared_flags(len(dataset))

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    @property
    def bad_rows(self) -> list[int]:
        """Rows that could not be used so far, in this process and its workers."""
        return [int(row) for row in self._is_bad.nonzero()]

    def __getitem__(self, request: Request | int) -> Sample:
        """Read one row; an integer means not flipped."""
        index, flip = request if isinstance(request, tuple) else (request, False)
        if self.on_bad_sample == "error":
            return self._read(index, flip)
        for num_skipped in range(len(self)):
            row = (index + num_skipped) % len(self)
            if self._is_bad[row]:
                continue
            try:
                sample = self._read(row, flip)
            except DataError as error:
                self._is_bad[row] = True
                logger.warning("skipped: %s", error)
            else:
                return {**sample, "num_skipped": torch.tensor(num_skipped)}
        raise DataError(f"none of the {len(self)} images can be used")

    def spread(self, count: int) -> list[Sample]:
        """Samples at equal distances in the data set, for measuring its statistics."""
        return [self[i * len(self) // count] for i in range(count)]

    def _read(self, index: int, flip: bool) -> Sample:
        sample = self.reader(self.rows[index], flip, where=f"row {index}")
        sample["index"] = torch.tensor(index)
        if self.latents is not None:
            sample["latent_mean"], sample["latent_std"] = self.latents[index, flip]
        if self.features is not None:
            (sample["features"],) = self.features[index, flip]
        return sample


class ResumableBatches(Sampler[list[Request]]):
    """Endless batches: a new permutation in every epoch, without the rows that fill no batch.

    `num_processes` processes together get the batches that one process with a batch
    `num_processes` times as large gets: process r takes slice r of each.

    Args:
        num_rows: Rows of the data set.
        batch_size: Rows per batch of this process.
        seed: Another seed gives another order.
        random_flip: Flip half of the rows.
        start_batch: Batches to skip, which were used before.
        num_processes: Processes that share the data set.
        process_index: Index of this process.
    """

    def __init__(
        self,
        num_rows: int,
        *,
        batch_size: int,
        seed: int = 0,
        random_flip: bool = False,
        start_batch: int = 0,
        num_processes: int = 1,
        process_index: int = 0,
    ) -> None:
        if batch_size < 1:
            raise DataError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= process_index < num_processes:
            raise DataError(f"process_index must be in 0..{num_processes - 1}, got {process_index}")
        if start_batch < 0:
            raise DataError(f"start_batch must be at least 0, got {start_batch}")
        self.global_batch_size = batch_size * num_processes
        if num_rows < self.global_batch_size:
            each = f" on each of {num_processes} processes" if num_processes > 1 else ""
            raise DataError(
                f"the data set has {num_rows} rows, which do not fill one batch of "
                f"{batch_size}{each}"
            )
        self.num_rows, self.batch_size = num_rows, batch_size
        self.seed, self.random_flip = seed, random_flip
        self.start_batch = start_batch
        self.process_index = process_index

    @property
    def batches_per_epoch(self) -> int:
        """Full batches in an epoch."""
        return self.num_rows // self.global_batch_size

    def __iter__(self) -> Iterator[list[Request]]:
        """Yield batches from `start_batch` on, endlessly."""
        epoch, batch = divmod(self.start_batch, self.batches_per_epoch)
        while True:
            order, flips = self._epoch(epoch)
            for position in range(batch, self.batches_per_epoch):
                start = position * self.global_batch_size + self.process_index * self.batch_size
                stop = start + self.batch_size
                yield [(int(order[i]), bool(flips[i])) for i in range(start, stop)]
            epoch, batch = epoch + 1, 0

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng([self.seed, epoch])
        order = generator.permutation(self.num_rows)
        flips = generator.random(self.num_rows) < 0.5
        return order, flips if self.random_flip else np.zeros_like(flips)


def build_loader(
    dataset: ImageDataset | ImageStream,
    *,
    batch_size: int,
    seed: int = 0,
    num_workers: int = 0,
    random_flip: bool = False,
    start_batch: int = 0,
    num_processes: int = 1,
    process_index: int = 0,
    pin_memory: bool = False,
) -> DataLoader[Sample]:
    """Create the data loader of a training run; its batches stack the samples of `ImageDataset`.

    It must not be passed through `accelerator.prepare`, which would divide the batches again.

    Args:
        dataset: The images.
        batch_size: Images per process and batch.
        seed: Seed of order and flips; the same in every process.
        num_workers: Processes that decode; 0 decodes in this process. The number changes the order
            of a stream, in which each worker reads its own share, and nothing else.
        random_flip: Flip half of the images left to right.
        start_batch: Batches to skip, which this run has used already.
        num_processes: Processes that share the data set.
        process_index: Index of this process.
        pin_memory: Copy batches to page-locked memory, for faster transfer to a GPU.

    Raises:
        DataError: If the rows do not fill a batch, or flips are missing in a cache.
    """
    # Without its own generator, every new iterator would draw from the global one, and a resumed
    # run would continue with other noise than an uninterrupted one.
    generator = torch.Generator().manual_seed(seed)
    share: dict[str, Any] = {
        "batch_size": batch_size,
        "seed": seed,
        "random_flip": random_flip,
        "start_batch": start_batch,
        "num_processes": num_processes,
        "process_index": process_index,
    }
    options: dict[str, Any] = {
        "num_workers": num_workers,
        "pin_memory": pin_memory,
        "generator": generator,
    }
    if isinstance(dataset, ImageStream):
        samples = StreamedSamples(dataset, num_workers=num_workers, **share)
        return DataLoader(samples, batch_size=batch_size, **options)
    for cache in (dataset.latents, dataset.features):
        if random_flip and cache is not None and not cache.has_flip:
            raise DataError(
                f"random_flip needs the {cache.HOLDS} of flipped images, which the cache at "
                f"{cache.path} does not hold"
            )
    batches = ResumableBatches(len(dataset), **share)
    return DataLoader(dataset, batch_sampler=batches, **options)
