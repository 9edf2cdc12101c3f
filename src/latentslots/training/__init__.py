"""Training: one loop for every objective, on one device or many."""

from latentslots.training.run import RunError, train
from latentslots.training.trainer import Trainer, TrainingError, TrainingInterrupted

__all__ = ["RunError", "Trainer", "TrainingError", "TrainingInterrupted", "train"]
