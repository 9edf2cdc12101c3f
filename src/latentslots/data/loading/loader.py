"""From a data set to an endless, repeatable, sharded stream of training batches.

Everything random about a batch (which rows, which of them flipped) is decided by the sampler, from
the seed and the number of the batch alone. So a run that resumes sees what it would have seen, and
the number of workers changes nothing.
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
"""A row, and whether to mirror it left to right."""


class ImageDataset(TorchDataset[Sample]):
    """Rows of a data set as tensors.

    A sample holds `pixel_values` [3, R, R] in [-1, 1]; `segmentation` [R, R], int64, and `ignore`
    [R, R], bool, where the data set has them; `latent_mean` and `latent_std` [C, h, w] where
    latents are attached, and `features` [D, h, w] where these are; `index`, the row; and, with
    `on_bad_sample="skip"`, `num_skipped`, the number of bad rows that this one stands in for.

    Args:
        dataset: Rows with an `image`, as `load_dataset` returns them without streaming.
        resolution: Side R of the square that is resized and cropped out of every image.
        latents: Made from the same rows at the same resolution.
        features: Likewise.
        on_bad_sample: What to do with a row whose picture cannot be used: raise an `error` that
            names it, or `skip` to the next good row and log its name, once.
        fingerprint: Tells the rows from others, wherever they lie; by default their number does.
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
                "rows are drawn in any order here, which a streamed data set cannot give: "
                "load it without streaming, or use ImageStream"
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
        """Rows found unusable so far, by this process and by its workers."""
        return [int(row) for row in self._is_bad.nonzero()]

    def __getitem__(self, request: Request | int) -> Sample:
        """Read one row; a bare number means not mirrored."""
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
        """Rows from all over the data set, for what is measured once."""
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
    """Batches without end: every epoch a new permutation, less the rows that fill no batch.

    `num_processes` ranks together see exactly the batches that one rank with `num_processes` times
    the batch sees: rank r takes slice r of each.

    Args:
        num_rows: Rows of the data set.
        batch_size: Rows in a batch of this rank.
        seed: Another seed, another order.
        random_flip: Mirror half of the rows.
        start_batch: Batches that were seen already.
        num_processes: Ranks that share the data set.
        process_index: Which of them this one is.
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
            ranks = f" on each of {num_processes} processes" if num_processes > 1 else ""
            raise DataError(
                f"the data set has {num_rows} rows, which do not fill one batch of "
                f"{batch_size}{ranks}"
            )
        self.num_rows, self.batch_size = num_rows, batch_size
        self.seed, self.random_flip = seed, random_flip
        self.start_batch = start_batch
        self.process_index = process_index

    @property
    def batches_per_epoch(self) -> int:
        """Full batches that the data set fills once."""
        return self.num_rows // self.global_batch_size

    def __iter__(self) -> Iterator[list[Request]]:
        """Go on from `start_batch`, for ever."""
        epoch, batch = divmod(self.start_batch, self.batches_per_epoch)
        while True:
            order, flips = self._epoch(epoch)
            for position in range(batch, self.batches_per_epoch):
                start = position * self.global_batch_size + self.process_index * self.batch_size
                places = range(start, start + self.batch_size)
                yield [(int(order[place]), bool(flips[place])) for place in places]
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
    """Make the loader of a training run; its batches stack the samples of `ImageDataset`.

    It must not be passed through `accelerator.prepare`, which would divide it again.

    Args:
        dataset: What to load.
        batch_size: Images per process and batch.
        seed: Seed of order and flips; the same on every rank.
        num_workers: Processes that decode; 0 decodes in this one. Changes nothing, but the order
            of a stream, where each of them reads its own share.
        random_flip: Mirror half of the images left to right.
        start_batch: Batches that this run has seen already.
        num_processes: Ranks that share the data set.
        process_index: Which of them this one is.
        pin_memory: Put batches where a GPU can fetch them by itself.
    """
    # Without a generator of its own, every new iterator would draw from the global one, and a
    # resumed run would continue with other noise than an uninterrupted one.
    generator = torch.Generator().manual_seed(seed)
    share: dict[str, Any] = {
        "batch_size": batch_size,
        "seed": seed,
        "random_flip": random_flip,
        "start_batch": start_batch,
        "num_processes": num_processes,
        "process_index": process_index,
    }
    how: dict[str, Any] = {
        "num_workers": num_workers,
        "pin_memory": pin_memory,
        "generator": generator,
    }
    if isinstance(dataset, ImageStream):
        samples = StreamedSamples(dataset, num_workers=num_workers, **share)
        return DataLoader(samples, batch_size=batch_size, **how)
    for cache in (dataset.latents, dataset.features):
        if random_flip and cache is not None and not cache.has_flip:
            raise DataError(
                f"random_flip needs the {cache.HOLDS} of mirrored images, which the cache at "
                f"{cache.path} does not hold"
            )
    batches = ResumableBatches(len(dataset), **share)
    return DataLoader(dataset, batch_sampler=batches, **how)
