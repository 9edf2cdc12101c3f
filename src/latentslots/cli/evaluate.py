"""`latentslots evaluate RUN --data PATH`."""

import json
import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from latentslots.config.conventions import CONVENTIONS, Convention, ScoringSize
from latentslots.config.seeds import check_seed


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Score how well the slots of a model segment the objects of a data set with masks."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """`bundled`, a run folder, a pipeline folder, or a hub id."""
    data: str
    """A data set with segmentations; `bundled` for the scenes that ship with the package."""
    split: str = "validation"
    """Split of the data set."""
    convention: tuple[Convention, ...] = ("iou",)
    """How mIoU and mBO are computed, one or several: `iou` matches by IoU and scores a missed
    object 0; `lsd` is the convention of the official code; `with-background` counts the background
    as an object."""
    resolution: int | None = None
    """Pixels per side; the resolution of the training when absent."""
    scoring_resolution: ScoringSize | None = None
    """Pixels per side at which masks are compared: a number, or `native` for the size of each
    ground truth; the size of the images when absent. DINOSAUR and SPOT use 320, SlotDiffusion
    128."""
    num_images: int | None = None
    """At most this many images, from the start of the data set."""
    min_objects: int = 0
    """Only images with at least this many objects."""
    batch_size: int = 32
    """Images to encode at once; changes numbers by rounding only."""
    seed: int = 0
    """Seed of the slot noise: image i draws with seed + i."""
    num_slots: int | None = None
    """Slots per image; the setting of the pipeline when absent."""
    merge_overlap: float | None = None
    """Merge slots whose masks overlap more than this; 0 for never; the setting of the pipeline when
    absent."""
    merge_error: float | None = None
    """Merge parts of an object if one slot instead of two raises the error of the painted image by
    at most this; 0 for never; the setting of the pipeline when absent."""
    masks: Literal["model", "attention", "cross-attention"] = "model"
    """`model`: the masks of the patch decoder if there is one, else `attention`: the attention of
    the slots, as in the paper. `cross-attention`: the attention of the denoiser to the slots."""
    probes: bool = False
    """Also predict attributes of objects from slots; with the convention `lsd`, in the way of the
    official code."""
    attributes: tuple[str, ...] = ()
    """With --probes: the attributes to predict; all when absent."""
    class_attribute: str = ""
    """Also score all objects of a class as one region: the attribute with the classes, such as
    `category`."""
    painted: str = ""
    """Also paint the images from their slots, and report how often a classifier that was trained on
    real objects recognizes this attribute in them, such as `shape_label`."""
    painted_split: str = "train"
    """With --painted: the split on whose objects the classifier is trained."""
    shifts: bool = False
    """Also denoise shifted images with the slots of the images themselves, and report whether
    objects are painted where their slots say."""
    baselines: bool = False
    """Also score the untrained model, k-means on color, and connected pieces of one color."""
    num_colors: int | None = None
    """Number of colors of the baselines; that of the slots when absent."""
    tune_split: str = ""
    """With --baselines: also score k-means on color and position, with the weight of position tuned
    on this split of the data, such as `train`."""
    output_dir: str = ""
    """Also write report.json, report.md, index.html, images.parquet and figures here. Predictions
    are kept there too, so that other conventions or probes need no second inference pass."""
    json: bool = False
    """Print report.json instead of tables."""


def run(arguments: list[str]) -> None:
    """Parse, evaluate, and print the report to stdout."""
    options = tyro.cli(Evaluate, prog="latentslots evaluate", args=arguments)
    _check(options)
    check_seed(options.seed)

    import torch
    from accelerate import PartialState

    from latentslots.cli.model import hide_loading_bars
    from latentslots.data.store.reader import load_dataset
    from latentslots.device import to_device
    from latentslots.evaluation.labeled_images import with_objects
    from latentslots.pipelines import load_pipeline
    from latentslots.pipelines.cross_attention import CrossAttentionPipeline
    from latentslots.workflows.evaluate import run_evaluation, write_evaluation

    # Processes that `accelerate launch` started share the images. On CPUs, they connect to each
    # other with `cpu=True` only.
    state = PartialState(cpu=not torch.accelerator.is_available())
    hide_loading_bars()
    pipe: Any = load_pipeline(options.run)
    if options.masks == "attention":
        pipe.use_attention_masks()
    pipe.set_inference(
        num_slots=options.num_slots,
        merge_overlap=options.merge_overlap,
        merge_error=options.merge_error,
    )
    if options.masks == "cross-attention":
        pipe = CrossAttentionPipeline.of(pipe)
    to_device(pipe)
    dataset = load_dataset(options.data, split=options.split)
    if options.min_objects:
        dataset = with_objects(dataset, options.min_objects)
    tuning = None
    if options.tune_split:  # before the inference, so that a wrong name fails at once
        tuning = load_dataset(options.data, split=options.tune_split)
    training = load_dataset(options.data, split=options.painted_split) if options.painted else None
    out = Path(options.output_dir) if options.output_dir else None
    report = run_evaluation(
        pipe,
        dataset,
        _measured(options),
        about={
            "model": options.run,
            "data": options.data,
            "split": options.split,
            "min_objects": options.min_objects,
            "masks": pipe.mask_source,
        },
        tuning=tuning,
        training=training,
        cache=out,
        command=shlex.join(["latentslots", "evaluate", *arguments]),
    )
    if not state.is_main_process:
        return
    if out is not None:
        write_evaluation(report, pipe, dataset, out, run_folder=Path(options.run))
    print(json.dumps(report.to_dict()) if options.json else report.to_markdown())


def _measured(options: Evaluate) -> Any:
    """The flags that say what is measured, as the workflow's options, which have their names."""
    from latentslots.workflows.evaluate import EvaluationOptions

    names = {field.name for field in fields(EvaluationOptions)} - {"conventions"}
    values = {name: getattr(options, name) for name in names}
    return EvaluationOptions(conventions=options.convention, **values)


def _check(options: Evaluate) -> None:
    """Refuse flags that contradict each other."""
    if options.painted and options.painted_split == options.split:
        raise ValueError(
            "--painted-split must name another split than the one to be scored, "
            f"{options.split!r}: the classifier may not have seen the objects"
        )
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
    if options.attributes and not options.probes:
        raise ValueError("--attributes is for the probes: add --probes")
    if not options.convention:
        raise ValueError(f"--convention needs at least one of {', '.join(CONVENTIONS)}")
    for name in ("resolution", "scoring_resolution", "batch_size"):
        value = getattr(options, name)
        if isinstance(value, int) and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
