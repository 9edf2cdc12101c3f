"""Edits of all pictures of a session, and new pictures composed of concepts.

Dimensions: B scenes, K slots, D slot channels.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Generator

from latentslots.config.seeds import check_seed
from latentslots.files import atomic_file
from latentslots.workflows import edit_state
from latentslots.workflows.edit_operations import source, whole
from latentslots.workflows.edit_state import EditState, scene_name
from latentslots.workflows.jobs import Progress
from latentslots.workflows.other_scenes import likeness
from latentslots.workflows.session import Session
from latentslots.workflows.session_store import History


@dataclass(frozen=True)
class Composition:
    """A picture to compose.

    Attributes:
        concepts: The concepts that may occur; `None` for all.
        seed: Seed of the composition, and of the noise that painting starts from.
    """

    concepts: tuple[int, ...] | None
    seed: int


def composition(session: Session, body: Mapping[str, Any]) -> Composition:
    """Check what a page sends.

    Raises:
        ValueError: If there is no library, no such concept, or the model cannot paint.
    """
    session.painter.check()
    if session.library is None:
        raise ValueError("there is no concept library: start the editor with --concepts FOLDER")
    seed = whole(body.get("seed", 0), "seed")
    check_seed(seed)
    concepts = body.get("concepts", [])
    if not isinstance(concepts, list):
        raise ValueError(f"concepts must be a list of numbers, got {str(concepts)[:40]!r}")
    if not concepts:
        return Composition(None, seed)
    numbers = tuple(sorted({whole(one, "a concept") for one in concepts}))
    session.library.check_concepts(numbers)
    return Composition(numbers, seed)


def compose(session: Session, options: Composition, progress: Progress) -> History:
    """Compose a picture of the library's concepts, and add it to the session."""
    assert session.library is not None
    slots = session.library.sample(
        1, concepts=options.concepts, generator=Generator().manual_seed(options.seed)
    )
    image = session.painter.scene(slots, session.sampling, options.seed, progress)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    which = "" if options.concepts is None else " of " + "-".join(map(str, options.concepts))
    return session.add(buffer.getvalue(), f"composed {options.seed}{which}.png")


@dataclass(frozen=True)
class ChangeOfAll:
    """A change that is made in all pictures.

    Attributes:
        label: What it is.
        of: Makes the change of one picture.
    """

    label: str
    of: Callable[[History], Callable[[EditState], EditState]]


def change_of_all(session: Session, body: Mapping[str, Any]) -> ChangeOfAll:
    """Check what a page sends: the background of a picture, or a thing whose like is removed.

    Raises:
        ValueError: If there is no such operation, picture or thing, or the model cannot paint.
    """
    session.painter.check()
    name = body.get("operation")
    if name == "background":
        other = str(body.get("picture"))
        ground = scene_name(other, session.open(other).state.area)

        def background(history: History) -> Callable[[EditState], EditState]:
            own = history.id == other
            return lambda state: replace(state, background="" if own else ground)

        return ChangeOfAll("background", background)
    if name != "remove_like":
        raise ValueError(f"all pictures can get a background or remove_like, got {name!r}")
    text, _ = source(session, "", body)
    home, _, slot = text.rpartition(":")
    like = session.others.thing(session.path_of(home), slot)

    def remove(history: History) -> Callable[[EditState], EditState]:
        scene = session.editor(history, history.state.area).scene

        def change(state: EditState) -> EditState:
            left = [slot for slot in range(state.num_slots) if slot not in state.removed]
            most = max(left, key=likeness(scene, [like])[0].tolist().__getitem__)
            return edit_state.remove(state, [most])

        return change

    return ChangeOfAll("remove like", remove)


def apply_to_all(
    session: Session, change: ChangeOfAll, progress: Progress, notify: Callable[[str], None]
) -> dict[str, Any]:
    """Make a change in all pictures, paint them, and write the results into a new folder.

    Args:
        session: The session.
        change: The change.
        progress: Called after every picture.
        notify: Called with the id of every picture that has changed.

    Returns:
        The `folder`, how many pictures are `done`, and a sentence for each of the `problems`.
    """
    folder = session.store.new_batch()
    pictures, done, problems = session.pictures, 0, []
    for i, history in enumerate(pictures):
        still = _still(progress, i, len(pictures))
        still(0, 0)
        try:
            session.open(history.id)
            session.change(history.id, change.label, change.of(history))
            session.run(history.id, still)
            with atomic_file(folder / f"{i:03d}_{history.id}.png") as partial:
                session.image(history.id).save(partial, format="PNG")
            done += 1
        except ValueError as error:
            problems.append(f"{history.name}: {error}")
        notify(history.id)
    progress(len(pictures), len(pictures))
    return {"folder": str(folder), "done": done, "problems": problems}


def _still(progress: Progress, done: int, total: int) -> Progress:
    """Report the progress of the whole at every step of a part."""

    def step(_done: int, _total: int) -> None:
        progress(done, total)

    return step
