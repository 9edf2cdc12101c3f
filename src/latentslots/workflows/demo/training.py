"""`latentslots demo --train MINUTES`: train a small model from scratch, and evaluate it."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from latentslots.build.methods import build_objective
from latentslots.bundled import bundled_folder
from latentslots.config import LSDConfig, TrainConfig
from latentslots.data.store.reader import load_dataset
from latentslots.device import to_device
from latentslots.evaluation.baselines import cluster_pixels
from latentslots.evaluation.report.html_page import Page
from latentslots.evaluation.segmentation import SegmentationReport, evaluate, evaluate_baseline
from latentslots.objectives import LatentSlotDiffusionObjective
from latentslots.pipelines import LatentSlotDiffusionPipeline
from latentslots.recipes import recipe
from latentslots.training import train
from latentslots.training.run_log import read_metrics
from latentslots.visualize import curve
from latentslots.workflows.demo.gallery import Gallery

IMAGES = "nlvr"
CREDIT = (
    "The model here was trained on 1,500 images of NLVR (Suhr, Lewis, Yeh and Artzi, ACL 2017, "
    "lil-lab/nlvr), CC-BY-4.0, resized to 64 px."
)
NUM_CLUSTERS = 9
POSITION_WEIGHT = 100.0


def training_config(minutes: float, latents_dir: Path) -> TrainConfig:
    """The recipe `lsd-nlvr-64` for minutes instead of hours.

    Slots are not merged: in the first minutes all have the same mask, and all would be merged.
    """
    config = recipe("lsd-nlvr-64")
    assert isinstance(config.method, LSDConfig)
    return replace(
        config,
        method=replace(config.method, num_inference_slots=0, merge_overlap=0.0, merge_error=0.0),
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


def train_fresh_model(
    output_dir: Path, page: Page, *, minutes: float, seed: int
) -> dict[str, SegmentationReport]:
    """Train on the bundled NLVR images, evaluate, and add a section to a page.

    Args:
        output_dir: Folder of the run and its latents.
        page: The page.
        minutes: How long to train.
        seed: Seed of the weights, of all draws in training, and of slot noise.

    Returns:
        Scores on the bundled validation images: of the trained model, of the same model untrained,
        and of pixels clustered by color and position.
    """
    run_dir = output_dir / "run"
    config = replace(training_config(minutes, output_dir / "latents"), seed=seed)
    validation = load_dataset(config.data.path, split="validation")

    torch.manual_seed(seed)
    untrained = build_objective(config)
    assert isinstance(untrained, LatentSlotDiffusionObjective)
    train(config, run_dir)
    pipe = LatentSlotDiffusionPipeline.from_pretrained(run_dir)
    to_device(pipe)
    pipe.set_progress_bar_config(disable=True)

    rows = [row for row in read_metrics(run_dir) if "loss" in row]
    page.heading("Trained here, just now")
    page.paragraph(
        f"Another model, from scratch, on other images: {minutes:g} minutes, {len(rows):,} steps "
        "of `lsd-nlvr-64`, which takes two hours. Until slots bind to objects, every slot has a "
        "part of everything."
    )
    Gallery.of(pipe, validation, seed=seed).show_slots(page)
    page.picture(curve(rows, ["loss"], log_scale=True), "Training loss by step.")
    baseline = partial(cluster_pixels, num_clusters=NUM_CLUSTERS, position_weight=POSITION_WEIGHT)
    return {
        f"trained here for {minutes:g} min": evaluate(pipe, validation, seed=seed),
        "the same, untrained": evaluate(untrained.to_pipeline(), validation, seed=seed),
        f"{NUM_CLUSTERS} clusters, its images": evaluate_baseline(
            baseline, validation, resolution=config.data.resolution
        ),
    }
