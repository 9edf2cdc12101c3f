"""Examples of predicted segmentations, drawn as figures."""

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
"""Smaller segmentations are enlarged to about the first size, larger ones reduced to the second."""


def draw_examples(
    pipe: Any,
    dataset: Dataset,
    *,
    images: Sequence[int],
    resolution: int | None = None,
    seed: int = 0,
) -> Image.Image:
    """Draw rows of image, true segmentation, predicted segmentation, and the mask of every slot.

    Args:
        pipe: Encodes images as slots and masks.
        dataset: Has the columns `image` and, for the ground truth, `segmentation`.
        images: Rows of the data set.
        resolution: Side of the images, in pixels. By default the one the model was trained at.
        seed: Image i draws its slot noise with seed + i.
    """
    crop = ResizeCenterCrop(pipe.resolution if resolution is None else resolution)
    rows = []
    for index in images:
        row = dataset[index]
        image, truth = crop(row["image"], row.get("segmentation"))
        pixels = to_pixel_values(image)
        generator = [torch.Generator().manual_seed(seed + index)]
        output = pipe.encode_pixel_values(pixels[None], generator=generator)
        pred = output.segmentation(tuple(pixels.shape[-2:]))[0].cpu()
        strip = slot_strip(image, output.masks[0].float().cpu(), with_image=False)
        panels = [overlay(image, pred), strip]
        if truth is not None:
            panels.insert(0, overlay(image, to_ids(truth)))
        rows.append([to_pil(image), *panels])
    titles = "image, truth, prediction, slots" if len(rows[0]) == 4 else "image, prediction, slots"
    return grid(rows, captions=[titles] + [""] * (len(rows) - 1))


def draw_masks(
    masks: MaskFiles, truth: MaskFiles, images: Sequence[int], *, ignore_id: int | None
) -> Image.Image:
    """Draw rows of true and predicted segmentation, below the name of each image.

    Args:
        masks: See `paired_segmentations`.
        truth: See `paired_segmentations`.
        images: Their indices in `truth`.
        ignore_id: True id of pixels that do not count; black in both.
    """
    rows, names = [], [truth.names[index] for index in images]
    for name in names:
        pred, target, valid, _ = read_pair(masks, truth, name, ignore_id=ignore_id)
        row = [colorize(ids).copy() for ids in (target, pred)]
        if valid is not None:
            ignored = Image.fromarray((~valid).numpy().astype(np.uint8) * 255)
            for panel in row:
                panel.paste((0, 0, 0), mask=ignored)
        side = max(row[0].size)
        scale = min(max(1, _MASK_SIDES[0] // side), _MASK_SIDES[1] / side)
        size = [max(1, round(scale * n)) for n in row[0].size]
        rows.append([panel.resize(size, Image.Resampling.NEAREST) for panel in row])
    captions = [f"{name}{': truth, prediction' * (i == 0)}" for i, name in enumerate(names)]
    return grid(rows, captions=captions)


def extremes(scores: ImageScores, *, number: int = 4) -> tuple[list[int], list[int]]:
    """Indices of the images with the lowest and with the highest mIoU, the extreme ones first.

    Args:
        scores: Scores of all images.
        number: At most this many of each; images without objects have no mIoU.
    """
    values = scores.values()[:, scores.names.index("miou_images")]
    order = [int(i) for i in np.argsort(values, kind="stable") if values[i] == values[i]]
    number = min(number, len(order) // 2) or min(1, len(order))
    return order[:number], order[::-1][:number]
