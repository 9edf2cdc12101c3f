"""Operations of the editor's page: JSON that names one, checked and turned into a change.

    {"operation": "move", "things": [3], "x": 12, "y": -4}

A thing elsewhere is `{"picture": ID, "thing": NUMBER}` or `{"concept": NUMBER, "rank": NUMBER}`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from latentslots.config.seeds import check_seed
from latentslots.pipelines.full_size import Area
from latentslots.workflows import edit_state
from latentslots.workflows.edit_state import LIBRARY, EditState, Source, scene_name
from latentslots.workflows.session import Session
from latentslots.workflows.session_store import History

Body = Mapping[str, Any]
Change = Callable[[EditState], EditState]

SLIDERS = ("num_inference_steps", "guidance_scale")
MAX_STEPS = 1_000
MAX_GUIDANCE = 20.0
LARGEST_NUMBER = 1e12


def apply(session: Session, identity: str, body: Body) -> History:
    """Apply an operation to a picture.

    Args:
        session: The session.
        identity: The picture.
        body: The operation, as a page sends it.

    Raises:
        ValueError: If there is no such operation, or it is not possible.
    """
    name = body.get("operation")
    if name == "area":
        return session.set_area(identity, _area(body.get("area")))
    if not isinstance(name, str) or name not in OPERATIONS:
        known = ", ".join([*OPERATIONS, "area"])
        raise ValueError(f"there is no operation {name!r}, only {known}")
    change = OPERATIONS[name](session, identity, body)
    label = name
    if name == "sampling":  # the steps of one slider become one, until it has been painted
        label = "+".join(key for key in SLIDERS if key in body) or name
    return session.change(identity, label, change, merge=label in SLIDERS)


def number(value: Any, name: str) -> float:
    """Check a number.

    Raises:
        ValueError: If it is none, or not finite.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not -LARGEST_NUMBER <= value <= LARGEST_NUMBER:
        raise ValueError(f"{name} must be a number, got {str(value)[:40]!r}")
    return float(value)


def whole(value: Any, name: str) -> int:
    """Check a whole number.

    Raises:
        ValueError: If it is none.
    """
    if number(value, name) != int(value):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    return int(value)


def source(session: Session, identity: str, body: Body) -> tuple[Source, float]:
    """The thing that an operation puts in, and the factor of its size.

    Args:
        session: The session.
        identity: The picture that it is put into.
        body: The operation.

    Raises:
        ValueError: If there is no such thing.
    """
    other = body.get("source")
    if not isinstance(other, Mapping):
        raise ValueError(f"source must name a thing of a picture, or a concept, got {other!r}")
    if "concept" in other:
        concept, rank = (whole(other.get(name, 0), name) for name in ("concept", "rank"))
        text = f"{concept}.{rank}" if rank else str(concept)
        session.others.thing(session.path_of(LIBRARY), text)
        return f"{LIBRARY}:{text}", 1.0
    home = str(other.get("picture"))
    state = session.open(home).state
    thing = whole(other.get("thing"), "thing")
    return edit_state.source_of(state, "" if home == identity else home, thing)


def _area(edges: Any) -> Area | None:
    if edges is None:
        return None
    if not isinstance(edges, list) or len(edges) != 4:
        raise ValueError(f"an area has four edges, got {edges!r}")
    left, top, right, bottom = (whole(edge, "an edge") for edge in edges)
    return (left, top, right, bottom)


def _things(body: Body) -> list[int]:
    things = body.get("things")
    if not isinstance(things, list) or not things:
        raise ValueError(f"things must be a list of numbers, got {things!r}")
    return [whole(one, "a thing") for one in things]


def _one_thing(body: Body) -> int:
    things = _things(body)
    if len(things) != 1:
        raise ValueError(f"one thing at a time can be exchanged or mixed, got {len(things)}")
    return things[0]


def _remove(session: Session, identity: str, body: Body) -> Change:
    return partial(edit_state.remove, things=_things(body))


def _move(session: Session, identity: str, body: Body) -> Change:
    x, y = (number(body.get(name), name) for name in ("x", "y"))
    return partial(edit_state.move, things=_things(body), x=x, y=y)


def _scale(session: Session, identity: str, body: Body) -> Change:
    factor = number(body.get("factor"), "factor")
    return partial(edit_state.scale, things=_things(body), factor=factor)


def _exchange(session: Session, identity: str, body: Body) -> Change:
    thing, (new, _) = _one_thing(body), source(session, identity, body)
    return partial(edit_state.exchange, thing=thing, source=_absolute(session, new, identity))


def _mix(session: Session, identity: str, body: Body) -> Change:
    thing, (new, _) = _one_thing(body), source(session, identity, body)
    weight = number(body.get("weight"), "weight")
    new = _absolute(session, new, identity)
    return partial(edit_state.mix, thing=thing, source=new, weight=weight)


def _add(session: Session, identity: str, body: Body) -> Change:
    new, factor = source(session, identity, body)
    if not session.pipe.has_frames:
        return partial(edit_state.add, source=_absolute(session, new, identity), x=None, y=None)
    x, y = (round(number(body.get(name), name)) for name in ("x", "y"))
    return partial(edit_state.add, source=new, x=x, y=y, factor=factor)


def _background(session: Session, identity: str, body: Body) -> Change:
    other = body.get("picture")
    area = None
    if other is not None:
        area = session.open(str(other)).state.area
    new = "" if other is None or other == identity else scene_name(str(other), area)
    return lambda state: replace(state, background=new)


def _sampling(session: Session, identity: str, body: Body) -> Change:
    changes: dict[str, Any] = {}
    if "num_inference_steps" in body:
        steps = whole(body["num_inference_steps"], "num_inference_steps")
        if not 1 <= steps <= MAX_STEPS:
            raise ValueError(f"num_inference_steps must be from 1 to {MAX_STEPS}, got {steps}")
        changes["num_inference_steps"] = steps
    if "guidance_scale" in body:
        guidance = number(body["guidance_scale"], "guidance_scale")
        if not 0 <= guidance <= MAX_GUIDANCE:
            raise ValueError(f"guidance_scale must be from 0 to {MAX_GUIDANCE:g}, got {guidance:g}")
        changes["guidance_scale"] = guidance
    resample: dict[str, Any] = {}
    if "resample" in body:
        value = body["resample"]
        resample["resample"] = None if value is None else whole(value, "resample")
        check_seed(resample["resample"] or 0)
    if "invert" in body:
        resample["invert"] = bool(body["invert"])
    if not changes and not resample:
        raise ValueError("sampling names num_inference_steps, guidance_scale, resample or invert")
    return lambda state: replace(state, sampling=replace(state.sampling, **changes), **resample)


def _reset(session: Session, identity: str, body: Body) -> Change:
    return lambda state: EditState(
        num_slots=state.num_slots, area=state.area, sampling=session.sampling
    )


def _absolute(session: Session, new: Source, identity: str) -> Source:
    """A source that names its picture, and its square."""
    if not new.startswith(":"):
        return new
    return scene_name(identity, session.open(identity).state.area) + new


OPERATIONS: dict[Any, Callable[[Session, str, Body], Change]] = {
    "remove": _remove,
    "move": _move,
    "scale": _scale,
    "exchange": _exchange,
    "mix": _mix,
    "add": _add,
    "background": _background,
    "sampling": _sampling,
    "reset": _reset,
}
"""What leads from the operation to a change of the state."""
