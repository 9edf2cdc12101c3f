"""Examples of what a pipeline found, as pictures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image

from latentslots.data.transforms import ResizeCenterCrop, to_ids, to_pixel_values
from latentslots.evaluation.image_scores import ImageScores
from latentslots.visualize import grid, overlay, slot_strip, to_pil


def draw_examples(
    pipe: Any,
    dataset: Dataset,
    *,
    num_images: int = 8,
    images: Sequence[int] | None = None,
    seed: int = 0,
) -> Image.Image:
    """Rows of image, true segmentation, found segmentation, and what every slot sees.

    Args:
        pipe: Finds slots and their masks.
        dataset: Has the columns `image` and, for the truth, `segmentation`.
        num_images: Rows, from the start of the data set.
        images: Rows of the data set, instead of the first ones.
        seed: Image i draws its slots' start from seed + i.
    """
    crop = ResizeCenterCrop(pipe.resolution)
    rows = []
    for index in range(min(num_images, len(dataset))) if images is None else images:
        row = dataset[index]
        picture, truth = crop(row["image"], row.get("segmentation"))
        pixels = to_pixel_values(picture)
        generator = [torch.Generator().manual_seed(seed + index)]
        scene = pipe.encode_pixel_values(pixels[None], generator=generator)
        found = scene.segmentation(tuple(pixels.shape[-2:]))[0].cpu()
        strip = slot_strip(picture, scene.masks[0].float().cpu(), with_image=False)
        pictures = [overlay(picture, found), strip]
        if truth is not None:
            pictures.insert(0, overlay(picture, to_ids(truth)))
        rows.append([to_pil(picture), *pictures])
    first = "image, truth, found, slots" if len(rows[0]) == 4 else "image, found, slots"
    return grid(rows, captions=[first] + [""] * (len(rows) - 1))


def extremes(scores: ImageScores, *, number: int = 4) -> tuple[list[int], list[int]]:
    """The images with the lowest and with the highest mIoU, the most extreme first.

    Args:
        scores: Of all images.
        number: Of each; fewer where there are not as many with objects.
    """
    values = scores.values()[:, scores.names.index("miou_images")]
    order = [int(i) for i in np.argsort(values, kind="stable") if values[i] == values[i]]
    number = min(number, len(order) // 2) or min(1, len(order))
    return order[:number], order[::-1][:number]
