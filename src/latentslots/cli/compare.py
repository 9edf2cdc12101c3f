"""`latentslots compare A B`."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from latentslots.config.conventions import Convention
from latentslots.config.seeds import check_seed


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Test whether two reports on the same images differ by more than noise."""

    first: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="REPORT")]
    """A report.json, or the folder that holds it; images.parquet lies beside it."""
    second: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OTHER-REPORT")]
    """The other one."""
    convention: Convention = "iou"
    """The convention whose scores are compared."""
    seed: int = 0
    """Seed of the resampling."""
    json: bool = False
    """Print the differences as JSON instead of a table."""


def run(arguments: list[str]) -> None:
    """Parse, compare, and print a table to stdout."""
    options = tyro.cli(Compare, prog="latentslots compare", args=arguments)
    check_seed(options.seed)

    from latentslots.evaluation.comparison import compare_reports, to_markdown

    differences = compare_reports(
        Path(options.first),
        Path(options.second),
        convention=options.convention,
        seed=options.seed,
    )
    if options.json:
        print(
            json.dumps(
                {
                    name: {**asdict(one), "more_than_noise": one.is_more_than_noise}
                    for name, one in differences.items()
                }
            )
        )
    else:
        print(to_markdown(differences))
