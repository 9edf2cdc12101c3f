"""`latentslots train RECIPE` and `latentslots train --config FILE`."""

import logging
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import tyro

from latentslots.config import TrainConfig
from latentslots.config.io import load_config
from latentslots.recipes import RECIPES, recipe

PROG = "latentslots train"
USAGE = f"""usage: {PROG} RECIPE [--output-dir DIR] [--data.path DIR] [any other knob]
       {PROG} --config FILE [--resume] [any other knob]

Train a model by a recipe, or resume a run. The run folder contains the model in pipeline/,
checkpoints in state/, numbers in metrics.jsonl and figures in previews/.

recipes: {", ".join(RECIPES)}

{PROG} RECIPE --help lists all knobs of a recipe with their values."""


@dataclass(frozen=True, kw_only=True)
class Train(TrainConfig):
    """Train a model. Flags override the values of the recipe or file."""

    output_dir: str
    """The run folder."""
    resume: bool = False
    """Resume from the newest checkpoint in the run folder."""
    push_to_hub: str = ""
    """Upload the finished model to this hub repository (USER/NAME)."""


def run(arguments: list[str]) -> int:
    """Parse, train, and print the run folder."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    config, output_dir, rest = _starting_point(arguments)
    options, config = parse(config, output_dir, rest)

    from accelerate import PartialState

    from latentslots.training import TrainingInterrupted
    from latentslots.training.hub import check_repo, push_to_hub
    from latentslots.training.run import train

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if options.push_to_hub:
        check_repo(options.push_to_hub)
    try:
        run_dir = train(config, options.output_dir, resume=options.resume)
    except TrainingInterrupted as stop:
        if PartialState().is_main_process:
            print(f"{PROG}: {stop}", file=sys.stderr)
        return 128 + stop.signum
    if PartialState().is_main_process:
        if options.push_to_hub:
            print(push_to_hub(run_dir, options.push_to_hub))
        print(run_dir)
    return 0


def _starting_point(arguments: list[str]) -> tuple[TrainConfig, str, list[str]]:
    """Return the config without flags applied, the default run folder, and the flags."""
    first, *rest = arguments
    if first == "--config" or first.startswith("--config="):
        if "=" in first:
            file = first.split("=", 1)[1]
        elif rest:
            file, *rest = rest
        else:
            raise ValueError("--config needs the path of a JSON file")
        path = Path(file)
        default = str(path.parent) if path.name == "train_config.json" else ""
        return load_config(path), default, rest
    if first.startswith("-"):
        raise ValueError(f"the first argument must be a recipe or --config FILE, got {first!r}")
    return recipe(first), f"runs/{first}", rest


def parse(config: TrainConfig, output_dir: str, arguments: list[str]) -> tuple[Train, TrainConfig]:
    """Apply flags to a config; only the knobs of its own method are flags."""
    names = [field.name for field in fields(TrainConfig)]
    default = Train(**{name: getattr(config, name) for name in names}, output_dir=output_dir)
    options = tyro.cli(
        tyro.conf.AvoidSubcommands[Train], prog=PROG, args=arguments, default=default
    )
    if not options.output_dir:
        raise ValueError("--output-dir is required unless the config is that of a run folder")
    return options, TrainConfig(**{name: getattr(options, name) for name in names})
