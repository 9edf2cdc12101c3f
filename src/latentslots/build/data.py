"""The images of a run, and caches of the outputs of frozen models on them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from diffusers import AutoencoderKL
from torch import nn

from latentslots.config import DataConfig, TrainConfig
from latentslots.data.loading.cache import FeatureCache, ImageCache, LatentCache
from latentslots.data.loading.cache_writer import cache_features, cache_latents, remove_outdated
from latentslots.data.loading.loader import ImageDataset
from latentslots.data.loading.stream import ImageStream
from latentslots.data.store.manifest import has_manifest
from latentslots.data.store.reader import (
    dataset_fingerprint,
    dataset_path,
    load_dataset,
    split_names,
)
from latentslots.fingerprint import model_fingerprint
from latentslots.objectives import Objective

LATENTS_DIR, FEATURES_DIR = LatentCache.HOLDS, FeatureCache.HOLDS


@dataclass(frozen=True)
class _Caching:
    """How the caches of a run are written."""

    run_dir: Path
    is_main_process: bool
    wait: Callable[[], None]
    progress: bool


def build_split(config: DataConfig, split: str) -> Dataset:
    """Open a split of the store, or of the plain folder of images, that a config names.

    A folder whose subfolders are the splits (`train`, `validation`) is not split again.
    """
    path = dataset_path(config.path)
    if config.glob and not config.streaming and has_manifest(path):
        raise ValueError(f"data.glob is for plain folders of images, and {config.path} is a store")
    if has_manifest(path) or (not config.glob and len(split_names(path)) > 1):
        return load_dataset(path, split=split)
    return load_dataset(
        config.path,
        split=split,
        glob=config.glob or None,
        validation_fraction=config.validation_fraction,
        group_by=config.group_by,
    )


def latents_dir(
    config: DataConfig, split: str, vae: AutoencoderKL, fallback: Path | None = None
) -> Path:
    """Return the folder of a split's latents: as configured, beside the shards, or in `fallback`.

    The fallback serves plain folders of images, and stores that are not writable.
    """
    return _cache_dir(config, split, vae, LatentCache, fallback)


def _cache_dir(
    config: DataConfig,
    split: str,
    model: nn.Module,
    cls: type[ImageCache],
    fallback: Path | None,
) -> Path:
    configured = {LatentCache: config.latents, FeatureCache: config.features}[cls]
    if configured:
        return Path(configured)
    is_writable_store = has_manifest(config.path) and os.access(config.path, os.W_OK)
    root = Path(config.path) if is_writable_store or fallback is None else fallback
    return root / cls.HOLDS / f"{split}-{config.resolution}-{model_fingerprint(model)[:8]}"


def _caching_models(config: TrainConfig, objective: Objective) -> dict[str, nn.Module]:
    """The models whose outputs are to be cached, by kind of output.

    Raises:
        ValueError: If the method has no such model, or a folder is set for an output that is not
            cached.
    """
    data, cacheable = config.data, objective.cacheable()
    if data.latents and not (data.cache_latents and "latents" in cacheable):
        raise ValueError(
            "data.latents is the folder of data.cache_latents: set both, for a method with a VAE"
        )
    if data.features and not data.cache_features:
        raise ValueError("data.features is the folder of data.cache_features: set both")
    if data.cache_features and "features" not in cacheable:
        raise ValueError(
            f"data.cache_features needs a frozen image backbone, and {config.method.kind} has none"
        )
    wanted = {"latents": data.cache_latents, "features": data.cache_features}
    return {name: model for name, model in cacheable.items() if wanted[name]}


def _cache(
    kind: str, model: nn.Module, dataset: Dataset, config: TrainConfig, caching: _Caching
) -> ImageCache:
    """Open a cache, which the main process writes if it does not exist."""
    writers: dict[str, tuple[type[ImageCache], Callable[..., ImageCache]]]
    writers = {
        LATENTS_DIR: (LatentCache, cache_latents),
        FEATURES_DIR: (FeatureCache, cache_features),
    }
    cls, write = writers[kind]
    data = config.data
    folder = _cache_dir(data, data.train_split, model, cls, caching.run_dir)
    if caching.is_main_process:
        if folder.is_relative_to(caching.run_dir):
            remove_outdated(folder, dataset)
        write(
            dataset,
            model,
            folder,
            resolution=data.resolution,
            flip=data.random_flip,
            num_workers=data.num_workers,
            on_bad_sample=data.on_bad_sample,
            progress=caching.progress,
        )
    caching.wait()
    return cls.open(
        folder,
        fingerprint=model_fingerprint(model),
        resolution=data.resolution,
        dataset_fingerprint=dataset_fingerprint(dataset),
    )


def build_training_set(
    config: TrainConfig,
    objective: Objective,
    *,
    run_dir: Path,
    is_main_process: bool = True,
    wait: Callable[[], None] = lambda: None,
    progress: bool = True,
) -> ImageDataset | ImageStream:
    """Open the training images, with cached latents and features as configured.

    Args:
        config: Config of the run.
        objective: Objective of the run, whose frozen models compute latents and features.
        run_dir: Folder for the caches of a plain folder of images.
        is_main_process: Whether to write caches that do not exist.
        wait: Barrier between processes, called once the caches are written.
        progress: Whether to show a progress bar on stderr.
    """
    data = config.data
    if data.streaming:
        if data.latents or data.features or data.glob or data.cache_features:
            raise ValueError(
                "data.streaming encodes images during training: data.latents, data.features, "
                "data.cache_features and data.glob do not apply to it"
            )
        return ImageStream(
            data.path,
            split=data.train_split,
            resolution=data.resolution,
            shuffle_buffer=data.shuffle_buffer,
            on_bad_sample=data.on_bad_sample,
        )
    dataset = build_split(data, data.train_split)
    caching = _Caching(run_dir, is_main_process, wait, progress)
    caches: dict[str, Any] = {
        kind: _cache(kind, model, dataset, config, caching)
        for kind, model in _caching_models(config, objective).items()
    }
    return ImageDataset(
        dataset,
        data.resolution,
        on_bad_sample=data.on_bad_sample,
        fingerprint=dataset_fingerprint(dataset),
        **caches,
    )
