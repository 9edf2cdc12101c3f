"""Models as folders: load one, turn images into slots and slots into images."""

from latentslots.pipelines.base import SlotOutput, SlotPipeline
from latentslots.pipelines.dinosaur import DinosaurPipeline
from latentslots.pipelines.latent_slot_diffusion import LatentSlotDiffusionPipeline
from latentslots.pipelines.loading import load_pipeline
from latentslots.pipelines.slate import SlatePipeline
from latentslots.pipelines.slot_autoencoder import SlotAutoencoderPipeline

__all__ = [
    "DinosaurPipeline",
    "LatentSlotDiffusionPipeline",
    "SlatePipeline",
    "SlotAutoencoderPipeline",
    "SlotOutput",
    "SlotPipeline",
    "load_pipeline",
]
