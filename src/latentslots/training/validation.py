"""Measuring the model on a fixed subset of images, at intervals."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from datasets import Dataset

from latentslots.data.loading.loader import ImageDataset
from latentslots.evaluation.segmentation import evaluate
from latentslots.objectives import Objective
from latentslots.objectives.base import Batch, FixedDraws

BATCH_SIZE = 32
SCORES = ("fg_ari", "ari", "miou_objects", "mbo_objects")


def fixed_subset(dataset: Dataset, num_images: int) -> Dataset:
    """Select rows spread evenly over a data set, the same at every call."""
    num_images = min(num_images, len(dataset))
    return dataset.select([i * len(dataset) // num_images for i in range(num_images)])


def readable_rows(dataset: Dataset, resolution: int) -> Dataset:
    """Select the rows whose images can be read.

    Raises:
        DataError: If there are none.
    """
    images = ImageDataset(dataset, resolution, on_bad_sample="skip")
    for row in range(len(images)):
        images[row]
    bad = set(images.bad_rows)
    return dataset.select([row for row in range(len(images)) if row not in bad]) if bad else dataset


@dataclass(frozen=True)
class ValidationImages:
    """Batches of a data set, in order, with the same random draws at every iteration."""

    dataset: Dataset
    resolution: int
    device: torch.device

    def __iter__(self) -> Iterator[tuple[Batch, FixedDraws]]:
        """Read batches of `pixel_values`."""
        generator = torch.Generator().manual_seed(0)
        images = ImageDataset(self.dataset.select_columns(["image"]), self.resolution)
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(images), BATCH_SIZE):
            rows = range(start, min(start + BATCH_SIZE, len(images)))
            pixels = torch.stack([images[row]["pixel_values"] for row in rows])
            draws = FixedDraws(generator, order[rows.start : rows.stop], len(images))
            yield {"pixel_values": pixels.to(self.device)}, draws


class Validator:
    """Measures an objective on the same images, with the same noise, every time.

    Every process computes all of the losses and its share of the segmentation scores.

    Args:
        dataset: The validation split; with `None`, nothing is measured.
        resolution: Pixels per side.
        num_images: Size of the subset.
        on_bad_sample: Whether an unreadable image is an `error`, or is left out (`skip`).
    """

    def __init__(
        self,
        dataset: Dataset | None,
        *,
        resolution: int,
        num_images: int,
        on_bad_sample: str = "error",
    ) -> None:
        self.resolution = resolution
        self.dataset = None
        if dataset is not None:
            self.dataset = fixed_subset(dataset, num_images)
            if on_bad_sample == "skip":
                self.dataset = readable_rows(self.dataset, resolution)

    @torch.no_grad()
    def __call__(self, objective: Objective, device: torch.device) -> dict[str, float]:
        """Measure the objective's validation losses and, with slots, its segmentations.

        Returns:
            What `objective.validate` returns; FG-ARI, ARI, mIoU and mBO (convention `iou`, over
            objects) where the images have a segmentation.
        """
        if self.dataset is None:
            return {}
        values = objective.validate(ValidationImages(self.dataset, self.resolution, device))
        pipe = objective.to_pipeline()
        if pipe is not None and "segmentation" in self.dataset.column_names:
            report = evaluate(pipe, self.dataset, progress=False)
            values |= {name: getattr(report, name) for name in SCORES}
        return values

    def before_saving(self, objective: Objective, device: torch.device) -> None:
        """Call the objective's `on_save` with the validation images."""
        if self.dataset is not None:
            objective.on_save(ValidationImages(self.dataset, self.resolution, device))
