"""`latentslots segment RUN IMAGE... --output-dir OUT`."""

import json
import sys
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from latentslots.cli.options import InferenceOptions


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Find the objects in pictures, and write masks, cut-outs and slots."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """`bundled`, a run folder, a pipeline folder, or a hub id."""
    images: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="IMAGE ...")]
    """Picture files, and folders of them."""
    output_dir: str
    """Gets a folder for each picture; those that are there already are skipped."""
    inference: tyro.conf.OmitArgPrefixes[InferenceOptions] = field(default_factory=InferenceOptions)
    """How slots are found."""
    json: bool = False
    """Print what was done as JSON."""


def run(arguments: list[str]) -> int:
    """Parse, segment, and say what was done; the exit code tells of files that cannot be read."""
    options = tyro.cli(Segment, prog="latentslots segment", args=arguments)

    from pathlib import Path

    from latentslots.cli.model import load_pipeline
    from latentslots.workflows.image_files import find_pictures
    from latentslots.workflows.segment import segment_files

    paths = find_pictures(options.images)
    pipe = load_pipeline(options.run, options.inference)
    out = Path(options.output_dir)
    outcome = segment_files(pipe, paths, out, seed=options.inference.seed)
    for problem in outcome.problems:
        print(f"latentslots segment: {problem}", file=sys.stderr)
    if options.json:
        print(json.dumps(outcome.to_dict()))
    else:
        print(f"{len(outcome.done)} pictures segmented into {out}, {len(outcome.skipped)} skipped")
    return 2 if outcome.problems else 0
