"""Train slot attention between the frozen parts of the bundled model, like Stable-LSD.

latentslots data make scenes data/scenes
python benchmarks/frozen_parts.py

The bundled model's image backbone and denoiser (with the patch decoder that makes its map of slots)
take the place of DINOv2 and Stable Diffusion: they are frozen, slot attention is trained from
random weights with the denoising loss alone, and masks are the slots' attention. Each row enables
one option. A run writes a small log and a figure (docs/lab-notes.md); runs that have both are
skipped.
"""

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from PIL import Image
from torch import nn

from latentslots.config import OptimConfig
from latentslots.data.loading.cache_writer import cache_latents
from latentslots.data.loading.loader import ImageDataset, build_loader
from latentslots.data.transforms import to_ids
from latentslots.evaluation import evaluate
from latentslots.models import SlotEncoder
from latentslots.models.noise_schedule import official_schedule
from latentslots.models.stable_diffusion import CROSS_ATTENTION
from latentslots.objectives import LatentSlotDiffusionObjective
from latentslots.objectives.auxiliary import AuxiliaryLoss, ContrastLoss, GuidanceLoss
from latentslots.pipelines import load_pipeline
from latentslots.training.optim import build_lr_scheduler, build_optimizer
from latentslots.visualize import grid, overlay
from objects import DOCS, curves_table, images_of, machine, put_table, scores_of

BATCH_SIZE, NUM_WATCHED, NUM_SHOWN = 24, 256, 8
OPTIM = OptimConfig(learning_rate=4e-4, lr_scheduler="linear_decay", lr_warmup_steps=100)


@dataclass(frozen=True)
class Row:
    """Options of a run."""

    name: str
    contrast: float = 0.0
    guidance: float = 0.0
    slots: dict[str, Any] = field(default_factory=dict)
    dropout: float = 0.0
    tuned: bool = False


ROWS = {
    "frozen": Row("slots alone learn"),
    "contrastive": Row("slots contrasted (0.05)", contrast=0.05),
    "guided": Row("cross-attention guided (0.1)", guidance=0.1),
    "registers": Row("4 learned registers", slots={"num_registers": 4}),
    "tuned": Row("cross-attention tuned", tuned=True),
    "dropout": Row("slots dropped (0.1)", slots={"null_condition": True}, dropout=0.1),
    "all": Row(
        "all of these",
        contrast=0.05,
        guidance=0.1,
        slots={"num_registers": 4},
        dropout=0.1,
        tuned=True,
    ),
}


def build(row: Row) -> LatentSlotDiffusionObjective:
    """Build an objective of untrained slots between frozen parts."""
    bundled = load_pipeline("bundled")
    for part in (bundled.encoder, bundled.unet, bundled.patch_decoder):
        part.requires_grad_(False)
    if row.tuned:
        for name, parameter in bundled.unet.named_parameters():
            parameter.requires_grad_(any(layer in name for layer in CROSS_ATTENTION))
    options = {k: v for k, v in bundled.slot_encoder.config.items() if not k.startswith("_")}
    torch.manual_seed(0)
    slot_encoder = SlotEncoder(**{**options, "null_condition": False, **row.slots})
    auxiliary: list[AuxiliaryLoss] = []
    if row.guidance:
        auxiliary.append(GuidanceLoss(bundled.unet, weight=row.guidance, blocks=("up_blocks",)))
    if row.contrast:
        auxiliary.append(ContrastLoss(bundled.unet, slot_encoder, weight=row.contrast))
    return LatentSlotDiffusionObjective(
        encoder=bundled.encoder,
        slot_encoder=slot_encoder,
        unet=bundled.unet,
        noise_schedule=official_schedule(bundled.scheduler.config.prediction_type),
        vae=bundled.vae,
        patch_decoder=bundled.patch_decoder,
        resolution=bundled.resolution,
        condition_dropout=row.dropout,
        auxiliary=auxiliary,
    )


def run(key: str, steps: int, run_dir: Path) -> dict[str, Any]:
    """Train slots, score them at intervals and at the end, and draw some."""
    row = ROWS[key]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    objective = build(row).to(device).train()
    train, watched = images_of("scenes", "train"), images_of("scenes", "validation")
    latents = cache_latents(train, objective.vae, run_dir / "latents", resolution=64, progress=True)
    loader = build_loader(ImageDataset(train, 64, latents=latents), batch_size=BATCH_SIZE)
    optimizer = build_optimizer(objective, OPTIM)
    scheduler = build_lr_scheduler(optimizer, OPTIM, steps)
    curve, losses, start = [], [], time.time()
    for step, batch in zip(range(1, steps + 1), loader, strict=False):
        objective.begin_step(step - 1)
        batch = send_to_device(batch, device)
        with torch.autocast(device, torch.bfloat16):
            loss, _ = objective(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(objective.trained_parameters(), OPTIM.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        losses.append(loss.item())
        if step % max(steps // 5, 1) == 0:
            point = score(objective, watched.select(range(NUM_WATCHED)))
            seconds = time.time() - start
            curve.append({"step": step, "seconds": seconds, "loss": mean(losses), **point})
            losses = []
            print(row.name, curve[-1], flush=True)
    scores = score(objective, watched)
    show(objective, watched.select(range(NUM_SHOWN))).save(run_dir / f"{key}.png")
    return {"steps": steps, "on": machine(), "curve": curve, "scores": scores}


def score(objective: LatentSlotDiffusionObjective, images: Any) -> dict[str, float]:
    """Score the masks of the slots' attention; leaves the objective in training mode."""
    pipe = objective.eval().to_pipeline()
    pipe.use_attention_masks()
    scores = scores_of(evaluate(pipe, images))
    objective.train()
    return scores


def show(objective: LatentSlotDiffusionObjective, images: Any) -> Image.Image:
    """Draw the segmentations by the slots' attention, side by side."""
    pipe = objective.eval().to_pipeline()
    pipe.use_attention_masks()
    overlays = []
    for index, row in enumerate(images):
        generator = torch.Generator().manual_seed(index)
        scene = pipe.encode_pixel_values(pipe.preprocess(row["image"]), generator=[generator])
        side = row["image"].size
        overlays.append(overlay(row["image"], scene.segmentation(side[::-1])[0].cpu(), alpha=0.7))
    return grid([overlays])


def draw(images: Any, run_dir: Path, out: Path) -> None:
    """Draw the images, the ground truth, and the segmentations of every row."""
    truth = [overlay(row["image"], to_ids(row["segmentation"]), alpha=0.7) for row in images]
    rows = {"images": grid([[row["image"] for row in images]]), "truth": grid([truth])}
    for key, row in ROWS.items():
        rows[row.name] = Image.open(run_dir / f"{key}.png")
    grid([[strip] for strip in rows.values()], captions=list(rows)).save(out)


def mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1_500, help="optimizer steps per run")
    parser.add_argument("--only", nargs="*", default=list(ROWS), choices=ROWS, help="rows to train")
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs/frozen"),
        help="working folder",
    )
    parser.add_argument("--logs", type=Path, default=DOCS / "logs" / "frozen", help="result folder")
    parser.add_argument("--no-train", action="store_true", help="only print the table")
    options = parser.parse_args()
    options.logs.mkdir(parents=True, exist_ok=True)
    for key in [] if options.no_train else options.only:
        log = options.logs / f"{key}.json"
        if not (log.is_file() and (options.runs / f"{key}.png").is_file()):
            log.write_text(json.dumps(run(key, options.steps, options.runs), indent=1) + "\n")
    names = {key: one.name for key, one in ROWS.items()}
    text = curves_table(names, options.logs, title="option")
    print(text)
    put_table(text, DOCS / "lab-notes.md")
    if all((options.runs / f"{key}.png").is_file() for key in ROWS):
        shown = images_of("scenes", "validation").select(range(NUM_SHOWN))
        draw(shown, options.runs, DOCS / "images" / "frozen-parts.png")


if __name__ == "__main__":
    main()
