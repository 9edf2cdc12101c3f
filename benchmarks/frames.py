"""Slots with frames, glimpses and sprites: one change per run; the table in docs/lab-notes.md.

    latentslots data make scenes data/scenes
    latentslots data make scenes-textured data/scenes-textured
    python benchmarks/frames.py

All runs have the same number of steps, batch and seed, a denoiser of half the recipe's width, seven
slots in training, and eleven at inference, whose parts are merged. Each run writes a small log;
runs with a log are skipped, interrupted ones are resumed.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from torch import Tensor

from latentslots.config import TrainConfig
from latentslots.data.loading.loader import ImageDataset
from latentslots.device import to_device
from latentslots.evaluation import evaluate
from latentslots.metrics.reconstruction import psnr
from latentslots.models import SpriteDecoder
from latentslots.pipelines import load_pipeline
from latentslots.recipes import recipe
from latentslots.visualize import colorize, to_uint8
from levers import Lever, denoiser, method, optimizer, run_options, training
from objects import DOCS, SCORES, curves_table, images_of, put_table, run, scores_of

MERGED = {"num_slots": 11, "merge_error": 0.005}
MERGED_BY_OVERLAP = {"num_slots": 11, "merge_overlap": 0.3}
NUM_PAINTED = 256
"""Validation images that are compared with what slots paint."""
NUM_DRAWN = 8


def framed(config: TrainConfig) -> TrainConfig:
    """Give the slots of a recipe for plain scenes frames, glimpses and sprites."""
    slots = method(
        slot_dim=68,
        glimpse_size=16,
        sprite_size=16,
        num_iterations=5,
        bi_level=True,
        position="none",
        num_inference_slots=0,
        merge_overlap=0.0,
        whiten_latents=True,
        patch_decoder_weight=1.0,
        patch_plain_steps=400,
        patch_size=1,
        num_patches=2048,
        mask_distillation_weight=0.2,
    )
    return optimizer(clip_parts=True)(denoiser(rendering=True)(slots(config)))


def narrow(config: TrainConfig) -> TrainConfig:
    """Halve the width of the denoiser, on which binding hardly depends."""
    return denoiser(block_out_channels=(32, 64), norm_num_groups=8)(config)


def before(config: TrainConfig) -> TrainConfig:
    """The recipe without frames, cut to as many steps."""
    del config
    plain = method(num_inference_slots=0, merge_overlap=0.0, patch_plain_steps=400)
    return narrow(plain(recipe("lsd-scenes-64")))


def on_textures(config: TrainConfig) -> TrainConfig:
    return replace(config, data=replace(config.data, path="data/scenes-textured"))


def then(*changes: Callable[[TrainConfig], TrainConfig]) -> Callable[[TrainConfig], TrainConfig]:
    def change(config: TrainConfig) -> TrainConfig:
        for one in changes:
            config = one(config)
        return config

    return change


MLP = then(
    method(sprite_size=0, patch_size=2, num_patches=256, patch_decoder_weight=10.0),
    method(mask_distillation_weight=2.0),
    denoiser(rendering=False),
)
COARSE = method(patch_size=4, num_patches=256)
LEVERS = {
    "frames": Lever("frames, glimpses and sprites", training()),
    "before": Lever("none of them (the recipe before)", before),
    "mlp": Lever("an MLP as patch decoder, no sprites", MLP),
    "glimpse-32": Lever("glimpses of 32 x 32", method(glimpse_size=32)),
    "glimpse-8": Lever("glimpses of 8 x 8", method(glimpse_size=8)),
    "sprite-32": Lever("sprites of 32 x 32", method(sprite_size=32)),
    "sprite-8": Lever("sprites of 8 x 8", method(sprite_size=8)),
    "iterations": Lever("3 iterations", method(num_iterations=3)),
    "positions": Lever("features with absolute positions", method(position="cartesian")),
    "no-rendering": Lever("the denoiser sees no rendering", denoiser(rendering=False)),
    "united": Lever("parts united", method(unite_error=0.005)),
    "deep": Lever("gradients through all iterations", method(bi_level=False)),
    "raw-latents": Lever("latents not whitened", method(whiten_latents=False)),
    "one-clip": Lever("one clip for all gradients", optimizer(clip_parts=False)),
    "no-distillation": Lever("no mask distillation", method(mask_distillation_weight=0.0)),
    "free-colors": Lever("a color per position from the start", method(patch_plain_steps=0)),
    "heavy": Lever("patch decoder's weight 10", method(patch_decoder_weight=10.0)),
    "coarse": Lever("patches of 4 x 4 pixels", COARSE),
    "slots": Lever("11 slots in training", method(num_slots=11)),
    "wide": Lever("slots of 128 channels", method(slot_dim=132, slot_mlp_dim=256)),
    "batch": Lever("twice the batch", training(train_batch_size=48)),
    "textures": Lever("textured scenes", on_textures),
    "textures-before": Lever("textured scenes, none of them", then(before, on_textures)),
    "textures-coarse": Lever("textured scenes, patches of 4 x 4", then(COARSE, on_textures)),
    "textures-free": Lever(
        "textured scenes, a color per position from the start",
        then(method(patch_plain_steps=0), on_textures),
    ),
    "textures-plain": Lever(
        "textured scenes, one color per slot to the end",
        then(method(patch_plain_steps=1_000), on_textures),
    ),
}


def configuration(key: str, steps: int) -> TrainConfig:
    """Return the configuration of a run."""
    config = LEVERS[key].change(narrow(framed(recipe("lsd-scenes-64"))))
    return replace(
        config,
        max_train_steps=steps,
        validation_steps=max(steps // 5, 1),
        checkpointing_steps=max(steps // 5, 1),
        preview_steps=steps,
    )


def measure(folder: Path, images: Dataset, resolution: int) -> dict[str, Any]:
    """Score the pictures of the patch decoder; and segmentations with more slots, merged."""
    pipe = to_device(load_pipeline(folder))
    samples = ImageDataset(images, resolution)
    pixels = torch.stack([samples[row]["pixel_values"] for row in range(NUM_PAINTED)])
    painted = torch.cat([paint(pipe, batch) for batch in pixels.split(32)])
    error = psnr((painted.clamp(-1, 1) + 1) / 2, (pixels + 1) / 2)
    merge(pipe)
    return {**scores_of(evaluate(pipe, images)), "psnr": round(float(error.mean()), 2)}


def merge(pipe: Any) -> None:
    """Infer more slots, and merge them as far as the model can."""
    has_sprites = isinstance(pipe.patch_decoder, SpriteDecoder)
    pipe.set_inference(**(MERGED if has_sprites else MERGED_BY_OVERLAP))


@torch.no_grad()
def paint(pipe: Any, pixels: Tensor) -> Tensor:
    """Paint images, `[B, 3, H, W]` in [-1, 1], by the patch decoder, from slots as in training."""
    slots = pipe.encode_pixel_values(pixels, generator=torch.Generator().manual_seed(0)).slots
    height, width = pixels.shape[2:]
    scene = pipe.patch_decoder(slots, height=height, width=width)
    return scene.mixture().transpose(1, 2).unflatten(2, (height, width))


def draw_strip(folder: Path, images: Dataset, resolution: int, out: Path) -> None:
    """Draw the first images above what the patch decoder paints, and above merged segmentations."""
    pipe = to_device(load_pipeline(folder))
    samples = ImageDataset(images, resolution)
    pixels = torch.stack([samples[row]["pixel_values"] for row in range(NUM_DRAWN)])
    painted = paint(pipe, pixels).clamp(-1, 1)
    merge(pipe)
    found = pipe.segment(pixels / 2 + 0.5, generator=torch.Generator().manual_seed(0))
    strip = Image.new("RGB", (NUM_DRAWN * resolution, 3 * resolution))
    for column in range(NUM_DRAWN):
        column_images = [*(to_uint8(one[column]) for one in (pixels, painted))]
        column_images.append(np.asarray(colorize(found[column].cpu())))
        for row, image in enumerate(column_images):
            strip.paste(Image.fromarray(image), (column * resolution, row * resolution))
    strip.save(out)


def merged_columns(log: dict[str, Any]) -> dict[str, str]:
    """The columns of scores with merged slots, and of what the patch decoder paints."""
    merged = log["merged"]
    scores = {f"{title}, merged": f"{merged[name]:.3f}" for name, title in SCORES.items()}
    return {**scores, "PSNR (dB)": f"{merged['psnr']:.1f}"}


def main() -> None:
    options = run_options(__doc__, LEVERS, steps=1_000, name="frames")
    for key in [] if options.no_train else options.only:
        log = options.logs / f"{key}.json"
        if log.is_file():
            continue
        config = configuration(key, options.steps)
        images = images_of(Path(config.data.path).name, "validation")
        result = run(config, images, options.runs / key)
        folder, resolution = options.runs / key, config.data.resolution
        result["merged"] = measure(folder, images, resolution)
        draw_strip(folder, images, resolution, options.logs / f"{key}.png")
        log.write_text(json.dumps(result, indent=1) + "\n")
    names = {key: lever.name for key, lever in LEVERS.items()}
    text = curves_table(names, options.logs, title="changed", more=merged_columns)
    print(text)
    put_table(text, DOCS / "lab-notes.md")


if __name__ == "__main__":
    main()
