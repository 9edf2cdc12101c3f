"""The state of an edit in the editor, and the operations that lead from one to the next.

Things are numbered: the slots of the picture come first, then what was added, in its order. A
number stays the same until something added is removed. `Source` names a slot elsewhere: `ID:SLOT`
of another picture, `ID@LEFT,TOP,RIGHT,BOTTOM:SLOT` of a square of it, `library:CONCEPT.RANK` of the
concept library.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from latentslots.config.sampling import Sampling
from latentslots.pipelines.full_size import Area
from latentslots.workflows.edit_arguments import EditArguments

LIBRARY = "library"
"""Stands for the concept library in a source."""
SMALLEST, LARGEST = 0.05, 20.0
"""Factors by which things can be scaled, altogether."""

Source = str
PathOf = Callable[[str], str]
"""Maps the name of a scene in a source, such as the id of a picture or `library`, to a path."""


def scene_name(picture: str, area: Area | None) -> str:
    """The name of the scene of a picture, or of a square of it, in a source."""
    return picture if area is None or not picture else f"{picture}@{','.join(map(str, area))}"


def parse_scene_name(name: str) -> tuple[str, Area | None]:
    """The inverse of `scene_name`."""
    picture, _, edges = name.partition("@")
    if not edges:
        return picture, None
    left, top, right, bottom = map(int, edges.split(","))
    return picture, (left, top, right, bottom)


@dataclass(frozen=True, kw_only=True)
class Added:
    """A thing that was put in.

    Attributes:
        source: Where it comes from; `:SLOT` for the picture itself.
        x: The pixel of its center, from the left; `None` for slots without frames.
        y: The same, from the top.
        factor: Its size by that in its picture.
    """

    source: Source
    x: int | None = None
    y: int | None = None
    factor: float = 1.0

    @property
    def flag(self) -> str:
        """The flag of `latentslots edit` that adds it."""
        if self.x is None:
            return "insert"
        return "copy" if self.source.startswith(":") else "place"


@dataclass(frozen=True, kw_only=True)
class EditState:
    """What an edit changes in a picture, and how the result is painted.

    Attributes:
        num_slots: Slots of the picture.
        removed: Slots that are taken out.
        moved: For each slot that moves, how far to the right and down, in pixels.
        scaled: For each slot that changes its size, its new size by its old.
        exchanged: For each slot that is exchanged, what stands in its place.
        mixed: For each slot that is mixed, with what, and the weight of that.
        added: What is put in.
        background: The picture whose background is used; empty for its own.
        area: The square that is edited, as left, top, right and bottom; the central one if `None`.
        invert: Whether painting starts from the noise that the picture itself comes from.
        resample: Seed of the noise that painting starts from; that of `sampling` if `None`.
        sampling: How the result is painted; its seed is that of the slot noise, too.
    """

    num_slots: int
    removed: tuple[int, ...] = ()
    moved: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    scaled: Mapping[int, float] = field(default_factory=dict)
    exchanged: Mapping[int, Source] = field(default_factory=dict)
    mixed: Mapping[int, tuple[Source, float]] = field(default_factory=dict)
    added: tuple[Added, ...] = ()
    background: str = ""
    area: Area | None = None
    invert: bool = False
    resample: int | None = None
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def things(self) -> list[int]:
        """The numbers of all things that are in the picture now, in the order of its slots."""
        slots = [slot for slot in range(self.num_slots) if slot not in self.removed]
        order = ("insert", "place", "copy")  # as `SlotEdit.of` appends them
        added = sorted(range(len(self.added)), key=lambda i: (order.index(self.added[i].flag), i))
        return slots + [self.num_slots + i for i in added]

    @property
    def changes(self) -> bool:
        """Whether anything is edited."""
        same = EditState(num_slots=self.num_slots, sampling=self.sampling)
        return replace(self, area=None, invert=False, resample=None) != same

    @property
    def scenes(self) -> set[str]:
        """The names of the other scenes that things come from."""
        sources = [*self.exchanged.values(), *(source for source, _ in self.mixed.values())]
        sources += [one.source for one in self.added]
        return {*(source.rpartition(":")[0] for source in sources), self.background} - {""}

    @property
    def noise_seed(self) -> int:
        """Seed of the noise that painting starts from."""
        return self.sampling.seed if self.resample is None else self.resample

    def check(self, things: Iterable[int]) -> list[int]:
        """Check numbers of things.

        Raises:
            ValueError: If one is not in the picture.
        """
        numbers, known = list(things), self.things
        for number in numbers:
            if number not in known:
                raise ValueError(f"there is no thing {number} in this picture")
        return numbers

    def arguments(self, path_of: PathOf) -> EditArguments:
        """The same edit as arguments of `latentslots edit`.

        Args:
            path_of: The paths of pictures and of the library.
        """

        def thing(source: Source) -> str:
            name, _, slot = source.rpartition(":")
            return f"{path_of(name)}:{slot}"

        def added(flag: str) -> list[str]:
            return [_placed(one, thing) for one in self.added if one.flag == flag]

        return EditArguments(
            remove=[str(slot) for slot in self.removed],
            exchange=[f"{slot}={thing(source)}" for slot, source in self.exchanged.items()],
            mix=[f"{slot}={thing(s)},{_number(w)}" for slot, (s, w) in self.mixed.items()],
            insert=added("insert"),
            place=added("place"),
            copy=added("copy"),
            move=[
                f"{slot}={_number(x, signed=True)},{_number(y, signed=True)}"
                for slot, (x, y) in self.moved.items()
            ],
            scale=[f"{slot}={_number(factor)}" for slot, factor in self.scaled.items()],
            swap_background=path_of(self.background) if self.background else "",
        )

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "EditState":
        """The inverse of `to_dict`; JSON turns keys into strings, and tuples into lists."""
        return cls(
            num_slots=int(content["num_slots"]),
            removed=tuple(content["removed"]),
            moved={int(k): (x, y) for k, (x, y) in content["moved"].items()},
            scaled={int(k): factor for k, factor in content["scaled"].items()},
            exchanged={int(k): source for k, source in content["exchanged"].items()},
            mixed={int(k): (source, weight) for k, (source, weight) in content["mixed"].items()},
            added=tuple(Added(**one) for one in content["added"]),
            background=content["background"],
            area=None if content["area"] is None else tuple(content["area"]),
            invert=content["invert"],
            resample=content["resample"],
            sampling=Sampling(**content["sampling"]),
        )


def remove(state: EditState, things: Iterable[int]) -> EditState:
    """Take things out.

    Raises:
        ValueError: If one is not there, or nothing would be left.
    """
    numbers = set(state.check(things))
    if len(numbers) == len(state.things):
        raise ValueError("at least one thing must be left in the picture")
    slots = {number for number in numbers if number < state.num_slots}
    kept = (one for i, one in enumerate(state.added, state.num_slots) if i not in numbers)
    return replace(
        state,
        removed=tuple(sorted({*state.removed, *slots})),
        moved=_without(state.moved, slots),
        scaled=_without(state.scaled, slots),
        exchanged=_without(state.exchanged, slots),
        mixed=_without(state.mixed, slots),
        added=tuple(kept),
    )


def move(state: EditState, things: Iterable[int], x: float, y: float) -> EditState:
    """Move things by pixels to the right and down, from where they are now."""
    moved, added = dict(state.moved), list(state.added)
    for number in state.check(things):
        if number < state.num_slots:
            before = moved.get(number, (0.0, 0.0))
            moved[number] = (_round(before[0] + x), _round(before[1] + y))
        else:
            one = _with_frame(added[number - state.num_slots])
            assert one.x is not None
            assert one.y is not None
            moved_one = replace(one, x=round(one.x + x), y=round(one.y + y))
            added[number - state.num_slots] = moved_one
    moved = {number: by for number, by in moved.items() if by != (0, 0)}
    return replace(state, moved=moved, added=tuple(added))


def scale(state: EditState, things: Iterable[int], factor: float) -> EditState:
    """Enlarge or shrink things by a factor, from the size they have now.

    Raises:
        ValueError: If one is not there, or would become too small or too large.
    """
    scaled, added = dict(state.scaled), list(state.added)
    for number in state.check(things):
        if number < state.num_slots:
            scaled[number] = _factor(scaled.get(number, 1.0) * factor)
        else:
            one = _with_frame(added[number - state.num_slots])
            new = _factor(one.factor * factor)
            added[number - state.num_slots] = replace(one, factor=new)
    scaled = {number: by for number, by in scaled.items() if by != 1}
    return replace(state, scaled=scaled, added=tuple(added))


def exchange(state: EditState, thing: int, source: Source) -> EditState:
    """Put something else in the place of a thing."""
    (number,) = state.check([thing])
    if number >= state.num_slots:
        added = list(state.added)
        index = number - state.num_slots
        added[index] = replace(added[index], source=source)
        return replace(state, added=tuple(added))
    exchanged = {**state.exchanged, number: source}
    return replace(state, exchanged=exchanged, mixed=_without(state.mixed, {number}))


def mix(state: EditState, thing: int, source: Source, weight: float) -> EditState:
    """Mix a slot with something else.

    Raises:
        ValueError: If it is not there, was added, or the weight is not from 0 to 1.
    """
    (number,) = state.check([thing])
    if not 0 <= weight <= 1:
        raise ValueError(f"the weight of a mixture must be from 0 to 1, got {weight:g}")
    if number >= state.num_slots:
        raise ValueError("what was added cannot be mixed; exchange it instead")
    mixed = {**_without(state.mixed, {number}), number: (source, _round(weight))}
    if weight == 0:
        del mixed[number]
    return replace(state, mixed=mixed, exchanged=_without(state.exchanged, {number}))


def add(
    state: EditState, source: Source, x: int | None, y: int | None, factor: float = 1.0
) -> EditState:
    """Put something in, with its center at a pixel; without one, where it is in its picture."""
    one = Added(source=source, x=x, y=y, factor=_factor(factor))
    return replace(state, added=(*state.added, one))


def source_of(state: EditState, picture: str, thing: int) -> tuple[Source, float]:
    """Where a thing of a picture comes from, to add it elsewhere, and its factor.

    Args:
        state: The picture's edit.
        picture: The picture's id; empty to add it to the picture itself.
        thing: The thing.
    """
    (number,) = state.check([thing])
    if number < state.num_slots:
        own = f"{scene_name(picture, state.area)}:{number}"
        return state.exchanged.get(number, own), state.scaled.get(number, 1.0)
    one = state.added[number - state.num_slots]
    if one.source.startswith(":"):
        return scene_name(picture, state.area) + one.source, one.factor
    return one.source, one.factor


def _with_frame(one: Added) -> Added:
    if one.x is None:
        raise ValueError("the slots of this model have no frames, so things cannot be moved")
    return one


def _without(mapping: Mapping[int, Any], numbers: Iterable[int]) -> dict[int, Any]:
    gone = set(numbers)
    return {number: value for number, value in mapping.items() if number not in gone}


def _factor(factor: float) -> float:
    if not SMALLEST <= factor <= LARGEST:
        raise ValueError(
            f"things can be scaled to {SMALLEST:g} to {LARGEST:g} times their size, "
            f"got {factor:.3g}"
        )
    return _round(factor)


def _round(value: float) -> float:
    """Round as the command line prints it."""
    return round(value, 3)


def _number(value: float, *, signed: bool = False) -> str:
    text = f"{value:+.3f}" if signed else f"{value:.3f}"
    return text.rstrip("0").rstrip(".")


def _placed(one: Added, thing: Callable[[Source], str]) -> str:
    what = one.source[1:] if one.flag == "copy" else thing(one.source)
    if one.x is None:
        return what
    return f"{what}={one.x},{one.y}" + (f",{_number(one.factor)}" if one.factor != 1 else "")
