"""Latent Slot Diffusion: find objects in images without labels, edit and compose them.

Names are imported when they are first used, so that `import latentslots` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentslots import editing
    from latentslots.concepts import ConceptLibrary
    from latentslots.data.store.reader import load_dataset
    from latentslots.evaluation.segmentation import SegmentationReport, evaluate
    from latentslots.official import load_official
    from latentslots.pipelines.base import SlotOutput
    from latentslots.pipelines.lsd import LatentSlotDiffusionPipeline
    from latentslots.recipes import recipe
    from latentslots.training.run import train

_MODULES = {
    "ConceptLibrary": "latentslots.concepts",
    "LatentSlotDiffusionPipeline": "latentslots.pipelines.lsd",
    "SegmentationReport": "latentslots.evaluation.segmentation",
    "SlotOutput": "latentslots.pipelines.base",
    "editing": "latentslots",
    "evaluate": "latentslots.evaluation.segmentation",
    "load_dataset": "latentslots.data.store.reader",
    "load_official": "latentslots.official",
    "recipe": "latentslots.recipes",
    "train": "latentslots.training.run",
}

__all__ = [
    "ConceptLibrary",
    "LatentSlotDiffusionPipeline",
    "SegmentationReport",
    "SlotOutput",
    "editing",
    "evaluate",
    "load_dataset",
    "load_official",
    "recipe",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'latentslots' has no attribute {name!r}")
    if _MODULES[name] == "latentslots":
        return importlib.import_module(f"latentslots.{name}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
