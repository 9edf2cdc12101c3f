"""`latentslots evaluate RUN --data PATH`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Score how well a model's slots find the objects of a data set with masks."""

    run: tyro.conf.Positional[str]
    """A run folder, a pipeline folder, or a hub id."""
    data: str
    """A data set with segmentations."""
    split: str = "validation"
    """Which part of it."""
    convention: Literal["iou", "lsd", "with-background"] = "iou"
    """How mIoU and mBO are computed: `iou` matches by overlap and scores a missed object 0; `lsd`
    is that of the official code; `with-background` counts the background as an object."""
    resolution: int | None = None
    """Pixels per side; the trained resolution when absent."""
    num_images: int | None = None
    """Only so many images, from the start."""
    min_objects: int = 0
    """Only images with at least so many objects."""
    batch_size: int = 32
    """Images at once; changes no number."""
    seed: int = 0
    """Seed of the slots' start: image i draws from seed + i."""
    output_dir: str = ""
    """Also write report.json, report.md and pictures here."""
    json: bool = False
    """Print the report as JSON instead of a table."""


def run(arguments: list[str]) -> None:
    """Parse, evaluate, and print the report to stdout."""
    options = tyro.cli(Evaluate, prog="latentslots evaluate", args=arguments)

    import torch

    from latentslots.data.store import load_dataset
    from latentslots.evaluation.report import with_objects, write_report
    from latentslots.evaluation.segmentation import evaluate
    from latentslots.pipelines import LatentSlotDiffusionPipeline

    pipe = LatentSlotDiffusionPipeline.from_pretrained(options.run)
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    dataset = load_dataset(options.data, split=options.split)
    if options.min_objects:
        dataset = with_objects(dataset, options.min_objects)
    report = evaluate(
        pipe,
        dataset,
        convention=options.convention,
        resolution=options.resolution,
        seed=options.seed,
        batch_size=options.batch_size,
        num_images=options.num_images,
    )
    if options.output_dir:
        conditions = {
            "model": options.run,
            "data": options.data,
            "split": options.split,
            "min_objects": options.min_objects,
        }
        write_report(report, pipe, dataset, Path(options.output_dir), conditions=conditions)
    print(json.dumps(report.to_dict()) if options.json else report.to_markdown())
