"""Figures of a model's output during training."""

from typing import Any

import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Generator, Tensor

from latentslots.pipelines.base import SlotPipeline
from latentslots.pipelines.slot_output import SlotOutput
from latentslots.visualize import grid, overlay, slot_strip, to_pil

NUM_INFERENCE_STEPS = 25


@torch.no_grad()
def draw_reconstructions(vae: AutoencoderKL, pixel_values: Tensor) -> Image.Image:
    """Draw images above their reconstructions by an autoencoder."""
    pixels = pixel_values.to(vae.device)
    decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample
    rows = [list(pixels.cpu()), list(decoded.clamp(-1, 1).cpu())]
    return grid(rows, captions=["image", "reconstruction"])


def draw_scenes(pipe: SlotPipeline, pixel_values: Tensor) -> Image.Image:
    """Draw a row per image: image, segmentation, reconstruction, a mixed scene, and every slot.

    The mixed scene takes its slots in turn from the image itself and from the next one. A pipeline
    that decodes no images has neither reconstruction nor mixed scene.
    """
    pipe.set_progress_bar_config(disable=True)
    count = len(pixel_values)

    def generators() -> list[Generator]:
        return [Generator().manual_seed(i) for i in range(count)]

    scene = pipe.encode_pixel_values(pixel_values, generator=generators())
    decoded = []
    if pipe.paints:
        sampling: dict[str, Any] = {}
        if pipe.samples:
            sampling = {"generator": generators() * 2, "num_inference_steps": NUM_INFERENCE_STEPS}
        slots, slots_mask = _with_mixed(scene)
        (decoded,) = pipe(slots, slots_mask=slots_mask, return_dict=False, **sampling)
    height, width = pixel_values.shape[-2:]
    segmentation = scene.segmentation((height, width)).cpu()
    rows = []
    for i in range(count):
        image = to_pil(pixel_values[i])
        strip = slot_strip(image, scene.masks[i].float().cpu(), with_image=False)
        rows.append([image, overlay(image, segmentation[i]), *decoded[i::count], strip])
    columns = "reconstruction, mixed with the next image, " if pipe.paints else ""
    captions = [f"image, segmentation, {columns}slots"]
    return grid(rows, captions=captions + [""] * (count - 1))


def _with_mixed(scene: SlotOutput) -> tuple[Tensor, Tensor]:
    """Return the scenes, followed by mixed ones: every second slot is the next scene's."""
    exist = scene.slots_mask
    exist = torch.ones_like(scene.slots[..., 0], dtype=torch.bool) if exist is None else exist
    mixed, mixed_exist = scene.slots.clone(), exist.clone()
    mixed[:, 1::2] = scene.slots.roll(-1, dims=0)[:, 1::2]
    mixed_exist[:, 1::2] = exist.roll(-1, dims=0)[:, 1::2]
    return torch.cat([scene.slots, mixed]), torch.cat([exist, mixed_exist])
