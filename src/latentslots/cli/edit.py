"""`latentslots edit RUN IMAGE --remove 3 --output-dir OUT`."""

import json
import sys
from dataclasses import dataclass, field
from typing import Any

import tyro

from latentslots.cli.options import InferenceOptions, PaintOptions


@dataclass(frozen=True, kw_only=True)
class Edit:
    """Change pictures object by object: take slots out, put others in, and paint the rest again.

    A SLOT is a number, as `latentslots segment` shows them, or `at` (`at1`, `at2`, ...): the slot
    under a pixel of --at. OTHER is a picture file, or the slots.safetensors of one.
    """

    run: tyro.conf.Positional[str]
    """`bundled`, a run folder, a pipeline folder, or a hub id."""
    images: tyro.conf.Positional[tuple[str, ...]]
    """Picture files, and folders of them; all are edited alike."""
    output_dir: str
    """Gets a folder for each picture: edited.png, strip.png (before, slots, after) and
    slots.safetensors; those that are there already are made again."""
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

    from latentslots.app.edit import EDITED_FILE, Editor, Edits, write_edit
    from latentslots.app.images import find_pictures, open_picture
    from latentslots.cli.model import load_pipeline
    from latentslots.data.output import check_place

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
    for path in paths if changes else []:
        check_place(Path(options.output_dir) / path.stem, mark=EDITED_FILE)
    pipe = load_pipeline(options.run, options.inference, options.painting)
    done: dict[str, Any] = {}
    problems = []
    for path in paths:
        try:
            picture = open_picture(path)
        except ValueError as error:
            problems.append(str(error))
            continue
        editor = Editor(pipe, picture, seed=options.inference.seed, slots=options.slots)
        found = editor.slots_at(options.at)
        done[picture.name] = {"slots": editor.scene.slots.shape[1], "at": found}
        if changes:
            edited = editor.apply(edits)
            after = editor.paint(
                edited,
                inversion=options.invert,
                blending=options.blend,
                guidance_scale=options.painting.guidance_scale,
                num_inference_steps=options.painting.num_inference_steps,
            )
            write_edit(editor, edited, after, Path(options.output_dir) / picture.name)
    for problem in problems:
        print(f"latentslots edit: {problem}", file=sys.stderr)
    if options.json:
        print(json.dumps({"pictures": done, "problems": problems}))
    else:
        for name, facts in done.items():
            under = "".join(
                f"; under {p}: slot {s}" for p, s in zip(options.at, facts["at"], strict=True)
            )
            print(f"{name}: {facts['slots']} slots{under}")
        if changes:
            print(f"{len(done)} pictures edited into {options.output_dir}")
    return 2 if problems else 0
