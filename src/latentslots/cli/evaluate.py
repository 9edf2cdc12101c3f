"""`latentslots evaluate RUN --data PATH`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Score how well a model's slots find the objects of a data set with masks."""

    run: tyro.conf.Positional[str]
    """`bundled`, a run folder, a pipeline folder, or a hub id."""
    data: str
    """A data set with segmentations; `bundled` for the scenes that ship with the package."""
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
    num_slots: int | None = None
    """Slots to look for; what the pipeline says when absent."""
    merge_overlap: float | None = None
    """Slots of an image whose masks overlap more than this become one, 0 for never; what the
    pipeline says when absent."""
    attention_masks: bool = False
    """Take the slots' attention for masks, as the paper does, also where the model has a patch
    decoder."""
    baselines: bool = False
    """Also score the same model untrained, k-means on color, and connected pieces of one color."""
    num_colors: int | None = None
    """Colors that the baselines tell apart; as many as slots when absent."""
    tune_split: str = ""
    """With --baselines: score k-means on color and place as well, the weight of place chosen on
    this split of the data, such as `train`."""
    output_dir: str = ""
    """Also write report.json, report.md and pictures here."""
    json: bool = False
    """Print the report as JSON instead of a table; baselines stand under `baselines`."""


def run(arguments: list[str]) -> None:
    """Parse, evaluate, and print the report to stdout."""
    options = tyro.cli(Evaluate, prog="latentslots evaluate", args=arguments)

    import torch

    from latentslots.data.store import load_dataset
    from latentslots.evaluation.baselines import evaluate_baselines
    from latentslots.evaluation.report import with_objects, write_report
    from latentslots.evaluation.segmentation import evaluate
    from latentslots.pipelines import LatentSlotDiffusionPipeline

    _check(options)
    pipe = LatentSlotDiffusionPipeline.from_pretrained(options.run)
    if options.attention_masks:
        pipe.patch_decoder = None
    pipe.set_inference(num_slots=options.num_slots, merge_overlap=options.merge_overlap)
    pipe.to("cuda" if torch.cuda.is_available() else "cpu")
    dataset = load_dataset(options.data, split=options.split)
    if options.min_objects:
        dataset = with_objects(dataset, options.min_objects)
    tuning = None
    if options.tune_split:  # first of all, so that a name that is not there costs no minutes
        tuning = load_dataset(options.data, split=options.tune_split)
    common: dict[str, Any] = {
        "convention": options.convention,
        "resolution": options.resolution,
        "seed": options.seed,
        "num_images": options.num_images,
    }
    report = evaluate(pipe, dataset, batch_size=options.batch_size, **common)
    baselines = None
    if options.baselines:
        baselines = evaluate_baselines(
            pipe, dataset, tuning=tuning, num_colors=options.num_colors, **common
        )
    if options.output_dir:
        conditions = {
            "model": options.run,
            "data": options.data,
            "split": options.split,
            "min_objects": options.min_objects,
            "slots": pipe.num_slots,
            "merge_overlap": pipe.config.merge_overlap,
            "masks": "attention" if pipe.patch_decoder is None else "patch decoder",
        }
        out = Path(options.output_dir)
        write_report(report, pipe, dataset, out, conditions=conditions, baselines=baselines)
    if not options.json:
        print(report.to_markdown(baselines))
        return
    content = report.to_dict()
    if baselines is not None:
        content["baselines"] = {name: other.to_dict() for name, other in baselines.items()}
    print(json.dumps(content))


def _check(options: Evaluate) -> None:
    """Refuse words that do not go together."""
    if options.num_colors is not None and not options.baselines:
        raise ValueError("--num-colors is for the baselines: add --baselines")
    if options.tune_split and not options.baselines:
        raise ValueError("--tune-split is for the baselines: add --baselines")
    if options.tune_split == options.split:
        raise ValueError(
            f"--tune-split must name another split than the one to be scored, {options.split!r}"
        )
    if options.num_colors is not None and options.num_colors < 1:
        raise ValueError(f"--num-colors must be at least 1, got {options.num_colors}")
