"""`latentslots edit RUN IMAGE --remove 3 --output-dir OUT`."""

import json
import sys
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from latentslots.cli.options import InferenceOptions, PaintOptions


@dataclass(frozen=True, kw_only=True)
class Edit:
    """Change pictures object by object: take slots out, put others in, and paint the rest again.

    A SLOT is a number, as `latentslots segment` shows them, or `at` (`at1`, `at2`, ...): the slot
    under a pixel of --at. OTHER is a picture file, or the slots.safetensors of one.
    """

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """`bundled`, a run folder, a pipeline folder, or a hub id."""
    images: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="IMAGE ...")]
    """Picture files, and folders of them; all are edited alike."""
    output_dir: str
    """Gets a folder for each picture: edited.png, strip.png (before, slots, after),
    slots.safetensors and edited.json; those that are there already, made alike, are skipped."""
    remove: tuple[str, ...] = ()
    """SLOT: take it away."""
    replace: tuple[str, ...] = ()
    """SLOT=OTHER:SLOT, such as 2=other.png:5: put a slot of another picture in its place."""
    insert: tuple[str, ...] = ()
    """OTHER:SLOT: add a slot of another picture."""
    swap_background: str = ""
    """OTHER: take its background."""
    at: tuple[str, ...] = ()
    """X,Y in pixels of the picture: call the slot there `at`; without an edit, print its number."""
    slots: str = ""
    """The picture's slots as they were saved, instead of finding them."""
    invert: bool = False
    """Start from the noise that the picture itself comes from, instead of noise from the seed."""
    blend: bool = True
    """Keep the picture where nothing was or shall be."""
    inference: tyro.conf.OmitArgPrefixes[InferenceOptions] = field(default_factory=InferenceOptions)
    """How slots are found."""
    painting: tyro.conf.OmitArgPrefixes[PaintOptions] = field(default_factory=PaintOptions)
    """How pictures are painted."""
    json: bool = False
    """Print what was done as JSON."""


def run(arguments: list[str]) -> int:
    """Parse, edit every picture, and say what was done."""
    options = tyro.cli(Edit, prog="latentslots edit", args=arguments)

    from pathlib import Path

    from latentslots.cli.model import load_pipeline
    from latentslots.workflows.edit import Edits, Painting, edit_files, slots_under
    from latentslots.workflows.image_files import find_pictures

    edits = Edits(
        remove=options.remove,
        replace=options.replace,
        insert=options.insert,
        swap_background=options.swap_background,
        at=options.at,
    )
    changes = options.remove or options.replace or options.insert or options.swap_background
    if not changes and not options.at:
        raise ValueError(
            "there is nothing to do: give --remove, --replace, --insert, --swap-background or --at"
        )
    paths = find_pictures(options.images)
    if options.slots and len(paths) > 1:
        raise ValueError(f"--slots are those of one picture, but there are {len(paths)}")
    pipe = load_pipeline(options.run, options.inference, options.painting)
    seed = options.inference.seed
    if not changes:
        found, problems = slots_under(pipe, paths, options.at, seed=seed, slots=options.slots)
        result: dict[str, Any] = {"pictures": found, "problems": problems}
        lines = [
            f"{name}: {facts['slots']} slots"
            + "".join(
                f"; under {p}: slot {s}" for p, s in zip(options.at, facts["at"], strict=True)
            )
            for name, facts in found.items()
        ]
    else:
        painting = Painting(
            inversion=options.invert,
            blending=options.blend,
            guidance_scale=options.painting.guidance_scale,
            num_inference_steps=options.painting.num_inference_steps,
        )
        out = Path(options.output_dir)
        outcome = edit_files(pipe, paths, out, edits, painting, seed=seed, slots=options.slots)
        result, problems = outcome.to_dict(), outcome.problems
        lines = [f"{len(outcome.done)} pictures edited into {out}, {len(outcome.skipped)} skipped"]
    for problem in problems:
        print(f"latentslots edit: {problem}", file=sys.stderr)
    print(json.dumps(result) if options.json else "\n".join(lines))
    return 2 if problems else 0
