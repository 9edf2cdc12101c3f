"""Run a full evaluation from one inference pass, and write its report."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datasets import Dataset
from PIL.Image import Image
from tqdm.auto import tqdm

from latentslots.config.conventions import Convention, ScoringSize
from latentslots.config.sampling import Sampling
from latentslots.data.store.attributes import read_attributes
from latentslots.data.store.reader import dataset_fingerprint
from latentslots.evaluation.baselines import predict_baselines
from latentslots.evaluation.mask_files import open_masks, paired_segmentations
from latentslots.evaluation.painted import PaintedReport, evaluate_painted
from latentslots.evaluation.predictions import (
    Predictions,
    SegmentationPair,
    predict,
    predictions_from_pairs,
)
from latentslots.evaluation.predictions_cache import load_predictions, save_predictions
from latentslots.evaluation.probing import ProbeReport, check_classes, object_classes, probe_slots
from latentslots.evaluation.processes import own_process, true_on_all_processes
from latentslots.evaluation.report.evaluation_report import EvaluationReport
from latentslots.evaluation.report.examples import draw_examples, draw_masks, extremes
from latentslots.evaluation.report.page import PAGE_FILE, report_page
from latentslots.evaluation.segmentation import SegmentationReport, score
from latentslots.evaluation.shifts import ShiftReport, check_shifts, evaluate_shifts
from latentslots.visualize import png_bytes
from latentslots.workflows.provenance import model_hash

NUM_EXAMPLES = 8
"""Images at the start of the data set that are drawn."""


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What an evaluation measures, and under which conditions.

    Attributes:
        conventions: See `latentslots.metrics.overlap`.
        resolution: Side of the images, in pixels; that of the training when absent.
        scoring_resolution: Side at which masks are compared, or `native`; `resolution` when absent.
        num_images: At most this many images, from the start of the data set.
        seed: Image i draws its slot noise with seed + i.
        batch_size: Images to encode at once.
        class_attribute: Attribute whose classes make one region of several objects; empty for none.
        probes: Whether to predict attributes from slots.
        attributes: Attributes to predict; all when empty.
        painted: Attribute that a classifier of real objects reads off painted images; empty for
            none.
        shifts: Whether to measure if objects are painted where slots say.
        baselines: Whether to score the baselines.
        num_colors: Number of colors of the baselines.
    """

    conventions: Sequence[Convention] = ("iou",)
    resolution: int | None = None
    scoring_resolution: ScoringSize | None = None
    num_images: int | None = None
    seed: int = 0
    batch_size: int = 32
    class_attribute: str = ""
    probes: bool = False
    attributes: Sequence[str] = ()
    painted: str = ""
    shifts: bool = False
    baselines: bool = False
    num_colors: int | None = None


def run_evaluation(
    pipe: Any,
    dataset: Dataset,
    options: EvaluationOptions,
    *,
    about: dict[str, Any],
    tuning: Dataset | None = None,
    training: Dataset | None = None,
    cache: Path | None = None,
    command: str = "",
) -> EvaluationReport:
    """Score a pipeline on a data set.

    Where `torch.distributed` runs, every process must call this, and all return the same report.

    Args:
        pipe: The pipeline.
        dataset: Images with segmentations.
        options: What to measure.
        about: Further conditions, for the report: names of model and data, source of the masks.
        tuning: See `predict_baselines`.
        training: Images whose objects train the classifier of painted ones.
        cache: Folder in which predictions are stored. They are reused if no condition has changed.
        command: The command line, for the report.

    Raises:
        ValueError: If the data set lacks a required column, or the cache is a file.
    """
    _check(pipe, dataset, options, cache, training)
    conditions = {**about, **_conditions(pipe, dataset, options)}
    predictions = _predict(pipe, dataset, options, conditions, cache)
    segmentation = _scores(predictions, dataset, options)
    baselines: dict[str, Predictions] = {}
    if options.baselines:
        baselines = predict_baselines(
            pipe,
            dataset,
            tuning=tuning,
            num_colors=options.num_colors,
            resolution=options.resolution,
            scoring_resolution=options.scoring_resolution,
            seed=options.seed,
            batch_size=options.batch_size,
            num_images=options.num_images,
        )
    probes: dict[str, ProbeReport] = {}
    for convention in options.conventions if options.probes else ():
        probes[convention] = probe_slots(
            predictions, dataset, convention=convention, attributes=options.attributes
        )
    return EvaluationReport(
        conditions={
            **conditions,
            "num_images": len(predictions),
            "class_attribute": options.class_attribute or None,
        },
        segmentation=segmentation,
        baselines={name: _scores(one, dataset, options) for name, one in baselines.items()},
        probes=probes,
        painted=_painted(pipe, dataset, training, options),
        shifts=_shifts(pipe, dataset, options),
        command=command,
        config=_config(pipe),
    )


def _scores(
    predictions: Predictions, dataset: Dataset, options: EvaluationOptions
) -> dict[str, SegmentationReport]:
    classes = None
    if options.class_attribute:
        classes = object_classes(predictions, dataset, options.class_attribute)
    return {c: score(predictions, convention=c, classes=classes) for c in options.conventions}


def _painted(
    pipe: Any, dataset: Dataset, training: Dataset | None, options: EvaluationOptions
) -> PaintedReport | None:
    if not options.painted or training is None:
        return None
    with tqdm(bar_format="{desc} {elapsed}") as bar:
        return evaluate_painted(
            pipe,
            dataset,
            training,
            options.painted,
            num_images=options.num_images or len(dataset),
            sampling=Sampling(seed=options.seed),
            batch_size=options.batch_size,
            progress=bar.set_description,
        )


def _shifts(pipe: Any, dataset: Dataset, options: EvaluationOptions) -> ShiftReport | None:
    if not options.shifts:
        return None
    with tqdm(bar_format="{desc} {elapsed}") as bar:
        return evaluate_shifts(
            pipe,
            dataset,
            num_images=options.num_images or len(dataset),
            seed=options.seed,
            batch_size=options.batch_size,
            progress=bar.set_description,
        )


def _config(pipe: Any) -> dict[str, Any]:
    """The configuration of every part of a pipeline, ready for JSON."""
    parts = {"pipeline": pipe, **pipe.components}
    config = {
        name: {key: value for key, value in part.config.items() if not key.startswith("_")}
        for name, part in parts.items()
        if hasattr(part, "config")
    }
    # JSON has no infinity, but some schedulers do.
    plain: dict[str, Any] = json.loads(json.dumps(config, default=str), parse_constant=str)
    return plain


def _check(
    pipe: Any,
    dataset: Dataset,
    options: EvaluationOptions,
    cache: Path | None,
    training: Dataset | None,
) -> None:
    """Refuse, before minutes of inference, options that would fail after it."""
    if cache is not None and cache.exists() and not cache.is_dir():
        raise ValueError(f"{cache} is a file; the report needs a folder")
    if options.probes:
        read_attributes(dataset, list(options.attributes) or None, num_images=1)
    if options.class_attribute:
        check_classes(dataset, options.class_attribute)
    if (options.shifts or options.painted) and options.resolution not in (None, pipe.resolution):
        raise ValueError(
            f"painted objects are measured at the trained resolution, {pipe.resolution}, not at "
            f"{options.resolution}"
        )
    if options.shifts:
        check_shifts(pipe, dataset, num_images=options.num_images or len(dataset))
    if not options.painted:
        return
    if training is None:
        raise ValueError("the classifier of painted objects needs training images")
    for images in (dataset, training):
        check_classes(images, options.painted)
    if not getattr(pipe, "paints", False):
        raise ValueError(f"{type(pipe).__name__} paints no images, so none can be recognized")
    if min(len(dataset), options.num_images or len(dataset)) < 2:
        raise ValueError("painted objects are put into other images' scenes: score two or more")


def _predict(
    pipe: Any,
    dataset: Dataset,
    options: EvaluationOptions,
    conditions: dict[str, Any],
    cache: Path | None,
) -> Predictions:
    """Predict, or load the predictions of an earlier run under the same conditions."""
    key = {**conditions, "latentslots": version("latentslots")}
    predictions = None if cache is None else load_predictions(cache, key=key)
    if true_on_all_processes(predictions is not None) and predictions is not None:
        return predictions
    predictions = predict(
        pipe,
        dataset,
        resolution=options.resolution,
        scoring_resolution=options.scoring_resolution,
        seed=options.seed,
        batch_size=options.batch_size,
        num_images=options.num_images,
    )
    if cache is not None and own_process()[0] == 0:
        save_predictions(predictions, cache, key=key)
    return predictions


def score_masks(
    masks: str | Path,
    truth: str | Path,
    *,
    conventions: Sequence[Convention] = ("iou",),
    ignore_id: int | None = None,
    command: str = "",
) -> EvaluationReport:
    """Score segmentations in files against the ground truth.

    Args:
        masks: Predicted segmentations, see `open_masks`.
        truth: True ids, see `open_masks`.
        conventions: See `latentslots.metrics.overlap`.
        ignore_id: True id of pixels that do not count.
        command: The command line, for the report.

    Raises:
        ValueError: If a file is missing or not valid.
    """
    mask_files, truth_files = open_masks(masks), open_masks(truth)
    digest = hashlib.sha256()

    def pairs() -> Iterator[SegmentationPair]:
        for pair in paired_segmentations(mask_files, truth_files, ignore_id=ignore_id):
            target = pair.target
            digest.update(str(tuple(target.shape)).encode() + target.numpy().tobytes())
            yield pair

    progress = tqdm(pairs(), total=len(truth_files), unit="image")
    predictions = predictions_from_pairs(iter(progress))
    return EvaluationReport(
        conditions={
            "model": str(masks),
            "data": str(truth),
            "data_hash": digest.hexdigest()[:16],
            "num_images": len(predictions),
            "scoring_resolution": predictions.scoring_resolution or "native",
            "ignore_id": ignore_id,
        },
        segmentation={
            convention: score(predictions, convention=convention) for convention in conventions
        },
        command=command,
    )


def write_evaluation(
    report: EvaluationReport, pipe: Any, dataset: Dataset, folder: Path, *, run_folder: Path
) -> None:
    """Write the report as files, with figures of the first, the worst and the best images.

    Args:
        report: From `run_evaluation`.
        pipe: The scored pipeline.
        dataset: The data set on which it was scored.
        folder: Destination of the files.
        run_folder: Run folder of the model; the curves of its training log, if any, are drawn too.
    """
    seed = next(iter(report.segmentation.values())).seed or 0
    resolution = report.conditions["resolution"]
    draw = partial(draw_examples, pipe, dataset, seed=seed, resolution=resolution)
    _write(report, draw, folder, metrics_path=run_folder / "metrics.jsonl")


def write_mask_scores(
    report: EvaluationReport, masks: str | Path, truth: str | Path, folder: Path
) -> None:
    """Write the report on masks in files, with figures of the masks without their images.

    Args:
        report: From `score_masks`.
        masks: The scored segmentations.
        truth: The true ids.
        folder: Destination of the files.
    """
    draw = partial(
        draw_masks, open_masks(masks), open_masks(truth), ignore_id=report.conditions["ignore_id"]
    )
    _write(report, draw, folder)


def _write(
    report: EvaluationReport,
    draw: Callable[..., Image],
    folder: Path,
    *,
    metrics_path: Path | None = None,
) -> None:
    scores = next(iter(report.segmentation.values())).images
    worst, best = extremes(scores)
    captions = {
        "examples": ("the first images", list(range(min(NUM_EXAMPLES, len(scores))))),
        "worst": ("the images with the lowest mIoU, the worst first", worst),
        "best": ("the images with the highest mIoU, the best first", best),
    }
    figures, files = {}, {}
    for name, (caption, images) in captions.items():
        if images:
            figures[caption] = draw(images=images)
            files[f"{name}.png"] = png_bytes(figures[caption])
    page = report_page(report, figures, metrics_path=metrics_path)
    report.write(folder, {**files, PAGE_FILE: page.to_html().encode()})


def _conditions(pipe: Any, dataset: Dataset, options: EvaluationOptions) -> dict[str, Any]:
    """The conditions that predictions depend on."""
    resolution = pipe.resolution if options.resolution is None else options.resolution
    scoring = options.scoring_resolution
    return {
        "model_hash": model_hash(pipe),
        "data_hash": dataset_fingerprint(dataset),
        "num_images": options.num_images,
        "resolution": resolution,
        "scoring_resolution": resolution if scoring is None else scoring,
        "seed": options.seed,
        "slots": pipe.num_slots,
        "merge_overlap": pipe.inference.merge_overlap,
        "merge_error": pipe.inference.merge_error,
    }
