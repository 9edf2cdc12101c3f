"""`train`: from a configuration to a run folder."""

import json
import platform
import sys
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import set_seed
from datasets import Dataset

from latentslots.build import build_objective, build_split, build_training_set
from latentslots.config import DataConfig, TrainConfig
from latentslots.config_io import differences, dumps, load_config
from latentslots.data.errors import DataError
from latentslots.training.checkpoint import list_checkpoints
from latentslots.training.preview import Previewer
from latentslots.training.records import Records
from latentslots.training.trainer import STATE_DIR, Trainer
from latentslots.training.validation import Validator

CONFIG_FILE = "train_config.json"
ENVIRONMENT_FILE = "environment.json"
PACKAGES = ("latentslots", "torch", "diffusers", "accelerate", "datasets", "numpy")

# What may differ when a run is resumed: how long and how often, not what is learned from what.
RESUMABLE = (
    "max_train_steps",
    "max_train_minutes",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "validation_steps",
    "num_validation_images",
    "preview_steps",
    "report_to",
    "compile",
    "data.num_workers",
    "data.path",
    "data.latents",
)


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
    run_dir = Path(output_dir)
    newest = _check_run_dir(run_dir, config, resume=resume)
    accelerator = _build_accelerator(config, run_dir)
    # Weights are drawn alike everywhere, what follows is not: processes that draw the same noise
    # and timesteps learn no more than one does.
    set_seed(config.seed)
    objective = build_objective(config)
    validation = _validation_split(config.data)
    dataset = build_training_set(
        config,
        objective.to(accelerator.device),
        run_dir=run_dir,
        is_main_process=accelerator.is_main_process,
        wait=accelerator.wait_for_everyone,
        progress=progress,
    )
    set_seed(config.seed, device_specific=True)
    if accelerator.is_main_process:
        _write_run_files(run_dir, config)

    start_step = int(newest.name.removeprefix("step_")) if newest else 0
    records = Records(
        run_dir,
        accelerator,
        max_train_steps=config.max_train_steps,
        max_seconds=config.max_train_minutes * 60,
        start_step=start_step,
        progress=progress,
    )
    resolution = config.data.resolution
    trainer = Trainer(
        config,
        objective,
        dataset,
        accelerator=accelerator,
        run_dir=run_dir,
        records=records,
        validator=Validator(
            validation, resolution=resolution, num_images=config.num_validation_images
        ),
        previewer=Previewer(validation, resolution=resolution, folder=run_dir / "previews"),
    )
    try:
        if newest:
            trainer.load(newest)
        trainer.fit()
    finally:
        records.close()
    return run_dir


def _check_run_dir(run_dir: Path, config: TrainConfig, *, resume: bool) -> Path | None:
    """The newest checkpoint to go on from, if any."""
    config_file = run_dir / CONFIG_FILE
    if not resume:
        if config_file.exists():
            raise RunError(
                f"{run_dir} already holds a run; go on with --resume, or name another folder"
            )
        if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
            raise RunError(f"{run_dir} exists and is not an empty folder; name another one")
        return None
    if not config_file.is_file():
        raise RunError(f"{run_dir} holds no run to resume: {CONFIG_FILE} is missing")
    changed = [
        line
        for line in differences(load_config(config_file), config)
        if not line.split(":", 1)[0].startswith(RESUMABLE)
    ]
    if changed:
        raise RunError(f"{run_dir} was trained with another configuration: {'; '.join(changed)}")
    checkpoints = list_checkpoints(run_dir / STATE_DIR)
    return checkpoints[-1] if checkpoints else None


def _build_accelerator(config: TrainConfig, run_dir: Path) -> Accelerator:
    trackers = {"none": [], "all": ["tensorboard", "wandb"]}.get(
        config.report_to, [config.report_to]
    )
    try:
        accelerator = Accelerator(
            mixed_precision=config.mixed_precision,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            log_with=trackers or None,
            project_dir=run_dir,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=2))],
        )
    except ValueError as error:
        if config.mixed_precision == "fp16" and not torch.cuda.is_available():
            raise RunError(
                "mixed_precision='fp16' needs a GPU; on a CPU use 'bf16' or 'no'"
            ) from None
        raise RunError(str(error)) from None
    if trackers:
        accelerator.init_trackers("latentslots")
    return accelerator


def _validation_split(data: DataConfig) -> Dataset | None:
    """The validation split, where the data set has one."""
    try:
        return build_split(data, data.validation_split)
    except DataError as error:
        if "no split" in str(error):
            print(f"no validation: {error}", file=sys.stderr)
            return None
        raise


def _write_run_files(run_dir: Path, config: TrainConfig) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / CONFIG_FILE).write_text(dumps(config), encoding="utf-8")
    environment = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "command": sys.argv,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "num_threads": torch.get_num_threads(),
        "packages": {name: version(name) for name in PACKAGES},
    }
    text = json.dumps(environment, indent=2) + "\n"
    (run_dir / ENVIRONMENT_FILE).write_text(text, encoding="utf-8")
