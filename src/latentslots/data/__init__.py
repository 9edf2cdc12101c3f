"""Data sets: the Parquet store, transforms, batches, the latent cache, and importers."""

from importlib import import_module
from typing import Any

_MODULES = {
    "DataError": "errors",
    "DatasetInfo": "info",
    "ImageDataset": "loader",
    "ImageStream": "stream",
    "LatentCache": "latent_cache",
    "ResizeCenterCrop": "transforms",
    "ResumableBatches": "loader",
    "SceneOptions": "scenes.make",
    "StoreWriter": "writer",
    "UnknownSplitError": "errors",
    "build_loader": "loader",
    "cache_latents": "latents",
    "contact_sheet": "info",
    "dataset_fingerprint": "store",
    "hflip": "transforms",
    "import_arrays": "arrays",
    "import_folder": "image_folder",
    "load_dataset": "store",
    "make_scenes": "scenes.make",
    "merge_stores": "merge",
    "model_fingerprint": "latent_cache",
    "split_names": "store",
    "to_ids": "transforms",
    "to_pixel_values": "transforms",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    """Import what a name stands for when it is first used: HF datasets takes a second to load."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
