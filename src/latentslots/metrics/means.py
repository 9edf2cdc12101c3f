"""Running means that add up correctly over batches and processes."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics.metric import Metric


class RunningMeans(Metric):
    """Keeps one sum and one count per name: uneven batches and several processes weigh right.

    Subclasses write `update`, which hands the values to be averaged to `_add`, and `compute`, which
    returns what they want of `_means`.

    Args:
        names: What is averaged.
        kwargs: Passed on to `torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    sums: Float[Tensor, " M"]
    counts: Int[Tensor, " M"]

    def __init__(self, names: tuple[str, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.names = names
        sums = torch.zeros(len(names), dtype=torch.float64)
        self.add_state("sums", sums, dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(len(names), dtype=torch.int64), dist_reduce_fx="sum")

    def _means(self) -> dict[str, Tensor]:
        """The mean of every name; NaN where no value was seen."""
        return dict(zip(self.names, self.sums / self.counts, strict=True))

    def _add(self, values: Mapping[str, Float[Tensor, "..."]]) -> None:
        sums = torch.stack([values[name].double().sum() for name in self.names])
        counts = torch.tensor([values[name].numel() for name in self.names])
        self.sums = self.sums + sums.to(self.sums.device)
        self.counts = self.counts + counts.to(self.counts.device)
