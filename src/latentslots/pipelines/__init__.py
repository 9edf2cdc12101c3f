"""Models as folders: load one, turn images into slots and slots into images."""

from latentslots.pipelines.base import SlotPipeline
from latentslots.pipelines.dinosaur import DinosaurPipeline
from latentslots.pipelines.loading import load_pipeline
from latentslots.pipelines.lsd import LatentSlotDiffusionPipeline
from latentslots.pipelines.slate import SlatePipeline
from latentslots.pipelines.slot_attention import SlotAutoencoderPipeline
from latentslots.pipelines.slot_output import SlotOutput

__all__ = [
    "DinosaurPipeline",
    "LatentSlotDiffusionPipeline",
    "SlatePipeline",
    "SlotAutoencoderPipeline",
    "SlotOutput",
    "SlotPipeline",
    "load_pipeline",
]
