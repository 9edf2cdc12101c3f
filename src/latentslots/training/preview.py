"""Figures of the model's output, drawn at intervals."""

from pathlib import Path

import torch
from datasets import Dataset
from PIL import Image
from torch import Tensor

from latentslots.data.loading.loader import ImageDataset
from latentslots.objectives import Objective
from latentslots.training.validation import fixed_subset, readable_rows

NUM_IMAGES = 6


class Previewer:
    """Draws the same few images every time, as `previews/step_0001000.png`.

    Args:
        dataset: Source of the images; `None` draws nothing.
        resolution: Pixels per side.
        folder: Destination of the figures.
        on_bad_sample: Whether an unreadable image is an `error`, or is left out (`skip`).
    """

    def __init__(
        self,
        dataset: Dataset | None,
        *,
        resolution: int,
        folder: Path,
        on_bad_sample: str = "error",
    ) -> None:
        self.folder = folder
        self.pixel_values: Tensor | None = None
        if dataset is not None:
            rows = fixed_subset(dataset, NUM_IMAGES).select_columns(["image"])
            if on_bad_sample == "skip":
                rows = readable_rows(rows, resolution)
            images = ImageDataset(rows, resolution)
            pixels = [images[row]["pixel_values"] for row in range(len(images))]
            self.pixel_values = torch.stack(pixels)

    def __call__(self, objective: Objective, step: int) -> Image.Image | None:
        """Draw, save and return the figure of a step."""
        if self.pixel_values is None:
            return None
        figure = objective.preview(self.pixel_values)
        self.folder.mkdir(parents=True, exist_ok=True)
        figure.save(self.folder / f"step_{step:07d}.png")
        return figure
