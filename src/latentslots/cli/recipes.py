"""`latentslots recipes [NAME]`."""

import inspect
from dataclasses import dataclass
from typing import Annotated

import tyro

from latentslots.config.io import dumps
from latentslots.recipes import RECIPES, recipe


@dataclass(frozen=True)
class Recipes:
    """List the training recipes, or print one as JSON, for `train --config`."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")] = ""
    """The recipe to print; without it, all are listed."""


def run(arguments: list[str]) -> None:
    """Parse, and print to stdout."""
    options = tyro.cli(Recipes, prog="latentslots recipes", args=arguments)
    if options.name:
        print(dumps(recipe(options.name)), end="")
        return
    for name, function in RECIPES.items():
        summary, _, rest = (inspect.getdoc(function) or "").partition("\n")
        print(f"{name}: {summary}")
        for line in rest.strip().splitlines():
            print(f"    {line}".rstrip())
