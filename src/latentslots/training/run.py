"""`train`: from a configuration to a run folder."""

import json
import platform
import sys
from datetime import timedelta
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from datasets import Dataset

from latentslots.build.data import FEATURES_DIR, LATENTS_DIR, build_split, build_training_set
from latentslots.build.methods import build_objective
from latentslots.config import AutoencoderConfig, TrainConfig
from latentslots.config.io import differences, dumps, load_config
from latentslots.config.ranges import check_ranges
from latentslots.config.seeds import check_seed
from latentslots.data.errors import UnknownSplitError
from latentslots.data.loading.loader import ImageDataset
from latentslots.data.loading.stream import ImageStream
from latentslots.device import keep_freed_memory
from latentslots.objectives import Objective
from latentslots.training.checkpoint import list_checkpoints, write_text
from latentslots.training.init_weights import load_initial_weights
from latentslots.training.preview import Previewer
from latentslots.training.run_log import Records
from latentslots.training.trainer import STATE_DIR, Trainer
from latentslots.training.validation import Validator

CONFIG_FILE = "train_config.json"
ENVIRONMENT_FILE = "environment.json"
PACKAGES = ("latentslots", "diffusers", "accelerate", "datasets", "numpy")

# What may differ when a run is resumed: how long and how often, not what is learned from what.
# What keeps a run from going on may change, too: memory, overflow, a file that cannot be read.
RESUMABLE = (
    "max_train_steps",
    "max_train_minutes",
    "mixed_precision",
    "gradient_checkpointing",
    "optim.learning_rate",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "validation_steps",
    "num_validation_images",
    "preview_steps",
    "report_to",
    "compile",
    "data.num_workers",
    "data.on_bad_sample",
    "data.path",
    "data.latents",
    "data.features",
    # The same weights, and above the same data, somewhere else: checked by their hashes.
    "method.unet.name",
    "method.encoder.name",
    "method.vae",
    "method.include_pretrained",
    "method.num_inference_slots",
    "method.merge_overlap",
)

NUM_MEASURED = 256
"""Images to measure what is not learned on, such as their mean color."""


class RunError(ValueError):
    """A run folder that cannot be used in the way that was asked for."""


def train(
    config: TrainConfig, output_dir: str | Path, *, resume: bool = False, progress: bool = True
) -> Path:
    """Train a model.

    Args:
        config: What to train, on what, and how: a recipe, perhaps changed.
        output_dir: The run folder.
        resume: Go on from the newest checkpoint in it.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The run folder, which holds the model in `pipeline/`.

    Raises:
        RunError: If the folder already holds a run and `resume` is not set, or holds none and it
            is, or holds a run of another model or other data.
        TrainingInterrupted: After SIGINT or SIGTERM, when the state is saved.
    """
    _check_counts(config)
    run_dir = Path(output_dir)
    newest = _check_run_dir(run_dir, config, resume=resume)
    accelerator = _build_accelerator(config, run_dir)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    accelerator.wait_for_everyone()  # nobody writes to the folder before all have looked at it
    # Weights are drawn alike everywhere, what follows is not: processes that draw the same noise
    # and timesteps learn no more than one does.
    set_seed(config.seed)
    objective = build_objective(config)
    if newest is None and config.init_from:
        load_initial_weights(objective, config.init_from)
    validation = _validation_split(config, is_main_process=accelerator.is_main_process)
    dataset = build_training_set(
        config,
        objective.to(accelerator.device),
        run_dir=run_dir,
        is_main_process=accelerator.is_main_process,
        wait=accelerator.wait_for_everyone,
        progress=progress,
    )
    if newest is None and not config.init_from and objective.measures:
        _measure(objective, dataset)
    set_seed(config.seed, device_specific=True)
    trainer = _build_trainer(
        config,
        objective,
        dataset,
        validation,
        run_dir=run_dir,
        accelerator=accelerator,
        progress=progress,
    )
    if newest:  # first of all: a checkpoint that does not fit leaves the run as it was
        trainer.load(newest)
    if accelerator.is_main_process:
        _write_run_files(run_dir, config)
    if accelerator.log_with:
        accelerator.init_trackers("latentslots")
    try:
        trainer.records.open(start_step=trainer.step)
        trainer.fit()
    finally:
        trainer.records.close()
    return run_dir


def _measure(objective: Objective, dataset: ImageDataset | ImageStream) -> None:
    """Let the objective measure what it does not learn on images from all over the data set."""
    samples = dataset.spread(min(NUM_MEASURED, len(dataset)))
    objective.measure(torch.stack([sample["pixel_values"] for sample in samples]))


def _build_trainer(
    config: TrainConfig,
    objective: Objective,
    dataset: ImageDataset | ImageStream,
    validation: Dataset | None,
    *,
    run_dir: Path,
    accelerator: Accelerator,
    progress: bool,
) -> Trainer:
    resolution = config.data.resolution
    return Trainer(
        config,
        objective,
        dataset,
        accelerator=accelerator,
        run_dir=run_dir,
        records=Records(
            run_dir,
            accelerator,
            max_train_steps=config.max_train_steps,
            max_seconds=config.max_train_minutes * 60,
            progress=progress,
        ),
        validator=Validator(
            validation,
            resolution=resolution,
            num_images=config.num_validation_images,
            on_bad_sample=config.data.on_bad_sample,
        ),
        previewer=Previewer(
            validation,
            resolution=resolution,
            folder=run_dir / "previews",
            on_bad_sample=config.data.on_bad_sample,
        ),
    )


def _check_counts(config: TrainConfig) -> None:
    """Find out now, not at the first validation hours later, that there is nothing to do."""
    check_seed(config.seed)
    check_ranges(config)


def _check_run_dir(run_dir: Path, config: TrainConfig, *, resume: bool) -> Path | None:
    """The newest checkpoint to go on from, if any."""
    config_file = run_dir / CONFIG_FILE
    if not resume:
        if config_file.exists():
            raise RunError(
                f"{run_dir} already holds a run; go on with --resume, or name another folder"
            )
        # Latents and features are made first; begun, they stay, and can be used.
        others = run_dir.is_dir() and any(
            file.name not in (LATENTS_DIR, FEATURES_DIR) for file in run_dir.iterdir()
        )
        if others or (run_dir.exists() and not run_dir.is_dir()):
            raise RunError(f"{run_dir} exists and is not an empty folder; name another one")
        return None
    if not config_file.is_file():
        raise RunError(f"{run_dir} holds no run to resume: {CONFIG_FILE} is missing")
    checkpoints = list_checkpoints(run_dir / STATE_DIR)
    if not checkpoints:
        return None  # it starts again, and may do so with another configuration
    changed = [
        line
        for line in differences(load_config(config_file), config)
        if line.split(":", 1)[0] not in _resumable(config)
    ]
    if changed:
        raise RunError(f"{run_dir} was trained with another configuration: {'; '.join(changed)}")
    return checkpoints[-1]


def _resumable(config: TrainConfig) -> set[str]:
    """Every worker reads a share of its own of a stream, so that their number must stay."""
    return set(RESUMABLE) - ({"data.num_workers"} if config.data.streaming else set())


def _build_accelerator(config: TrainConfig, run_dir: Path) -> Accelerator:
    trackers = {"none": [], "all": ["tensorboard", "wandb"]}.get(
        config.report_to, [config.report_to]
    )
    for tracker in trackers:
        if find_spec(tracker) is None:  # Accelerate would go on without it, and not say so
            raise RunError(
                f"report_to={config.report_to!r} needs {tracker}:"
                " pip install 'latentslots[tracking]'"
            )
    on_cpu = not torch.accelerator.is_available()
    if on_cpu and config.mixed_precision == "fp16":
        raise RunError("mixed_precision='fp16' needs a GPU; on a CPU use 'bf16' or 'no'")
    # Accelerate keeps the precision of a process's first run; a second one may want another.
    AcceleratorState._reset_state()
    return Accelerator(
        cpu=on_cpu,  # or else processes on CPUs would not find each other, and not say so
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with=trackers or None,
        project_dir=run_dir,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=2))],
    )


def _validation_split(config: TrainConfig, *, is_main_process: bool) -> Dataset | None:
    """The validation split, where the data set has one.

    An autoencoder's scaling factor is measured in validation, if need be on training images.
    """
    try:
        return build_split(config.data, config.data.validation_split)
    except UnknownSplitError as error:
        on_training = isinstance(config.method, AutoencoderConfig)
        if on_training and config.data.streaming:
            raise RunError(
                f"an autoencoder needs validation images to measure on: {error}"
            ) from None
        if is_main_process:
            instead = ", but measures on training images" if on_training else ""
            print(f"no validation{instead}: {error}", file=sys.stderr)
        return build_split(config.data, config.data.train_split) if on_training else None


def _write_run_files(run_dir: Path, config: TrainConfig) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    write_text(run_dir / CONFIG_FILE, dumps(config))
    environment = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "command": sys.argv,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "num_threads": torch.get_num_threads(),
        # torch itself also tells which build it is ("+cu130").
        "packages": {name: version(name) for name in PACKAGES} | {"torch": str(torch.__version__)},
    }
    write_text(run_dir / ENVIRONMENT_FILE, json.dumps(environment, indent=2) + "\n")
