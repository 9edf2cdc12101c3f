"""Data sets: the Parquet store, importers, transforms, training batches, caches and scenes."""

from importlib import import_module
from typing import Any

_MODULES = {
    "DataError": "errors",
    "DatasetInfo": "store.info",
    "ImageDataset": "loading.loader",
    "ImageStream": "loading.stream",
    "LatentCache": "loading.cache",
    "ResizeCenterCrop": "transforms",
    "ResumableBatches": "loading.loader",
    "SceneOptions": "scenes.make",
    "StoreWriter": "store.writer",
    "UnknownSplitError": "errors",
    "build_loader": "loading.loader",
    "cache_latents": "loading.cache_writer",
    "contact_sheet": "store.info",
    "dataset_fingerprint": "store.reader",
    "hflip": "transforms",
    "import_arrays": "importers.arrays",
    "import_folder": "importers.image_folder",
    "load_dataset": "store.reader",
    "make_scenes": "scenes.make",
    "merge_stores": "store.merge",
    "split_names": "store.reader",
    "to_ids": "transforms",
    "to_pixel_values": "transforms",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    """Import a name's module on first use, because HF datasets takes a second to import."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
