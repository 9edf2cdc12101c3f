"""`latentslots demo`."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from latentslots.config.seeds import check_seed


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Show on a page how the bundled model segments, reconstructs, edits and composes scenes."""

    output_dir: str = "demo"
    """Folder of the page; an earlier demo there is replaced."""
    train: float | None = None
    """Also train a new model, on other images, for this many minutes."""
    seed: int = 0
    """Seed of everything random."""


def run(arguments: list[str]) -> None:
    """Parse, run the demo, and print its table to stdout."""
    options = tyro.cli(Demo, prog="latentslots demo", args=arguments)
    check_seed(options.seed)

    from latentslots.cli.model import hide_loading_bars
    from latentslots.workflows.demo.run import COLUMNS, run_demo

    hide_loading_bars()
    output_dir = Path(options.output_dir)
    scores = run_demo(output_dir, train_minutes=options.train, seed=options.seed)
    width = max(map(len, scores))
    print(" ".join([" " * width, *(f"{column:>7}" for column in COLUMNS[1:])]))
    for name, values in scores.items():
        numbers = " ".join(f"{value:7.3f}" for value in values.values())
        print(f"{name:{width}} {numbers}")
    print(f"\nopen {output_dir / 'index.html'}")
