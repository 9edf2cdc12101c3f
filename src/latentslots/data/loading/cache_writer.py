"""Writing caches of the outputs of a frozen VAE or image backbone, computed once per image.

The official code computes both for every image at every step, the largest fixed cost of training.
"""

import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from filelock import FileLock, Timeout
from numpy.lib.format import open_memmap
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from latentslots.data.errors import DataError
from latentslots.data.loading.cache import (
    FLIP,
    MANIFEST_NAME,
    PLAIN,
    CacheKey,
    FeatureCache,
    ImageCache,
    LatentCache,
    read_key,
)
from latentslots.data.loading.loader import ImageDataset
from latentslots.data.store.reader import dataset_fingerprint
from latentslots.files import publish, read_json, write_json
from latentslots.fingerprint import model_fingerprint

__all__ = ["FeatureCache", "LatentCache", "cache_features", "cache_latents", "model_fingerprint"]

logger = logging.getLogger(__name__)

_PROGRESS_NAME = "progress.json"
_BATCHES_BETWEEN_SAVES = 50


Encode = Callable[[Any, Tensor], tuple[np.ndarray, ...]]


def cache_latents(
    dataset: Dataset, vae: nn.Module, out_dir: str | os.PathLike[str], **options: Any
) -> LatentCache:
    """Encode every image of a data set with a VAE, and open the cache.

    An interrupted call is resumed by the next one. A cache that exists is checked and not made
    again, so that `flip` can be added later. If several processes need the same cache, one makes
    it and the others wait.

    Args:
        dataset: Rows with an `image`; row i of the cache belongs to row i.
        vae: A diffusers `AutoencoderKL`, on the device and in the type to run in.
        out_dir: Folder of the cache.
        **options: See `cache_features`.

    Raises:
        DataError: If the folder holds the cache of another model, data set or resolution.
    """
    return _cache(LatentCache, _encode_latents, dataset, vae, out_dir, **options)


def cache_features(
    dataset: Dataset, encoder: nn.Module, out_dir: str | os.PathLike[str], **options: Any
) -> FeatureCache:
    """Compute the features of every image with a frozen backbone, as `cache_latents` does.

    Args:
        dataset: Rows with an `image`; row i of the cache belongs to row i.
        encoder: Maps images in [-1, 1] to features, on the device and in the type to run in.
        out_dir: Folder of the cache.
        **options: `resolution`, the side of the images in pixels; optional are `batch_size`, `flip`
            (also the flipped images), `num_workers`, `on_bad_sample` and `progress`.
    """
    return _cache(FeatureCache, _compute_features, dataset, encoder, out_dir, **options)


def _cache(
    cls: type[ImageCache],
    encode: Encode,
    dataset: Dataset,
    model: nn.Module,
    out_dir: str | os.PathLike[str],
    *,
    resolution: int,
    batch_size: int = 32,
    flip: bool = False,
    num_workers: int = 0,
    on_bad_sample: str = "error",
    progress: bool = False,
) -> Any:
    """Compute a model's outputs for every image, and open the cache.

    Args:
        cls: Class of the cache.
        encode: Runs the model on a batch; returns one array for each array of the cache.
        dataset: The images.
        model: The model.
        out_dir: Folder of the cache.
        resolution: Side of the images in pixels.
        batch_size: Images per batch.
        flip: Also encode the flipped images, for training with `random_flip`.
        num_workers: Processes that decode images.
        on_bad_sample: See `ImageDataset`. A skipped row gets the outputs of the row that replaces
            it.
        progress: Whether to show a progress bar on stderr.
    """
    path = Path(out_dir)
    fingerprint = model_fingerprint(model)
    key = CacheKey(
        holds=cls.HOLDS,
        model=fingerprint,
        resolution=resolution,
        dataset=dataset_fingerprint(dataset),
        num_rows=len(dataset),
    )
    images = ImageDataset(dataset, resolution, on_bad_sample=on_bad_sample)
    was_training = model.training
    model.eval()
    try:
        for folder in (PLAIN, FLIP) if flip else (PLAIN,):
            with _locked(path, folder):
                made = read_key(path / folder)
                if made is not None:
                    key.check(made, path)
                    continue
                job = _Job(path / folder, key, cls.ARRAYS, flip=folder == FLIP)
                batches = job.batches(images, batch_size, num_workers)
                outputs = (encode(model, pixel_values) for pixel_values in batches)
                job.run(outputs, progress=progress)
    finally:
        model.train(was_training)
    return cls.open(
        path, fingerprint=fingerprint, resolution=resolution, dataset_fingerprint=key.dataset
    )


def remove_outdated(path: Path, dataset: Dataset) -> None:
    """Remove the cache that belongs to a run if it is of other images, so that it is made anew."""
    made = read_key(path / PLAIN)
    if made is not None and made.dataset != dataset_fingerprint(dataset):
        logger.warning("%s was made from other images, or by an older release: made anew", path)
        shutil.rmtree(path)


@contextmanager
def _locked(path: Path, folder: str) -> Iterator[None]:
    """Lock a folder, so that one process at a time writes it while the others wait."""
    if read_key(path / folder) is not None:  # no lock is needed, as on a read-only disk
        yield
        return
    path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path / f".{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.warning("another process is making %s: waiting for it", path / folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


class _Job:
    """Writes one folder of a cache as `<folder>.partial`, which is renamed at the end."""

    def __init__(self, folder: Path, key: CacheKey, names: tuple[str, ...], *, flip: bool) -> None:
        if folder.exists():
            raise DataError(
                f"{folder} exists and is not a cache of {key.holds}: it has no {MANIFEST_NAME}"
            )
        self.folder, self.key, self.names, self.flip = folder, key, names, flip
        self.partial = folder.with_name(f"{folder.name}.partial")
        self.num_done = 0
        self.arrays: dict[str, np.memmap] = {}
        self._resume()

    def run(self, outputs: Iterator[tuple[np.ndarray, ...]], *, progress: bool) -> None:
        """Write the outputs for the remaining images, and publish the folder."""
        bar = tqdm(
            total=self.key.num_rows,
            initial=self.num_done,
            desc=f"{self.key.holds} ({self.folder.name})",
            unit="image",
            file=sys.stderr,
            disable=not progress,
        )
        with bar:
            try:
                for number, arrays in enumerate(outputs, start=1):
                    self._write(arrays)
                    bar.update(len(arrays[0]))
                    if number % _BATCHES_BETWEEN_SAVES == 0:
                        self._save()
            finally:
                self._save()
        self.arrays.clear()
        (self.partial / _PROGRESS_NAME).unlink()
        write_json(self.partial / MANIFEST_NAME, asdict(self.key))
        publish(self.partial, self.folder)

    def batches(self, images: ImageDataset, batch_size: int, num_workers: int) -> Iterator[Tensor]:
        """Batches of the remaining images."""
        remaining = [(row, self.flip) for row in range(self.num_done, len(images))]
        loader = DataLoader(
            images,
            batch_size=batch_size,
            sampler=remaining,
            num_workers=num_workers,
            generator=torch.Generator(),  # the global one must not depend on writing a cache
        )
        return (batch["pixel_values"] for batch in loader)

    def _write(self, arrays: tuple[np.ndarray, ...]) -> None:
        end = self.num_done + len(arrays[0])
        for name, rows in zip(self.names, arrays, strict=True):
            if not np.isfinite(rows).all():
                raise DataError(
                    f"the {self.key.holds} of rows {self.num_done}..{end - 1} are not finite in "
                    "half precision"
                )
            if name not in self.arrays:
                self.arrays[name] = self._create(name, rows.shape[1:])
            self.arrays[name][self.num_done : end] = rows
        self.num_done = end

    def _create(self, name: str, shape: tuple[int, ...]) -> np.memmap:
        shape = (self.key.num_rows, *shape)
        needed = int(np.prod(shape)) * np.dtype(self.key.dtype).itemsize
        free = shutil.disk_usage(self.partial).free
        if needed > free:  # writing to a memory map on a full disk kills the process
            raise DataError(
                f"{self.partial / name} needs {needed / 1e9:.1f} GB, but {free / 1e9:.1f} are free"
            )
        return open_memmap(self.partial / f"{name}.npy", "w+", np.dtype(self.key.dtype), shape)

    def _save(self) -> None:
        """Flush the arrays to the disk, then record how many rows are done."""
        for array in self.arrays.values():
            array.flush()
        content = {"key": asdict(self.key), "num_done": self.num_done}
        write_json(self.partial / _PROGRESS_NAME, content)

    def _resume(self) -> None:
        progress = self.partial / _PROGRESS_NAME
        if progress.is_file():
            content = read_json(progress)
            if content["key"] == asdict(self.key):
                self.num_done = content["num_done"]
            else:
                logger.warning("%s was made from other data or models: starting over", self.partial)
        if self.num_done:
            for name in self.names:
                self.arrays[name] = open_memmap(self.partial / f"{name}.npy", "r+")
        else:
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir(parents=True)


def _encode_latents(vae: Any, pixel_values: Tensor) -> tuple[np.ndarray, np.ndarray]:
    with torch.inference_mode():
        posterior = vae.encode(pixel_values.to(vae.device, vae.dtype)).latent_dist
    mean, std = posterior.mean, posterior.std
    return mean.half().cpu().numpy(), std.half().cpu().numpy()


def _compute_features(encoder: Any, pixel_values: Tensor) -> tuple[np.ndarray, ...]:
    with torch.inference_mode():
        features = encoder(pixel_values.to(encoder.device))
    return (features.half().cpu().numpy(),)
