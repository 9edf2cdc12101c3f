"""Models as folders: load one, turn images into slots and slots into images."""

from latentslots.pipelines.base import SlotOutput, SlotPipeline
from latentslots.pipelines.latent_slot_diffusion import LatentSlotDiffusionPipeline

__all__ = ["LatentSlotDiffusionPipeline", "SlotOutput", "SlotPipeline"]
