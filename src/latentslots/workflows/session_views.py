"""What a page shows of an editing session: things, their map and cutouts, and the command.

Dimensions: h w the square that the model sees.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from latentslots import editing
from latentslots.config.sampling import Sampling
from latentslots.pipelines.slot_output import upsample_masks
from latentslots.workflows.edit import Editor
from latentslots.workflows.edit_state import LIBRARY, EditState, parse_scene_name, scene_name
from latentslots.workflows.session import Session

MAX_MAP = 512
"""Pixels per side of a map of slots, at most."""


@dataclass(frozen=True)
class ThingView:
    """What a page shows of a thing.

    Attributes:
        number: Its number.
        share: The share of the square that it owns.
        box: Left, top, right and bottom in pixels of the picture; `None` if it owns none.
        is_background: Whether it is the background.
        is_added: Whether it was put in.
        source: Where it comes from, if from elsewhere.
    """

    number: int
    share: float
    box: tuple[int, int, int, int] | None
    is_background: bool
    is_added: bool
    source: str


def slot_map(
    session: Session, identity: str, state: EditState | None = None
) -> UInt8[np.ndarray, "h w"]:
    """The number of the thing in each pixel of the square, in the current state or another one."""
    state = state or session.open(identity).state
    editor, edit = session.edit_of(identity, state)
    left, _, right, _ = editor.file.square
    side = min(right - left, MAX_MAP)
    order = torch.tensor(state.things, dtype=torch.uint8)
    masks = upsample_masks(edit.after.masks, side)[0]
    ids: UInt8[np.ndarray, "h w"] = order[masks.argmax(dim=0).cpu()].numpy()
    return ids


def things(session: Session, identity: str) -> list[ThingView]:
    """All things of a picture in its current state, in the order of their numbers."""
    history = session.open(identity)
    state, ids = history.state, slot_map(session, identity)
    square = session.editor(history, state.area).file.square
    numbers = sorted(state.things)
    ground = max(numbers, key=lambda number: int((ids == number).sum()))
    views = []
    for number in numbers:
        source = state.exchanged.get(number, "")
        if number >= state.num_slots:
            source = state.added[number - state.num_slots].source
        owned = ids == number
        views.append(
            ThingView(
                number=number,
                share=round(float(owned.mean()), 4),
                box=_box(owned, square),
                is_background=number == ground,
                is_added=number >= state.num_slots,
                source=source,
            )
        )
    return views


def _box(owned: np.ndarray, square: tuple[int, int, int, int]) -> tuple[int, int, int, int] | None:
    """The box around pixels of the square, in pixels of the picture."""
    rows, columns = owned.nonzero()
    if not len(rows):
        return None
    left, top, right, _ = square
    unit = (right - left) / owned.shape[0]
    return (
        left + round(float(columns.min()) * unit),
        top + round(float(rows.min()) * unit),
        left + round(float(columns.max() + 1) * unit),
        top + round(float(rows.max() + 1) * unit),
    )


def cutout(session: Session, identity: str, number: int) -> Image.Image:
    """A thing cut out of the picture that it comes from, with transparent surroundings.

    Raises:
        ValueError: If there is no such thing.
    """
    history = session.open(identity)
    state = history.state
    source = state.exchanged.get(number, f":{number}")
    if number >= state.num_slots:
        if number - state.num_slots >= len(state.added):
            raise ValueError(f"there is no thing {number} in this picture")
        source = state.added[number - state.num_slots].source
    name, _, slot = source.rpartition(":")
    if name == LIBRARY:
        return concept_crop(session, slot).convert("RGBA")
    home, area = parse_scene_name(name or scene_name(identity, state.area))
    editor = session.editor(session.open(home), area)
    if int(slot) >= editor.scene.slots.shape[1]:
        raise ValueError(f"there is no thing {number} in this picture")
    return _cut_out(editor, int(slot))


def concept_crop(session: Session, text: str) -> Image.Image:
    """The crop of a concept, CONCEPT or CONCEPT.RANK.

    Raises:
        ValueError: If there is none.
    """
    concept, _, rank = text.partition(".")
    crops = session.library.crops if session.library is not None else ()
    if not (concept.isdecimal() and int(concept) < len(crops)):
        raise ValueError(f"there is no concept {text!r}")
    shown = crops[int(concept)]
    return shown[min(int(rank) if rank.isdecimal() else 0, len(shown) - 1)]


def _cut_out(editor: Editor, slot: int) -> Image.Image:
    """Cut a slot out of its picture, with its pixels as opacity."""
    left, _, right, _ = editor.file.square
    side = min(right - left, MAX_MAP)  # masks of a whole photograph would be gigabytes
    owned = editing.owned_pixels(upsample_masks(editor.scene.masks, side), slot)[0].numpy()
    box = _box(owned, editor.file.square)
    if box is None:
        return Image.new("RGBA", (1, 1))
    rows, columns = owned.nonzero()
    opaque = owned[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    cut = editor.file.image.crop(box).convert("RGBA")
    opacity = Image.fromarray((opaque * 255).astype(np.uint8))
    cut.putalpha(opacity.resize(cut.size, Image.Resampling.NEAREST))
    return cut


def command(
    session: Session,
    identity: str,
    model: str,
    images: Sequence[str] = (),
    *,
    options: Sequence[str] = (),
) -> str:
    """The `latentslots edit` command that makes the current state of a picture.

    Args:
        session: The session.
        identity: The picture.
        model: The model's name.
        images: Other pictures, or folders, to apply it to.
        options: Flags of how slots are inferred.

    Raises:
        ValueError: If nothing is edited.
    """

    def origin(name: str) -> str:
        path = session.path_of(name)
        if name in ("", LIBRARY) or path.endswith(".safetensors"):
            return path
        return session.picture(name).origin or path

    history = session.open(identity)
    state = history.state
    if not state.changes:
        raise ValueError("nothing is edited in this picture, so there is no command for it")
    own = history.origin or str(session.store.path(history))
    words = ["latentslots", "edit", model, *(images or [own])]
    words += state.arguments(origin).flags()
    if (slots := session.store.slots_path(history)) and not images:
        words += ["--slots", str(slots)]
    if state.area is not None:
        left, top, right, bottom = state.area
        words += ["--area", f"{left},{top},{right - left},{bottom - top}"]
    if state.invert:
        words += ["--invert"]
    if state.resample is not None:
        words += ["--resample", str(state.resample)]
    for name in ("sampler", "num_inference_steps", "guidance_scale", "seed"):
        if (value := getattr(state.sampling, name)) != getattr(Sampling(), name):
            words += ["--" + name.replace("_", "-"), str(value)]
    return shlex.join([*words, *options, "--output-dir", "edited"])
