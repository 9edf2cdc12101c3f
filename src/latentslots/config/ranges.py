"""Ranges of numbers, annotated at their fields with annotated-types, and their check."""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

Count = Annotated[int, Ge(1)]
"""A number of things, at least one."""
CountOrNone = Annotated[int, Ge(0)]
"""A number of things or steps; 0 means none or never."""
Weight = Annotated[float, Ge(0)]
"""A weight or rate; 0 switches it off."""
Positive = Annotated[float, Gt(0)]
"""A number above 0."""
Share = Annotated[float, Ge(0), Le(1)]
"""A share of a whole."""
ShareBelowOne = Annotated[float, Ge(0), Lt(1)]
"""A share of less than the whole, or a decay."""

_REQUIREMENTS = {
    (Ge(1),): "at least 1",
    (Ge(0),): "at least 0",
    (Gt(0),): "above 0",
    (Ge(0), Le(1)): "from 0 to 1",
    (Ge(0), Lt(1)): "at least 0 and below 1",
}

# These comparisons are False for nan.
_COMPARISONS: dict[type, Callable[[Any, Any], bool]] = {
    Ge: lambda number, limit: number >= limit.ge,
    Gt: lambda number, limit: number > limit.gt,
    Le: lambda number, limit: number <= limit.le,
    Lt: lambda number, limit: number < limit.lt,
}


def check_ranges(config: Any, path: str = "") -> None:
    """Refuse numbers out of their ranges.

    Args:
        config: A dataclass of numbers, strings and other such dataclasses.
        path: Prefix of the fields' names in error messages, such as `method.`.

    Raises:
        ValueError: Names the first field that is out of its range.
    """
    hints = get_type_hints(type(config), include_extras=True)
    for field in fields(config):
        value, name = getattr(config, field.name), f"{path}{field.name}"
        if is_dataclass(value):
            check_ranges(value, f"{name}.")
            continue
        for number, limits in _limited(value, hints[field.name]):
            if not all(_COMPARISONS[type(limit)](number, limit) for limit in limits):
                raise ValueError(f"{name} must be {_REQUIREMENTS[limits]}, got {number}")


def _limited(value: Any, hint: Any) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """The numbers of a field with the limits of each."""
    if get_origin(hint) is Annotated:
        limits = tuple(m for m in hint.__metadata__ if isinstance(m, Ge | Gt | Le | Lt))
        yield value, limits
    elif get_origin(hint) is tuple:
        for each in value:
            yield from _limited(each, get_args(hint)[0])
