"""`latentslots demo`."""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Train a small model from nothing, and write a page that shows what it learned."""

    output_dir: str = "demo"
    """Where the page and the run go; a demo that is there already is replaced."""
    minutes: float = 3.0
    """How long to train."""
    seed: int = 0
    """Seed of the weights and of everything drawn in training."""


def run(arguments: list[str]) -> None:
    """Parse, run the demo, and print its table to stdout."""
    options = tyro.cli(Demo, prog="latentslots demo", args=arguments)

    from latentslots.app.demo import COLUMNS, run_demo

    output_dir = Path(options.output_dir)
    scores = run_demo(output_dir, minutes=options.minutes, seed=options.seed)
    width = max(map(len, scores))
    print(" ".join([" " * width, *(f"{column:>7}" for column in COLUMNS[1:])]))
    for name, values in scores.items():
        numbers = " ".join(f"{value:7.3f}" for value in values.values())
        print(f"{name:{width}} {numbers}")
    print(f"\nopen {output_dir / 'index.html'}")
