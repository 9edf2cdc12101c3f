"""`latentslots edit RUN IMAGE --remove 3 --output-dir OUT`."""

import json
import sys
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

import tyro

from latentslots.cli.options import InferenceOptions
from latentslots.config.sampling import Sampling
from latentslots.config.seeds import check_seed


@dataclass(frozen=True, kw_only=True)
class Edit:
    """Edit images object by object: remove, exchange, copy, move or scale them, or insert others.

    A SLOT is a number, as `latentslots segment` shows it, or `at` (`at1`, `at2`, ...): the slot
    under a pixel of --at. OTHER is an image file, the slots.safetensors of one, or the folder of a
    concept library, whose slots are its concepts (CONCEPT, or CONCEPT.2 for the third crop).
    --move, --scale, --place and --copy require slots with frames (a model trained with
    method.glimpse-size).
    """

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """`bundled`, a run folder, a pipeline folder, or a hub id."""
    images: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="IMAGE ...")]
    """Image files, and folders of them; the edit is applied to each."""
    output_dir: str = ""
    """Folder of the results, with a folder for each image: edited.png, strip.png (before, slots,
    after), slots.safetensors and edited.json; images that already have results made in the same way
    are skipped. Not needed if nothing is edited."""
    remove: tuple[str, ...] = ()
    """SLOT: remove it."""
    remove_like: tuple[str, ...] = ()
    """OTHER:SLOT: remove the slot that is most like this one."""
    exchange: tuple[str, ...] = ()
    """SLOT=OTHER:SLOT, such as 2=other.png:5: put a slot of another image in its place."""
    replace: tuple[str, ...] = ()
    """SLOT=OTHER:SLOT: the same, but the new one stands where it stands in the other image, as
    slots without frames always do."""
    mix: tuple[str, ...] = ()
    """SLOT=OTHER:SLOT,WEIGHT, such as 2=other.png:5,0.4: mix it with a slot of another image; at
    weight 1 it is exchanged."""
    insert: tuple[str, ...] = ()
    """OTHER:SLOT: insert a slot of another image."""
    place: tuple[str, ...] = ()
    """OTHER:SLOT=X,Y, such as other.png:2=40,20: insert a slot of another image, centered at a
    pixel; with X,Y,FACTOR, scaled as well."""
    copy: tuple[str, ...] = ()
    """SLOT=X,Y, such as 3=40,20: insert a copy of it, centered at a pixel; with X,Y,FACTOR, scaled
    as well."""
    move: tuple[str, ...] = ()
    """SLOT=X,Y, such as 3=+12,-4: move it by pixels to the right and down. What leaves the image is
    gone."""
    scale: tuple[str, ...] = ()
    """SLOT=FACTOR, such as 3=1.4: enlarge or shrink it."""
    swap_background: str = ""
    """OTHER: replace the background by that of another image."""
    at: tuple[str, ...] = ()
    """X,Y in pixels of the image: `at` stands for the slot at this pixel; without an edit, its
    number is printed."""
    slots: str = ""
    """slots.safetensors with the image's slots, instead of encoding it."""
    area: str = ""
    """X,Y,W,H in pixels of the image: the square that is edited, so that small objects fill it; by
    default the largest one in the center. Other edits can follow in other squares."""
    model_size: bool = False
    """Write the edited square at the size of the model, instead of the whole image at its own."""
    invert: bool = False
    """Start from the noise that the image itself comes from (DDIM inversion), instead of random
    noise."""
    resample: int | None = None
    """Seed of the noise that painting starts from, for another result of the same edit; --seed also
    draws the slots anew, in another order."""
    blend: bool = True
    """Keep the image where the edit does not change it."""
    inference: tyro.conf.OmitArgPrefixes[InferenceOptions] = field(default_factory=InferenceOptions)
    """How slots are inferred."""
    sampling: tyro.conf.OmitArgPrefixes[Sampling] = field(default_factory=Sampling)
    """How images are sampled."""
    json: bool = False
    """Print what was done as JSON."""


def run(arguments: list[str]) -> int:
    """Parse, edit every image, and print what was done; 2 if an image could not be edited."""
    options = tyro.cli(Edit, prog="latentslots edit", args=arguments)
    options.sampling.check()
    if options.resample is not None:
        check_seed(options.resample)

    from pathlib import Path

    from latentslots.cli.model import load_pipeline
    from latentslots.workflows.edit import edit_files
    from latentslots.workflows.edit_arguments import EditArguments, parse_area
    from latentslots.workflows.image_files import find_image_files

    names = [field.name for field in fields(EditArguments) if field.name != "at"]
    edit = EditArguments(at=options.at, **{name: getattr(options, name) for name in names})
    changes = any(getattr(options, name) for name in names)
    if not changes and not options.at:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in names)
        raise ValueError(f"there is nothing to do: pass {flags} or --at")
    if changes and not options.output_dir:
        raise ValueError("--output-dir is required: the folder of the edited images")
    paths = find_image_files(options.images)
    if options.slots and len(paths) > 1:
        raise ValueError(f"--slots holds the slots of one image, but there are {len(paths)}")
    area = parse_area(options.area) if options.area else None
    pipe = load_pipeline(options.run, options.inference, options.sampling)
    if not changes:
        return _print_slots(options, pipe, paths, area)
    out = Path(options.output_dir)
    result = edit_files(
        pipe,
        paths,
        out,
        edit,
        options.sampling,
        inversion=options.invert,
        blending=options.blend,
        slots=options.slots,
        area=area,
        full_size=not options.model_size,
        resample=options.resample,
    )
    line = f"{len(result.done)} images edited into {out}, {len(result.skipped)} skipped"
    return _print(options, result.to_dict(), [line])


def _print_slots(options: Edit, pipe: Any, paths: list[Any], area: Any) -> int:
    """Print the slots under the pixels of --at."""
    from latentslots.workflows.edit import slots_under

    seed = options.sampling.seed
    images, problems = slots_under(
        pipe, paths, options.at, seed=seed, slots=options.slots, area=area
    )
    lines = []
    for name, facts in images.items():
        pairs = zip(options.at, facts["at"], strict=True)
        under = [f"; under {pixel}: slot {slot}" for pixel, slot in pairs]
        lines.append(f"{name}: {facts['slots']} slots" + "".join(under))
    return _print(options, {"pictures": images, "problems": problems}, lines)


def _print(options: Edit, result: dict[str, Any], lines: list[str]) -> int:
    for problem in result["problems"]:
        print(f"latentslots edit: {problem}", file=sys.stderr)
    print(json.dumps(result) if options.json else "\n".join(lines))
    return 2 if result["problems"] else 0
