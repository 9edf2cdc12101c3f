"""`latentslots evaluate-edits RUN --data PAIRS`."""

import json
import shlex
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from latentslots.cli.options import InferenceOptions
from latentslots.config.sampling import Sampling


@dataclass(frozen=True, kw_only=True)
class EvaluateEdits:
    """Score edits of images against true images after the same edit."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """`bundled`, a run folder, a pipeline folder, or a hub id."""
    data: str
    """Pairs of images before and after an edit, as `latentslots data make --edit-pairs` makes
    them."""
    split: str = "validation"
    """Split of the data set."""
    edits: tuple[Literal["removal", "swaps", "moves"], ...] = ()
    """`removal` of objects, `swaps` of parts of figures, `moves` of objects by 12 px; when absent,
    all that the data set has pairs of and, if the model's slots have frames, moves."""
    num_pairs: int = 200
    """At most this many pairs of each kind, from the start of the data set."""
    batch_size: int = 32
    """Pairs at once; changes scores by rounding only."""
    inference: tyro.conf.OmitArgPrefixes[InferenceOptions] = field(default_factory=InferenceOptions)
    """How slots are inferred."""
    sampling: tyro.conf.OmitArgPrefixes[Sampling] = field(default_factory=Sampling)
    """How images are sampled; pair i draws its noise from seed + i."""
    output_dir: str = ""
    """Also write edits.json and edits.md to this folder."""
    json: bool = False
    """Print edits.json instead of tables."""


def run(arguments: list[str]) -> None:
    """Parse, evaluate, and print a table for each kind of edit."""
    options = tyro.cli(EvaluateEdits, prog="latentslots evaluate-edits", args=arguments)
    options.sampling.check()

    from pathlib import Path

    from latentslots.cli.model import load_pipeline
    from latentslots.data.store.reader import load_dataset
    from latentslots.workflows.evaluate_edits import run_edit_evaluation

    pipe = load_pipeline(options.run, options.inference, options.sampling)
    evaluation = run_edit_evaluation(
        pipe,
        load_dataset(options.data, split=options.split),
        options.sampling,
        edits=options.edits,
        num_pairs=options.num_pairs,
        batch_size=options.batch_size,
        about={"model": options.run, "data": options.data, "split": options.split},
        command=shlex.join(["latentslots", "evaluate-edits", *arguments]),
    )
    if options.output_dir:
        evaluation.write(Path(options.output_dir))
    print(json.dumps(evaluation.to_dict()) if options.json else evaluation.to_markdown())
