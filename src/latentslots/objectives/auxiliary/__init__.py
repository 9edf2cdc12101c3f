"""Losses that are added to denoising: a patch decoder, guidance, contrast."""

from latentslots.objectives.auxiliary.base import AuxiliaryLoss, DenoisingContext, NoisyLatents
from latentslots.objectives.auxiliary.contrast import ContrastLoss
from latentslots.objectives.auxiliary.guidance import GuidanceLoss
from latentslots.objectives.auxiliary.patch import PatchLoss

__all__ = [
    "AuxiliaryLoss",
    "ContrastLoss",
    "DenoisingContext",
    "GuidanceLoss",
    "NoisyLatents",
    "PatchLoss",
]
