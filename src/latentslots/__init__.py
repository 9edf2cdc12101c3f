"""Latent Slot Diffusion: find objects in images without labels, edit and compose them.

Names are imported when they are first used, so that `import latentslots` costs nothing.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentslots import editing, visualize
    from latentslots.concepts.library import ConceptLibrary
    from latentslots.config import DataConfig, MethodConfig, OptimConfig, SlotsConfig, TrainConfig
    from latentslots.config.io import load_config
    from latentslots.data.store.reader import load_dataset
    from latentslots.evaluation.segmentation import SegmentationReport, evaluate
    from latentslots.objectives.base import SlotObjective, collapse_metrics
    from latentslots.official import load_official
    from latentslots.pipelines.base import SlotPipeline
    from latentslots.pipelines.inference import InferenceSettings
    from latentslots.pipelines.loading import load_pipeline
    from latentslots.pipelines.lsd import LatentSlotDiffusionPipeline
    from latentslots.pipelines.slot_edit import SlotEdit
    from latentslots.pipelines.slot_output import SlotOutput
    from latentslots.recipes import recipe
    from latentslots.training.run import train

_MODULES = {
    "ConceptLibrary": "latentslots.concepts.library",
    "DataConfig": "latentslots.config",
    "InferenceSettings": "latentslots.pipelines.inference",
    "LatentSlotDiffusionPipeline": "latentslots.pipelines.lsd",
    "MethodConfig": "latentslots.config",
    "OptimConfig": "latentslots.config",
    "SegmentationReport": "latentslots.evaluation.segmentation",
    "SlotEdit": "latentslots.pipelines.slot_edit",
    "SlotObjective": "latentslots.objectives.base",
    "SlotOutput": "latentslots.pipelines.slot_output",
    "SlotPipeline": "latentslots.pipelines.base",
    "SlotsConfig": "latentslots.config",
    "TrainConfig": "latentslots.config",
    "collapse_metrics": "latentslots.objectives.base",
    "editing": "latentslots",
    "evaluate": "latentslots.evaluation.segmentation",
    "load_config": "latentslots.config.io",
    "load_dataset": "latentslots.data.store.reader",
    "load_official": "latentslots.official",
    "load_pipeline": "latentslots.pipelines.loading",
    "recipe": "latentslots.recipes",
    "train": "latentslots.training.run",
    "visualize": "latentslots",
}

__all__ = [
    "ConceptLibrary",
    "DataConfig",
    "InferenceSettings",
    "LatentSlotDiffusionPipeline",
    "MethodConfig",
    "OptimConfig",
    "SegmentationReport",
    "SlotEdit",
    "SlotObjective",
    "SlotOutput",
    "SlotPipeline",
    "SlotsConfig",
    "TrainConfig",
    "collapse_metrics",
    "editing",
    "evaluate",
    "load_config",
    "load_dataset",
    "load_official",
    "load_pipeline",
    "recipe",
    "train",
    "visualize",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'latentslots' has no attribute {name!r}")
    if _MODULES[name] == "latentslots":
        return importlib.import_module(f"latentslots.{name}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


# Pipelines of diffusers import image processors that latentslots does not use. Without torchvision,
# transformers warns of each that it is replaced by one that needs only Pillow.
logging.getLogger("transformers.utils.import_utils").addFilter(
    lambda record: "requires torchvision (not installed); falling back" not in record.getMessage()
)
