"""Images of a data set with their ground truth, at the sizes at which they are encoded and scored.

Dimensions: I images, H W pixels of an image, h w of its ground truth.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from jaxtyping import Bool, Float, Int, Int64
from PIL import Image
from torch import Tensor

from latentslots.config.conventions import ScoringSize
from latentslots.data.transforms import ResizeCenterCrop, to_ids, to_pixel_values


@dataclass(frozen=True)
class LabeledImage:
    """An image and its ground truth.

    Attributes:
        pixel_values: The image, in [-1, 1].
        segmentation: Object id of every pixel, 0 for the background.
        valid: Pixels that count.
    """

    pixel_values: Float[Tensor, "3 H W"]
    segmentation: Int[Tensor, "h w"]
    valid: Bool[Tensor, "h w"]


class LabeledImages:
    """The images of a data set that are scored, read one at a time.

    Args:
        dataset: Has the columns `image` and `segmentation`, and may have `ignore` and `video`.
        resolution: Side of the images, in pixels.
        scoring_resolution: Side of the ground truth, in pixels, or `native` for the shortest side
            that each has. By default `resolution`.
        num_images: At most this many images, from the start of the data set. By default all.

    Attributes:
        videos: Number of the video of every image; `None` without videos, or with one image each.

    Raises:
        ValueError: If the data set has no masks, or there is no image to score.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        resolution: int,
        scoring_resolution: ScoringSize | None = None,
        num_images: int | None = None,
    ) -> None:
        total = len(dataset) if num_images is None else min(num_images, len(dataset))
        if total < 1:
            raise ValueError(
                f"there is no image to score: the data set has {len(dataset)}, and num_images is "
                f"{num_images}; both must be at least 1"
            )
        columns = set(dataset.column_names)
        if not columns >= {"image", "segmentation"}:
            raise ValueError(
                "a data set without masks has no segmentation metrics: the columns 'image' and "
                f"'segmentation' are needed, but there are only {sorted(columns)}"
            )
        self.videos = _videos(dataset, total)
        # Other columns are dropped, so that they are not decoded.
        self.dataset = dataset.select_columns(
            sorted(columns & {"image", "segmentation", "ignore"})
        ).select(range(total))
        self.resolution = resolution
        self.scoring_resolution: ScoringSize = (
            resolution if scoring_resolution is None else scoring_resolution
        )

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> LabeledImage:
        """Read an image.

        Raises:
            ValueError: If it has no ground truth.
        """
        row = self.dataset[index]
        if row["segmentation"] is None:
            raise ValueError(
                "a data set without masks has no segmentation metrics: the column 'segmentation' "
                f"is empty at image {index}"
            )
        image, _ = ResizeCenterCrop(self.resolution)(row["image"])
        native, size = min(row["segmentation"].size), self.scoring_resolution
        side = native if isinstance(size, str) else size
        segmentation = _crop_ids(row["image"], row["segmentation"], side)
        valid = torch.ones_like(segmentation, dtype=torch.bool)
        if row.get("ignore") is not None:
            valid = _crop_ids(row["image"], row["ignore"], side) == 0
        return LabeledImage(to_pixel_values(image), segmentation, valid)


def with_objects(dataset: Dataset, min_objects: int) -> Dataset:
    """Select the images with at least this many objects, which are ids other than 0.

    Raises:
        ValueError: If the data set has no segmentations, or no image has as many objects.
    """
    if "segmentation" not in dataset.column_names:
        raise ValueError(
            f"counting objects needs a column 'segmentation', there is {dataset.column_names}"
        )
    masks = dataset.select_columns(["segmentation"])

    def count(row: dict[str, Any]) -> int:
        ids = np.unique(to_ids(row["segmentation"]).numpy())
        return int((ids != 0).sum())

    keep = [index for index, row in enumerate(masks) if count(row) >= min_objects]
    if not keep:
        raise ValueError(f"no image has {min_objects} objects or more")
    return dataset.select(keep)


def _crop_ids(image: Image.Image, ids: Image.Image, side: int) -> Int[Tensor, "h w"]:
    _, cropped = ResizeCenterCrop(side)(image, ids)
    assert cropped is not None
    return to_ids(cropped)


def _videos(dataset: Dataset, num_images: int) -> Int64[Tensor, " I"] | None:
    """Number of the video of every image; `None` where there are none, or of one image each."""
    if "video" not in dataset.column_names:
        return None
    names = dataset.select_columns(["video"]).select(range(num_images))["video"]
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return None if len(number) == num_images else torch.tensor([number[name] for name in names])
