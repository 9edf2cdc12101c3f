"""`latentslots demo`: train a small model from nothing, measure it, make a page that shows it."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from datasets import Dataset

from latentslots.app.gallery import Gallery
from latentslots.build import build_objective
from latentslots.bundled import bundled_folder
from latentslots.config import LSDConfig, TrainConfig
from latentslots.data.store import load_dataset
from latentslots.evaluation.baselines import cluster_pixels
from latentslots.evaluation.page import Page
from latentslots.evaluation.segmentation import (
    SegmentationReport,
    evaluate,
    evaluate_baseline,
)
from latentslots.objectives import LatentSlotDiffusionObjective
from latentslots.pipelines import LatentSlotDiffusionPipeline
from latentslots.recipes import recipe
from latentslots.training import train
from latentslots.training.records import read_metrics
from latentslots.visualize import curve

IMAGES = "nlvr"
CREDIT = (
    "Images: 1,500 pictures of NLVR (Suhr, Lewis, Yeh and Artzi, ACL 2017, lil-lab/nlvr), "
    "CC-BY-4.0, resized to 64 px."
)
NUM_CLUSTERS = 9
POSITION_WEIGHT = 100.0
SCORES = ("fg_ari", "ari", "miou_objects", "mbo_objects")
COLUMNS = ("", "FG-ARI", "ARI", "mIoU", "mBO")


def demo_config(minutes: float, latents_dir: Path) -> TrainConfig:
    """The recipe `lsd-nlvr-64`, made for minutes instead of hours.

    Slots are not merged: in the first minutes all see the same, and would become one.
    """
    config = recipe("lsd-nlvr-64")
    assert isinstance(config.method, LSDConfig)
    return replace(
        config,
        method=replace(config.method, num_inference_slots=0, merge_overlap=0.0),
        data=replace(
            config.data, path=str(bundled_folder(IMAGES)), latents=str(latents_dir), num_workers=0
        ),
        optim=replace(config.optim, lr_scheduler="constant", lr_warmup_steps=50, ema_decay=0.98),
        max_train_steps=1_000_000,
        max_train_minutes=minutes,
        validation_steps=0,
        preview_steps=0,
        checkpointing_steps=0,
        checkpoints_total_limit=1,
    )


def run_demo(
    output_dir: Path, *, minutes: float = 3.0, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Train, measure, and write `index.html`.

    Args:
        output_dir: Where the page and the run go; a demo that is there already is replaced.
        minutes: How long to train.
        seed: Of the weights and of everything drawn in training.

    Returns:
        Scores by row of the table: the trained model, the same model untrained, and pixels
        clustered by color and position.

    Raises:
        ValueError: If the bundled images are missing or damaged, `minutes` is not positive, or the
            folder holds something other than a demo.
    """
    if not minutes > 0:
        raise ValueError(f"--minutes must be more than 0, got {minutes:g}")
    run_dir = output_dir / "run"
    config = replace(demo_config(minutes, output_dir / "latents"), seed=seed)
    validation = load_dataset(config.data.path, split="validation")
    _clear(output_dir)

    torch.manual_seed(seed)
    untrained = build_objective(config)
    assert isinstance(untrained, LatentSlotDiffusionObjective)
    train(config, run_dir)
    pipe = LatentSlotDiffusionPipeline.from_pretrained(run_dir)
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")

    reports = {
        f"trained for {minutes:g} min": evaluate(pipe, validation),
        "untrained": evaluate(untrained.to_pipeline(), validation),
        "pixels by color and position": evaluate_baseline(
            partial(cluster_pixels, num_clusters=NUM_CLUSTERS, position_weight=POSITION_WEIGHT),
            validation,
            resolution=config.data.resolution,
        ),
    }
    scores = {name: _scores(report) for name, report in reports.items()}
    write_page(output_dir / "index.html", pipe, validation, run_dir, scores)
    return scores


def _clear(output_dir: Path) -> None:
    """Make room, but only where an earlier demo was."""
    if not output_dir.exists():
        return
    ours = {"run", "latents", "index.html"}
    if not output_dir.is_dir() or not {path.name for path in output_dir.iterdir()} <= ours:
        raise ValueError(f"{output_dir} exists and is no earlier demo; name another --output-dir")
    shutil.rmtree(output_dir)


def _scores(report: SegmentationReport) -> dict[str, float]:
    return {name: getattr(report, name) for name in SCORES}


def write_page(
    path: Path,
    pipe: LatentSlotDiffusionPipeline,
    dataset: Dataset,
    run_dir: Path,
    scores: dict[str, dict[str, float]],
) -> None:
    """Write the page that shows what was learned."""
    rows = [row for row in read_metrics(run_dir) if "loss" in row]
    page = Page(
        "Slots, learned without labels",
        f"What a model makes of pictures after {rows[-1]['seconds'] / 60:.1f} minutes of training "
        "from nothing, without one label. It takes an image apart into slots, a few vectors that "
        "are meant to hold one object each, and paints the image back from them. In the "
        "first ten minutes on one core every slot still sees a little of everything, and what is "
        "painted below from fewer or other slots shows it.",
    )
    pipe.set_progress_bar_config(disable=True)
    Gallery.of(pipe, dataset, seed=0).show(page)
    page.heading("How well it finds objects")
    table = {name: list(values.values()) for name, values in scores.items()}
    page.table(COLUMNS, table, best=next(iter(table)))
    page.paragraph(
        f"Scores on {len(dataset)} other images; 1 is perfect. FG-ARI tells how well objects are "
        "told apart from each other, ARI counts the background too, mIoU is the overlap of every "
        "object with its slot (convention `iou`, mean over objects), mBO that with its best slot. "
        f"The last row clusters pixels into {NUM_CLUSTERS} groups by k-means on Lab color and "
        "position, without learning: on flat colors on gray that is hard to beat in minutes."
    )
    page.heading("How it learned")
    page.picture(curve(rows, ["loss"], log_scale=True), "Training loss by step.")
    page.paragraph(
        "Latent Slot Diffusion (Jiang, Deng, Singh and Ahn, NeurIPS 2023): slot attention lets a "
        "few vectors compete for the pixels of an image, and a diffusion model has to paint the "
        "image from these vectors alone. Go on with `latentslots train lsd-nlvr-64`, which takes "
        "two hours instead of minutes."
    )
    page.footer(CREDIT)
    page.save(path)
