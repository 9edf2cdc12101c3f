"""`train`: from a configuration to a run folder."""

import platform
import sys
from contextlib import nullcontext
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
from latentslots.config import MixedPrecision, TrainConfig
from latentslots.config.io import differences, dumps, load_config
from latentslots.config.ranges import check_ranges
from latentslots.config.seeds import check_seed
from latentslots.data.errors import UnknownSplitError
from latentslots.data.loading.loader import ImageDataset
from latentslots.data.loading.stream import ImageStream
from latentslots.device import keep_freed_memory
from latentslots.files import exclusive, write_json, write_text
from latentslots.objectives import Objective
from latentslots.training.checkpoint import list_checkpoints
from latentslots.training.init_weights import load_init_weights
from latentslots.training.precision import choose_precision
from latentslots.training.preview import Previewer
from latentslots.training.run_log import RunLog
from latentslots.training.trainer import STATE_DIR, Trainer
from latentslots.training.validation import Validator

CONFIG_FILE = "train_config.json"
ENVIRONMENT_FILE = "environment.json"
PACKAGES = ("latentslots", "diffusers", "accelerate", "datasets", "numpy")

# Settings that may differ when a run is resumed: durations and intervals, and those that may have
# stopped the run (memory, overflow, an unreadable file), but neither model nor data.
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
    # The same weights, and above the same data, at another location: checked by their hashes.
    "method.unet.name",
    "method.encoder.name",
    "method.vae",
    "method.include_pretrained",
    "method.num_inference_slots",
    "method.merge_overlap",
    "method.merge_error",
)

NUM_MEASURED = 256
"""Images from which statistics of the data, such as the mean color, are computed."""


class RunError(ValueError):
    """A run folder or configuration that cannot be used."""


def train(
    config: TrainConfig, output_dir: str | Path, *, resume: bool = False, progress: bool = True
) -> Path:
    """Train a model.

    Args:
        config: Method, data and optimizer: a recipe, perhaps changed.
        output_dir: The run folder.
        resume: Resume from the newest checkpoint in it.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The run folder, which contains the model in `pipeline/`.

    Raises:
        RunError: If the folder already contains a run and `resume` is not set, if it contains none
            and `resume` is set, or if it contains a run of another model or other data.
        TrainingInterrupted: After SIGINT or SIGTERM, once the state is saved.
    """
    check_seed(config.seed)
    check_ranges(config)
    run_dir = Path(output_dir)
    config = choose_precision(config, _saved_precision(run_dir) if resume else "auto")
    newest = _check_run_dir(run_dir, config, resume=resume)
    accelerator = _build_accelerator(config, run_dir)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    accelerator.wait_for_everyone()  # no process writes to the folder before all have checked it
    with exclusive(run_dir) if accelerator.is_main_process else nullcontext():
        _train(config, run_dir, accelerator, newest=newest, progress=progress)
    return run_dir


def _train(
    config: TrainConfig,
    run_dir: Path,
    accelerator: Accelerator,
    *,
    newest: Path | None,
    progress: bool,
) -> None:
    # All processes draw the same weights here. Their noise and timesteps must differ, so each
    # process gets a seed of its own below.
    set_seed(config.seed)
    objective = build_objective(config)
    if newest is None and config.init_from:
        load_init_weights(objective, config.init_from)
    validation = _validation_split(config, objective, is_main_process=accelerator.is_main_process)
    dataset = build_training_set(
        config,
        objective.to(accelerator.device),
        run_dir=run_dir,
        is_main_process=accelerator.is_main_process,
        wait=accelerator.wait_for_everyone,
        progress=progress,
    )
    if newest is None and not config.init_from and objective.has_statistics:
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
    if newest:  # before anything is written, so that the run stays intact if it does not fit
        trainer.load(newest)
    if accelerator.is_main_process:
        _write_run_files(run_dir, config)
    if accelerator.log_with:
        accelerator.init_trackers("latentslots")
    try:
        trainer.run_log.open(start_step=trainer.step)
        trainer.fit()
    finally:
        trainer.run_log.close()


def _measure(objective: Objective, dataset: ImageDataset | ImageStream) -> None:
    """Compute the objective's statistics on images spread over the data set."""
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
        run_log=RunLog(
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


def _saved_precision(run_dir: Path) -> MixedPrecision:
    """The precision that a run was trained in; `auto` if the folder contains none."""
    file = run_dir / CONFIG_FILE
    return load_config(file).mixed_precision if file.is_file() else "auto"


def _check_run_dir(run_dir: Path, config: TrainConfig, *, resume: bool) -> Path | None:
    """Return the newest checkpoint to resume from, if any; refuse folders that do not fit."""
    config_file = run_dir / CONFIG_FILE
    if not resume:
        if config_file.exists():
            raise RunError(
                f"{run_dir} already contains a run: add --resume, or name another folder"
            )
        # Caches are written first; a folder with nothing else counts as empty.
        others = run_dir.is_dir() and any(
            file.name not in (LATENTS_DIR, FEATURES_DIR) for file in run_dir.iterdir()
        )
        if others or (run_dir.exists() and not run_dir.is_dir()):
            raise RunError(f"{run_dir} exists and is not an empty folder; name another one")
        return None
    if not config_file.is_file():
        raise RunError(f"{run_dir} contains no run to resume: {CONFIG_FILE} is missing")
    checkpoints = list_checkpoints(run_dir / STATE_DIR)
    if not checkpoints:
        return None  # the run starts from the beginning, perhaps with another configuration
    changed = [
        line
        for line in differences(load_config(config_file), config)
        if line.split(":", 1)[0] not in _resumable(config)
    ]
    if changed:
        raise RunError(f"{run_dir} was trained with another configuration: {'; '.join(changed)}")
    return checkpoints[-1]


def _resumable(config: TrainConfig) -> set[str]:
    """Return `RESUMABLE`, without `num_workers` for streams, whose workers read a share each."""
    return set(RESUMABLE) - ({"data.num_workers"} if config.data.streaming else set())


def _build_accelerator(config: TrainConfig, run_dir: Path) -> Accelerator:
    trackers = {"none": [], "all": ["tensorboard", "wandb"]}.get(
        config.report_to, [config.report_to]
    )
    for tracker in trackers:
        if find_spec(tracker) is None:  # Accelerate would silently omit it
            raise RunError(
                f"report_to={config.report_to!r} needs {tracker}:"
                " pip install 'latentslots[tracking]'"
            )
    on_cpu = not torch.accelerator.is_available()
    if on_cpu and config.mixed_precision == "fp16":
        raise RunError("mixed_precision='fp16' needs a GPU; on a CPU use 'bf16' or 'no'")
    # Accelerate keeps the precision of a process's first run; a second one may use another.
    AcceleratorState._reset_state()
    return Accelerator(
        cpu=on_cpu,  # else processes on CPUs would silently not communicate
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with=trackers or None,
        project_dir=run_dir,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=2))],
    )


def _validation_split(
    config: TrainConfig, objective: Objective, *, is_main_process: bool
) -> Dataset | None:
    """Open the validation split, if the data set has one; else the training split, if needed."""
    try:
        return build_split(config.data, config.data.validation_split)
    except UnknownSplitError as error:
        on_training = objective.needs_images_to_save
        if on_training and config.data.streaming:
            raise RunError(
                f"{config.method.kind} needs validation images to be measured on: {error}"
            ) from None
        if is_main_process:
            instead = ", measuring on training images" if on_training else ""
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
        # torch's own version names the build as well ("+cu130").
        "packages": {name: version(name) for name in PACKAGES} | {"torch": str(torch.__version__)},
    }
    write_json(run_dir / ENVIRONMENT_FILE, environment)
