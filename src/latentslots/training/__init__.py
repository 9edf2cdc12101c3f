"""Training: one loop for every objective, on one device or many."""

from latentslots.training.run import RunError, train
from latentslots.training.signals import TrainingInterrupted
from latentslots.training.trainer import Trainer, TrainingError

__all__ = ["RunError", "Trainer", "TrainingError", "TrainingInterrupted", "train"]
