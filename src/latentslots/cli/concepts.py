"""`latentslots concepts fit|show`."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from latentslots.cli.options import InferenceOptions
from latentslots.config.seeds import check_seed

if TYPE_CHECKING:
    from latentslots.concepts import ConceptLibrary


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Collect the slots of many images, and cluster them into concepts."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """`bundled`, a run folder, a pipeline folder, or a hub id."""
    data: str
    """A data set; it needs no masks."""
    output_dir: str
    """Folder of the library; an earlier library there is replaced."""
    split: str = "train"
    """Split of the data set."""
    num_images: int | None = 2000
    """Use only the first images; `None` for all."""
    num_concepts: int | Literal["auto"] = 32
    """How many concepts; `auto` chooses the number with the best silhouette."""
    metric: Literal["cosine", "euclidean"] = "cosine"
    """Distance between slots."""
    min_area: float = 0.005
    """Slots that own a smaller share of their image are left out."""
    inference: tyro.conf.OmitArgPrefixes[InferenceOptions] = field(default_factory=InferenceOptions)
    """How slots are inferred."""
    seed: int = 0
    """Seed of slot noise (image i draws it from seed + i) and of clustering."""
    json: bool = False
    """Print the result as JSON."""


@dataclass(frozen=True, kw_only=True)
class Show:
    """Print the size of a concept library, and draw it: one row of crops for each concept."""

    library: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="LIBRARY")]
    """The folder of a library."""
    output: str = ""
    """Image file for the drawing; without it, nothing is drawn."""
    json: bool = False
    """Print the numbers as JSON."""


def run(arguments: list[str]) -> None:
    """Parse, and fit or show."""
    options = tyro.extras.subcommand_cli_from_dict(
        {"fit": Fit, "show": Show}, prog="latentslots concepts", args=arguments
    )
    if isinstance(options, Fit):
        _fit(options)
    else:
        _show(options)


def _fit(options: Fit) -> None:
    check_seed(options.seed)

    from latentslots.cli.model import load_pipeline
    from latentslots.concepts import INFO_NAME, ConceptLibrary
    from latentslots.data.store.reader import load_dataset
    from latentslots.files import check_output_dir

    check_output_dir(Path(options.output_dir), mark=INFO_NAME)
    dataset = load_dataset(options.data, split=options.split)
    if options.num_images is not None:
        if options.num_images < 1:
            raise ValueError(f"--num-images must be at least 1, got {options.num_images}")
        dataset = dataset.select(range(min(options.num_images, len(dataset))))
    pipe = load_pipeline(options.run, options.inference)
    library = ConceptLibrary.fit(
        pipe,
        dataset,
        options.num_concepts,
        metric=options.metric,
        min_area=options.min_area,
        seed=options.seed,
    )
    library.save(options.output_dir)
    if options.num_concepts == "auto" and not options.json:
        scores = ", ".join(f"{n}: {score:.3f}" for n, score in library.info.silhouettes.items())
        print(f"silhouette by number of concepts: {scores}")
    _print(library, as_json=options.json)


def _show(options: Show) -> None:
    from latentslots.concepts import ConceptLibrary

    library = ConceptLibrary.load(options.library)
    if options.output:
        library.show().save(options.output)
    _print(library, as_json=options.json)


def _print(library: "ConceptLibrary", *, as_json: bool) -> None:
    shares = library.shares.tolist()
    if as_json:
        content = {"concepts": library.num_concepts, "slots": len(library.slots), "shares": shares}
        print(json.dumps(content | {"silhouettes": library.info.silhouettes}))
        return
    print(
        f"{library.num_concepts} concepts of {len(library.slots):,} slots from "
        f"{library.info.num_images:,} images; shares: "
        + ", ".join(f"{share:.1%}" for share in shares)
    )
