"""The images of a run, with what is computed of them once."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset
from diffusers import AutoencoderKL
from torch import nn

from latentslots.config import DataConfig, TrainConfig
from latentslots.data.loading.cache import FeatureCache, ImageCache, LatentCache
from latentslots.data.loading.cache_writer import cache_features, cache_latents
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
from latentslots.objectives import LatentSlotDiffusionObjective, Objective

LATENTS_DIR, FEATURES_DIR = LatentCache.HOLDS, FeatureCache.HOLDS
_Wanted = tuple[type[ImageCache], Callable[..., ImageCache], nn.Module]


class _How(NamedTuple):
    """What the caches of a run are made with."""

    run_dir: Path
    is_main_process: bool
    wait: Callable[[], None]
    progress: bool


def build_split(config: DataConfig, split: str) -> Dataset:
    """Open a split of the store, or of the plain folder of images, that a config names.

    A folder whose subfolders are the splits (`train`, `validation`) is not split once more.
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
    """Where a split's latents lie: as told, beside a store's shards, or in `fallback`.

    The fallback serves plain folders of images, and stores that cannot be written to.
    """
    return _cache_dir(config, split, vae, LatentCache, fallback)


def _cache_dir(
    config: DataConfig,
    split: str,
    model: nn.Module,
    cls: type[ImageCache],
    fallback: Path | None,
) -> Path:
    told = {LatentCache: config.latents, FeatureCache: config.features}[cls]
    if told:
        return Path(told)
    beside = has_manifest(config.path) and os.access(config.path, os.W_OK)
    root = Path(config.path) if beside or fallback is None else fallback
    return root / cls.HOLDS / f"{split}-{config.resolution}-{model_fingerprint(model)[:8]}"


def _wanted_caches(config: TrainConfig, objective: Objective) -> Iterator[_Wanted]:
    """What is to be made of the images before training, how, and by whom."""
    data = config.data
    if isinstance(objective, LatentSlotDiffusionObjective) and data.cache_latents:
        assert objective.vae is not None
        yield LatentCache, cache_latents, objective.vae
    elif data.latents:
        raise ValueError(
            "data.latents is where data.cache_latents puts what a VAE makes: set both, for a "
            "method that has a VAE"
        )
    if data.features and not data.cache_features:
        raise ValueError("data.features is where data.cache_features puts them: set both")
    if not data.cache_features:
        return
    encoder = getattr(objective, "encoder", None)
    if encoder is None or any(p.requires_grad for p in encoder.parameters()):
        raise ValueError(
            f"data.cache_features needs a frozen image backbone, and {config.method.kind} has none"
        )
    yield FeatureCache, cache_features, encoder


def _cached(wanted: _Wanted, dataset: Dataset, config: TrainConfig, how: _How) -> ImageCache:
    """Made by the main process, if it is not there yet, and opened by all."""
    cls, make, model = wanted
    data = config.data
    folder = _cache_dir(data, data.train_split, model, cls, how.run_dir)
    if how.is_main_process:
        make(
            dataset,
            model,
            folder,
            resolution=data.resolution,
            flip=data.random_flip,
            num_workers=data.num_workers,
            on_bad_sample=data.on_bad_sample,
            progress=how.progress,
        )
    how.wait()
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
    """The training images, with latents and features where the method and the config want them.

    Args:
        config: The run.
        objective: Its objective, whose VAE makes the latents, and whose encoder the features.
        run_dir: Keeps those of a plain folder of images.
        is_main_process: Whether to make what is not there yet.
        wait: Called when they are made: a barrier, where there are several processes.
        progress: Whether to show a bar on stderr.
    """
    data = config.data
    if data.streaming:
        if data.latents or data.features or data.glob or data.cache_features:
            raise ValueError(
                "data.streaming reads a store and encodes its images as they come: data.latents, "
                "data.features, data.cache_features and data.glob are not for it"
            )
        return ImageStream(
            data.path,
            split=data.train_split,
            resolution=data.resolution,
            shuffle_buffer=data.shuffle_buffer,
            on_bad_sample=data.on_bad_sample,
        )
    dataset = build_split(data, data.train_split)
    how = _How(run_dir, is_main_process, wait, progress)
    caches: dict[str, Any] = {
        wanted[0].HOLDS: _cached(wanted, dataset, config, how)
        for wanted in _wanted_caches(config, objective)
    }
    # Plain folders have other times when they were copied, and so another fingerprint.
    known = dataset_fingerprint(dataset) if has_manifest(dataset_path(data.path)) else ""
    return ImageDataset(
        dataset, data.resolution, on_bad_sample=data.on_bad_sample, fingerprint=known, **caches
    )
