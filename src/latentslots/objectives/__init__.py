"""Objectives: how methods are trained, from a batch to a loss and logs."""

from latentslots.objectives.autoencoder import AutoencoderObjective
from latentslots.objectives.base import Objective, SlotObjective
from latentslots.objectives.dinosaur import DinosaurObjective
from latentslots.objectives.lsd import LatentSlotDiffusionObjective
from latentslots.objectives.slate import SlateObjective
from latentslots.objectives.slot_attention import SlotAttentionObjective

__all__ = [
    "AutoencoderObjective",
    "DinosaurObjective",
    "LatentSlotDiffusionObjective",
    "Objective",
    "SlateObjective",
    "SlotAttentionObjective",
    "SlotObjective",
]
