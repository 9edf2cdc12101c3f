"""Accumulation over batches and processes, as torchmetrics classes.

Dimensions: B batch, H W pixels.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Integer
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.metric import Metric
from torchmetrics.utilities import dim_zero_cat

from latentslots.config.conventions import Convention, check_convention
from latentslots.metrics.ari import has_foreground
from latentslots.metrics.contingency import PixelTable, tabulate
from latentslots.metrics.image_scores import image_scores

TABLE_PADDING = {"counts": 0, "object_ids": -1, "slot_ids": -1}
"""Padding of the fields of a `PixelTable`."""


class PaddedCat(Metric):
    """Batches of tensors, concatenated over updates and processes.

    Dimensions after the first may differ from batch to batch: they are padded to the largest.
    torchmetrics concatenates tensors of equal width only, so each batch is kept flat, beside its
    shape. Where `torch.distributed` runs, every process must update at least once; a process
    without data does so with a batch of length 0.

    Args:
        padding: Value of the padding, by the name of the tensor.
        kwargs: Passed on to `torchmetrics.Metric`.

    Example:
        >>> rows = PaddedCat({"ids": -1})
        >>> rows.update(ids=torch.tensor([[1, 2, 3]]))
        >>> rows.update(ids=torch.tensor([[4], [5]]))
        >>> rows.concatenated()["ids"]
        tensor([[ 1,  2,  3],
                [ 4, -1, -1],
                [ 5, -1, -1]])
    """

    is_differentiable = False
    full_state_update = False

    def __init__(self, padding: Mapping[str, int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.padding = dict(padding)
        for name in padding:
            self.add_state(f"{name}_shapes", [], dist_reduce_fx="cat")
            self.add_state(f"{name}_values", [], dist_reduce_fx="cat")

    def update(self, **batch: Tensor) -> None:
        """Append a tensor to each of the names."""
        for name in self.padding:
            shape = torch.tensor([batch[name].shape])
            getattr(self, f"{name}_shapes").append(shape.to(self.device))
            getattr(self, f"{name}_values").append(batch[name].flatten().to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """Return `concatenated`; torchmetrics converts tensors with one element to scalars."""
        return self.concatenated()

    def concatenated(self) -> dict[str, Tensor]:
        """All batches by name, on the CPU; within `sync_context`, those of all processes."""
        return {name: self._concatenated(name) for name in self.padding}

    def _concatenated(self, name: str) -> Tensor:
        shapes = dim_zero_cat(getattr(self, f"{name}_shapes")).cpu()
        values = dim_zero_cat(getattr(self, f"{name}_values")).cpu()
        widths = shapes[:, 1:].amax(dim=0).tolist()
        batches = []
        lengths = shapes.prod(dim=1).tolist()
        for batch, shape in zip(torch.split(values, lengths), shapes.tolist(), strict=True):
            missing = [width - size for width, size in zip(widths, shape[1:], strict=True)]
            pad = [end for size in reversed(missing) for end in (0, size)]
            batches.append(F.pad(batch.view(shape), pad, value=self.padding[name]))
        return torch.cat(batches)


class SegmentationMetrics(PaddedCat):
    """ARI, FG-ARI, mIoU and mBO from one shared table of pixel counts.

    `compute` returns `ari`, `fg_ari`, `miou_objects`, `mbo_objects`, `miou_images`, `mbo_images`,
    `num_images` and `num_images_without_objects`: the means of
    `latentslots.metrics.image_scores.image_scores`, which are those of `latentslots.evaluate`.

    Args:
        convention: `iou`, `lsd` or `with-background`, see `latentslots.metrics.overlap`.
        kwargs: Passed on to `torchmetrics.Metric`.

    Example:
        >>> metrics = SegmentationMetrics()
        >>> target = torch.tensor([[[0, 0], [1, 2]], [[0, 0], [0, 0]]])
        >>> metrics.update(torch.tensor([[[3, 3], [2, 0]], [[1, 1], [1, 2]]]), target)
        >>> {name: round(float(value), 2) for name, value in metrics.compute().items()}
        ... # doctest: +NORMALIZE_WHITESPACE
        {'fg_ari': 1.0, 'ari': 0.5, 'miou_objects': 1.0, 'mbo_objects': 1.0, 'miou_images': 1.0,
         'mbo_images': 1.0, 'num_images': 2.0, 'num_images_without_objects': 1.0}
    """

    higher_is_better = True

    def __init__(self, *, convention: Convention = "iou", **kwargs: Any) -> None:
        super().__init__(TABLE_PADDING, **kwargs)
        self.convention = check_convention(convention)

    def update(  # type: ignore[override]  # torchmetrics leaves the arguments to each class
        self,
        pred: Integer[Tensor, "B H W"],
        target: Integer[Tensor, "B H W"],
        *,
        num_slots: int | None = None,
        valid: Bool[Tensor, "B H W"] | None = None,
    ) -> None:
        """Add a batch of images.

        Args:
            pred: Slot id of every pixel.
            target: Object id of every pixel, 0 for the background, at most 65,535.
            num_slots: Slots of the model, by default those that own a pixel.
            valid: Pixels to count. By default all.
        """
        table = tabulate(pred, target, num_slots=num_slots, valid=valid)
        super().update(**table._asdict())

    def compute(self) -> dict[str, Tensor]:
        """The means, and the number of images behind them."""
        table = PixelTable(**self.concatenated())
        with_objects = has_foreground(table.counts)
        means = image_scores(table, convention=self.convention).means()
        return {
            **{name: torch.tensor(mean, dtype=torch.float64) for name, mean in means.items()},
            "num_images": torch.tensor(len(with_objects)),
            "num_images_without_objects": (~with_objects).sum(),
        }
