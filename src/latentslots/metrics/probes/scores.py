"""Scores of probes, one for each attribute and kind of head.

Dimensions: N objects, C numbers of an attribute.
"""

from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from latentslots.device import in_double

HeadKind = Literal["linear", "mlp"]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A score, once per seed.

    Attributes:
        values: The scores; NaN for a seed without one.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds that have a score."""
        values = [value for value in self.values if value == value]
        return fmean(values) if values else float("nan")

    @property
    def deviation(self) -> float:
        """Standard deviation over seeds (n - 1); NaN for fewer than two."""
        values = [value for value in self.values if value == value]
        return stdev(values) if len(values) > 1 else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Mean, deviation and values, ready for JSON: NaN is `None`."""
        return {
            "mean": _or_none(self.mean),
            "deviation": _or_none(self.deviation),
            "values": [_or_none(value) for value in self.values],
        }


@dataclass(frozen=True, kw_only=True)
class ProbeScore:
    """Scores of one kind of head on one attribute.

    Attributes:
        attribute: Its name.
        head: `linear`, or `mlp` with one hidden layer as wide as a slot.
        num_objects: Objects that have the attribute.
        num_left_out: Objects that do not.
        scores: `accuracy` and `balanced_accuracy` (mean over classes) for classes; `r2` and `mse`
            for numbers, the mean over the numbers of the attribute. `mse` is in units of the
            variance of the training part.
        guess: The same scores of a constant prediction: the most frequent class, or the mean, of
            the training part.
        intervals: 95 % bootstrap interval over videos of the mean of each score, with the heads as
            trained.
        notes: Peculiarities: constant numbers, classes that are absent from training.
    """

    attribute: str
    head: HeadKind
    num_objects: int
    num_left_out: int
    scores: dict[str, Spread]
    guess: dict[str, Spread]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON; a score that no seed has is `None`."""
        return {
            "attribute": self.attribute,
            "head": self.head,
            "num_objects": self.num_objects,
            "num_left_out": self.num_left_out,
            "scores": {name: spread.to_dict() for name, spread in self.scores.items()},
            "guess": {name: spread.to_dict() for name, spread in self.guess.items()},
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "notes": list(self.notes),
        }


def class_scores(pred: Int[Tensor, " N"], target: Int[Tensor, " N"]) -> dict[str, float]:
    """`accuracy`, and `balanced_accuracy`: the mean over the classes of the target."""
    hits = in_double(pred == target)
    recall = [hits[target == label].mean().item() for label in torch.unique(target)]
    return {"accuracy": hits.mean().item(), "balanced_accuracy": fmean(recall)}


def number_scores(pred: Float[Tensor, "N C"], target: Float[Tensor, "N C"]) -> dict[str, float]:
    """`r2` (the mean over the numbers that change; NaN if none does) and `mse`."""
    pred, target = in_double(pred), in_double(target)
    error = (pred - target).square()
    variation = (target - target.mean(dim=0)).square().sum(dim=0)
    changes = variation > 1e-12
    r2 = (1 - error.sum(dim=0)[changes] / variation[changes]).mean().item()
    return {"r2": r2, "mse": error.mean().item()}


def _or_none(value: float) -> float | None:
    return value if value == value else None
