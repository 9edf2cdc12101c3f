"""A small data set of colored squares, and a pipeline that segments by color."""

import io
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset, Features, Image
from PIL import Image as PILImage
from torch import Tensor
from torch.nn import functional as F

COLORS = np.array([[90, 90, 90], [255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=np.uint8)


def squares(num_images: int, *, width: int = 48, height: int = 32, seed: int = 0) -> Dataset:
    """Three squares of different color on gray; the last image shows none."""
    random = np.random.default_rng(seed)
    rows = []
    for index in range(num_images):
        ids = np.zeros((height, width), dtype=np.uint8)
        for object_id in (1, 2, 3) if index < num_images - 1 else ():
            y, x = random.integers(0, (height - 10, width - 10))
            ids[y : y + 10, x : x + 10] = object_id
        rows.append({"image": png(COLORS[ids]), "segmentation": png(ids)})
    return Dataset.from_list(rows, features=Features(image=Image(), segmentation=Image()))


def png(pixels: np.ndarray) -> dict[str, bytes]:
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue()}


@dataclass
class Scene:
    slots: Tensor
    masks: Tensor
    slots_mask: Tensor | None = None

    def segmentation(self, size: tuple[int, int]) -> Tensor:
        return F.interpolate(self.masks, size=size, mode="bilinear").argmax(dim=1)


@dataclass
class ColorPipeline:
    """Assigns each pixel to the slot of the nearest color, in an order of slots drawn per image.

    Args:
        noise: Share of the pixels that go to a slot drawn at random.
    """

    noise: float = 0.0
    resolution: int = 32
    num_slots: int = 6
    device: torch.device = torch.device("cpu")  # noqa: RUF009  (immutable)

    def encode_pixel_values(
        self, pixel_values: Tensor, *, generator: list[torch.Generator]
    ) -> Scene:
        assert pixel_values.min() >= -1
        colors = torch.from_numpy(COLORS).float() / 127.5 - 1
        pixels = pixel_values.flatten(2).transpose(1, 2)
        # By a product of matrices, equal distances would hang on the batch size.
        distance = torch.cdist(pixels, colors, compute_mode="donot_use_mm_for_euclid_dist")
        ids = distance.argmin(dim=2)
        for image, source in enumerate(generator):
            order = torch.randperm(self.num_slots, generator=source)
            drawn = torch.randint(self.num_slots, ids[image].shape, generator=source)
            lost = torch.rand(ids[image].shape, generator=source) < self.noise
            ids[image] = torch.where(lost, drawn, order[ids[image]])
        masks = F.one_hot(ids, self.num_slots).transpose(1, 2).float()
        masks = masks.unflatten(2, pixel_values.shape[2:])
        return Scene(slots=torch.zeros(len(masks), self.num_slots, 4), masks=masks)
