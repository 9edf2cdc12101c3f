"""What a frozen VAE or image backbone makes of every image, once instead of every epoch.

In the official code both look at every image at every step, which is the largest fixed cost of its
training.
"""

import json
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
from latentslots.files import publish, write_json
from latentslots.fingerprint import model_fingerprint

__all__ = ["FeatureCache", "LatentCache", "cache_features", "cache_latents", "model_fingerprint"]

logger = logging.getLogger(__name__)

_PROGRESS_NAME = "progress.json"
_BATCHES_BETWEEN_SAVES = 50


Encode = Callable[[Any, Tensor], tuple[np.ndarray, ...]]


def cache_latents(
    dataset: Dataset, vae: nn.Module, out_dir: str | os.PathLike[str], **options: Any
) -> LatentCache:
    """Encode every image of a data set, and open the result.

    An interrupted call, repeated, goes on where it stopped. What is there already is checked and
    not made again, so that `flip` can be added later. Of several processes that make the same
    cache, one does, and the others wait.

    Args:
        dataset: Rows with an `image`; row i of the cache belongs to row i.
        vae: A diffusers `AutoencoderKL`, on the device and in the type that it shall run in.
        out_dir: Folder of the cache.
        **options: As for `cache_features`.
    """
    return _cache(LatentCache, _encode, dataset, vae, out_dir, **options)


def cache_features(
    dataset: Dataset, encoder: nn.Module, out_dir: str | os.PathLike[str], **options: Any
) -> FeatureCache:
    """As `cache_latents`, for the features of a frozen image backbone.

    Args:
        dataset: Rows with an `image`; row i of the cache belongs to row i.
        encoder: Images in [-1, 1] to a map of features, on the device and in the type that it shall
            run in.
        out_dir: Folder of the cache.
        **options: `resolution`, the side of the images in pixels; and those with defaults below.
    """
    return _cache(FeatureCache, _look, dataset, encoder, out_dir, **options)


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
    """Ask a model of every image, and open the result.

    Args:
        cls: What to make.
        encode: Asks the model of a batch; an array for each that the cache holds.
        dataset: The images.
        model: The model.
        out_dir: Folder of the cache.
        resolution: Side of the images in pixels.
        batch_size: Images that are encoded at once.
        flip: Also encode the mirrored images, for training with `random_flip`.
        num_workers: Processes that decode images.
        on_bad_sample: As in `ImageDataset`. In the place of a row that is skipped is what was made
            of the row that stands in for it.
        progress: Show a bar on stderr.
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
            with _alone(path, folder):
                made = read_key(path / folder)
                if made is not None:
                    key.check(made, path)
                    continue
                job = _Job(path / folder, key, cls.ARRAYS, flip=folder == FLIP)
                batches = job.batches(images, batch_size, num_workers)
                answers = (encode(model, pixel_values) for pixel_values in batches)
                job.run(answers, progress=progress)
    finally:
        model.train(was_training)
    return cls.open(
        path, fingerprint=fingerprint, resolution=resolution, dataset_fingerprint=key.dataset
    )


@contextmanager
def _alone(path: Path, folder: str) -> Iterator[None]:
    """One process at a time makes a folder; the others wait, and find it made."""
    if read_key(path / folder) is not None:  # also where nothing can be written
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
    """One folder of a cache, in the making: `<folder>.partial`, which is renamed at the end."""

    def __init__(self, folder: Path, key: CacheKey, names: tuple[str, ...], *, flip: bool) -> None:
        if folder.exists():
            raise DataError(
                f"{folder} exists and is no cache of {key.holds}: it has no {MANIFEST_NAME}"
            )
        self.folder, self.key, self.names, self.flip = folder, key, names, flip
        self.partial = folder.with_name(f"{folder.name}.partial")
        self.num_done = 0
        self.arrays: dict[str, np.memmap] = {}
        self._resume()

    def run(self, answers: Iterator[tuple[np.ndarray, ...]], *, progress: bool) -> None:
        """Keep what a model says of what is left, and let the folder appear under its name."""
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
                for number, arrays in enumerate(answers, start=1):
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
        """The images that are left."""
        left = [(row, self.flip) for row in range(self.num_done, len(images))]
        loader = DataLoader(
            images,
            batch_size=batch_size,
            sampler=left,
            num_workers=num_workers,
            generator=torch.Generator(),  # the global one belongs to the training that may follow
        )
        return (batch["pixel_values"] for batch in loader)

    def _write(self, arrays: tuple[np.ndarray, ...]) -> None:
        end = self.num_done + len(arrays[0])
        for name, rows in zip(self.names, arrays, strict=True):
            if not np.isfinite(rows).all():
                raise DataError(
                    f"the model gave {self.key.holds} that are not finite in half precision for "
                    f"rows {self.num_done}..{end - 1}"
                )
            if name not in self.arrays:
                self.arrays[name] = self._create(name, rows.shape[1:])
            self.arrays[name][self.num_done : end] = rows
        self.num_done = end

    def _create(self, name: str, shape: tuple[int, ...]) -> np.memmap:
        shape = (self.key.num_rows, *shape)
        needed = int(np.prod(shape)) * np.dtype(self.key.dtype).itemsize
        free = shutil.disk_usage(self.partial).free
        if needed > free:  # writing to a map on a full disk would kill the process
            raise DataError(
                f"{self.partial / name} needs {needed / 1e9:.1f} GB, but {free / 1e9:.1f} are free"
            )
        return open_memmap(self.partial / f"{name}.npy", "w+", np.dtype(self.key.dtype), shape)

    def _save(self) -> None:
        """Put on disk what is done, first the latents, then how many there are."""
        for array in self.arrays.values():
            array.flush()
        content = {"key": asdict(self.key), "num_done": self.num_done}
        write_json(self.partial / _PROGRESS_NAME, content)

    def _resume(self) -> None:
        progress = self.partial / _PROGRESS_NAME
        if progress.is_file():
            content = json.loads(progress.read_text(encoding="utf-8"))
            if content["key"] == asdict(self.key):
                self.num_done = content["num_done"]
            else:
                logger.warning("%s was begun with other data or models: again", self.partial)
        if self.num_done:
            for name in self.names:
                self.arrays[name] = open_memmap(self.partial / f"{name}.npy", "r+")
        else:
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir(parents=True)


def _encode(vae: Any, pixel_values: Tensor) -> tuple[np.ndarray, np.ndarray]:
    with torch.inference_mode():
        posterior = vae.encode(pixel_values.to(vae.device, vae.dtype)).latent_dist
    mean, std = posterior.mean, posterior.std
    return mean.half().cpu().numpy(), std.half().cpu().numpy()


def _look(encoder: Any, pixel_values: Tensor) -> tuple[np.ndarray, ...]:
    with torch.inference_mode():
        features = encoder(pixel_values.to(encoder.device))
    return (features.half().cpu().numpy(),)
