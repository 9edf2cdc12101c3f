"""`latentslots segment RUN IMAGE... --output-dir OUT`."""

import json
import sys
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from latentslots.cli.options import InferenceOptions
from latentslots.config.seeds import check_seed


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Find the objects in images, and write masks, cutouts and slots."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """`bundled`, a run folder, a pipeline folder, or a hub id."""
    images: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="IMAGE ...")]
    """Image files, and folders of them."""
    output_dir: str
    """Folder of the results, with a folder for each image; images that already have results made in
    the same way are skipped."""
    inference: tyro.conf.OmitArgPrefixes[InferenceOptions] = field(default_factory=InferenceOptions)
    """How slots are inferred."""
    seed: int = 0
    """Seed of every image's slot noise."""
    json: bool = False
    """Print what was done as JSON."""


def run(arguments: list[str]) -> int:
    """Parse, segment, and print what was done; 2 if a file could not be read."""
    options = tyro.cli(Segment, prog="latentslots segment", args=arguments)
    check_seed(options.seed)

    from pathlib import Path

    from latentslots.cli.model import load_pipeline
    from latentslots.workflows.image_files import find_image_files
    from latentslots.workflows.segment import segment_files

    paths = find_image_files(options.images)
    pipe = load_pipeline(options.run, options.inference)
    out = Path(options.output_dir)
    result = segment_files(pipe, paths, out, seed=options.seed)
    for problem in result.problems:
        print(f"latentslots segment: {problem}", file=sys.stderr)
    if options.json:
        print(json.dumps(result.to_dict()))
    else:
        print(f"{len(result.done)} images segmented into {out}, {len(result.skipped)} skipped")
    return 2 if result.problems else 0
