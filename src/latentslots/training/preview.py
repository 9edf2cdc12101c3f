"""Pictures of what the model does while it learns."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from PIL import Image
from torch import Generator, Tensor

from latentslots.data.loading.loader import ImageDataset
from latentslots.objectives import (
    AutoencoderObjective,
    LatentSlotDiffusionObjective,
    Objective,
    SlotObjective,
)
from latentslots.pipelines import SlotOutput
from latentslots.training.validation import fixed_subset, good_rows
from latentslots.visualize import grid, overlay, slot_strip, to_pil

NUM_IMAGES = 6
NUM_INFERENCE_STEPS = 25


class Previewer:
    """Draws the same few images every time, as `previews/step_0001000.png`.

    Args:
        dataset: Where the images come from; `None` draws nothing.
        resolution: Pixels per side.
        folder: Where the pictures go.
        on_bad_sample: Whether an image that cannot be used is an `error`, or left out (`skip`).
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
                rows = good_rows(rows, resolution)
            images = ImageDataset(rows, resolution)
            pixels = [images[row]["pixel_values"] for row in range(len(images))]
            self.pixel_values = torch.stack(pixels)

    def __call__(self, objective: Objective, step: int) -> Image.Image | None:
        """Draw, save and return the picture of a step."""
        if self.pixel_values is None:
            return None
        if isinstance(objective, AutoencoderObjective):
            page = draw_reconstructions(objective, self.pixel_values)
        else:
            assert isinstance(objective, SlotObjective)
            page = draw_scenes(objective, self.pixel_values)
        self.folder.mkdir(parents=True, exist_ok=True)
        page.save(self.folder / f"step_{step:07d}.png")
        return page


@torch.no_grad()
def draw_reconstructions(objective: AutoencoderObjective, pixel_values: Tensor) -> Image.Image:
    """Images above what the autoencoder makes of them."""
    pixels = pixel_values.to(objective.vae.device)
    painted = objective.vae.decode(objective.vae.encode(pixels).latent_dist.mean).sample
    rows = [list(pixels.cpu()), list(painted.clamp(-1, 1).cpu())]
    return grid(rows, captions=["image", "reconstruction"])


def draw_scenes(objective: SlotObjective, pixel_values: Tensor) -> Image.Image:
    """For each image a row: image, segmentation, reconstruction, a mixed scene, and every slot.

    The mixed scene takes its slots in turn from the image itself and from the next one. What
    cannot paint has neither reconstruction nor mixed scene.
    """
    pipe = objective.to_pipeline()
    pipe.set_progress_bar_config(disable=True)
    count = len(pixel_values)

    def generators() -> list[Generator]:
        return [Generator().manual_seed(i) for i in range(count)]

    scene = pipe.encode_pixel_values(pixel_values, generator=generators())
    painted = []
    if pipe.paints:
        sampling: dict[str, Any] = {}
        if isinstance(objective, LatentSlotDiffusionObjective):
            sampling = {"generator": generators() * 2, "num_inference_steps": NUM_INFERENCE_STEPS}
        slots, exist = _with_mixed(scene)
        (painted,) = pipe(slots, slots_mask=exist, return_dict=False, **sampling)
    height, width = pixel_values.shape[-2:]
    segmentation = scene.segmentation((height, width)).cpu()
    rows = []
    for i in range(count):
        image = to_pil(pixel_values[i])
        strip = slot_strip(image, scene.masks[i].float().cpu(), with_image=False)
        rows.append([image, overlay(image, segmentation[i]), *painted[i::count], strip])
    what = "reconstruction, mixed with the next image, " if pipe.paints else ""
    captions = [f"image, segmentation, {what}slots"]
    return grid(rows, captions=captions + [""] * (count - 1))


def _with_mixed(scene: SlotOutput) -> tuple[Tensor, Tensor]:
    """The scenes, followed by mixed ones: every second slot is the next scene's."""
    exist = scene.slots_mask
    exist = torch.ones_like(scene.slots[..., 0], dtype=torch.bool) if exist is None else exist
    mixed, mixed_exist = scene.slots.clone(), exist.clone()
    mixed[:, 1::2] = scene.slots.roll(-1, dims=0)[:, 1::2]
    mixed_exist[:, 1::2] = exist.roll(-1, dims=0)[:, 1::2]
    return torch.cat([scene.slots, mixed]), torch.cat([exist, mixed_exist])
