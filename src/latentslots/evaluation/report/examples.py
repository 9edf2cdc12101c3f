"""Examples of what a pipeline found, as pictures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image

from latentslots.data.transforms import ResizeCenterCrop, to_ids, to_pixel_values
from latentslots.evaluation.mask_files import MaskFiles, read_pair
from latentslots.metrics.image_scores import ImageScores
from latentslots.visualize import colorize, grid, overlay, slot_strip, to_pil

_MASK_SIDES = 128, 512
"""Smaller segmentations are enlarged to about the first, larger ones reduced to the second."""


def draw_examples(
    pipe: Any,
    dataset: Dataset,
    *,
    images: Sequence[int],
    resolution: int | None = None,
    seed: int = 0,
) -> Image.Image:
    """Rows of image, true segmentation, found segmentation, and what every slot sees.

    Args:
        pipe: Finds slots and their masks.
        dataset: Has the columns `image` and, for the truth, `segmentation`.
        images: Rows of the data set.
        resolution: Side of the images, in pixels. By default the one the model was trained at.
        seed: Image i draws its slots' start from seed + i.
    """
    crop = ResizeCenterCrop(pipe.resolution if resolution is None else resolution)
    rows = []
    for index in images:
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


def draw_masks(
    predictions: MaskFiles, targets: MaskFiles, images: Sequence[int], *, ignore_id: int | None
) -> Image.Image:
    """Rows of true and found segmentation, below the name of each image.

    Args:
        predictions: See `paired_segmentations`.
        targets: Alike.
        images: Which, by place.
        ignore_id: Id of pixels that do not count; black in both.
    """
    rows, names = [], [targets.names[index] for index in images]
    for name in names:
        pred, target, valid, _ = read_pair(predictions, targets, name, ignore_id=ignore_id)
        row = [colorize(ids).copy() for ids in (target, pred)]
        if valid is not None:
            mask = Image.fromarray((~valid).numpy().astype(np.uint8) * 255)
            for picture in row:
                picture.paste((0, 0, 0), mask=mask)
        side = max(row[0].size)
        scale = min(max(1, _MASK_SIDES[0] // side), _MASK_SIDES[1] / side)
        size = [max(1, round(scale * n)) for n in row[0].size]
        rows.append([picture.resize(size, Image.Resampling.NEAREST) for picture in row])
    captions = [f"{name}{': truth, found' * (i == 0)}" for i, name in enumerate(names)]
    return grid(rows, captions=captions)


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
