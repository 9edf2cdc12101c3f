"""What a data set knows about its objects, whatever the columns are called."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Dataset, List, Value

COLUMN = "attributes"


@dataclass(frozen=True, kw_only=True)
class ObjectValues:
    """One attribute of the objects of every image.

    Attributes:
        name: Its column.
        values: By image and object (the object with id i + 1 at place i), a class from 0 or a row
            of numbers; `None` where the object does not have it.
        classes: Names of the classes; empty for numbers.
        size: How many numbers a row has; 1 for classes.
    """

    name: str
    values: list[list[Any]]
    classes: tuple[str, ...] = ()
    size: int = 1


def attribute_names(dataset: Dataset) -> list[str]:
    """Names of the attributes that `read_attributes` can read."""
    if COLUMN not in dataset.column_names:
        return []
    return [name for name, feature in _features(dataset).items() if _is_usable(feature)]


def read_attributes(
    dataset: Dataset,
    names: list[str] | None = None,
    *,
    num_images: int | None = None,
    integer_classes: bool = False,
) -> list[ObjectValues]:
    """Read attributes of the objects of the first images.

    Columns of class labels, words, truth values and codes (`uint8`) are classes; other numbers are
    numbers, and lists of them are rows of numbers.

    Args:
        dataset: Has a column `attributes`, see the store's format.
        names: Which; all when absent.
        num_images: So many images; all when absent.
        integer_classes: Whether every integer is a code, too.

    Raises:
        ValueError: If there are no attributes, or not the one asked for.
    """
    usable = attribute_names(dataset)
    if not usable:
        raise ValueError(
            "probes need a column 'attributes' with values for every object; there are only the "
            f"columns {dataset.column_names}"
        )
    for name in names or ():
        if name not in usable:
            raise ValueError(f"there is no attribute {name!r}, only {', '.join(usable)}")
    total = len(dataset) if num_images is None else min(num_images, len(dataset))
    rows = dataset.select_columns([COLUMN]).select(range(total))[COLUMN][:]  # decoded once
    features = _features(dataset)
    return [
        _read(name, features[name].feature, rows, integer_classes=integer_classes)
        for name in names or usable
    ]


def can_be_classes(dataset: Dataset, name: str) -> bool:
    """Whether the values of a usable attribute are classes, or integers, which may be codes."""
    inner = _features(dataset)[name].feature
    return isinstance(inner, ClassLabel) or _are_classes(inner, integer_classes=True)


def _features(dataset: Dataset) -> dict[str, Any]:
    return dict(dataset.features[COLUMN])


def _is_usable(feature: Any) -> bool:
    """Whether it is a list with a value, or a list of numbers, for every object."""
    if not isinstance(feature, List):
        return False
    inner = feature.feature
    if isinstance(inner, ClassLabel):
        return True
    while isinstance(inner, List):
        inner = inner.feature
        if isinstance(inner, Value) and inner.dtype == "string":
            return False
    return isinstance(inner, Value)


def _are_classes(inner: Any, *, integer_classes: bool) -> bool:
    """Whether the values themselves are classes, which no list of labels names."""
    return isinstance(inner, Value) and (
        inner.dtype in ("string", "large_string", "bool", "uint8")
        or (integer_classes and inner.dtype.startswith(("int", "uint")))
    )


def _read(name: str, inner: Any, rows: Any, *, integer_classes: bool) -> ObjectValues:
    values = [list(row[name]) if row is not None else [] for row in rows]
    if isinstance(inner, ClassLabel):
        classes = tuple(inner.names)
        labels = [[None if v is None or v < 0 else v for v in row] for row in values]
        return ObjectValues(name=name, values=labels, classes=classes)
    if _are_classes(inner, integer_classes=integer_classes):
        words = sorted({v for row in values for v in row if v is not None})
        number = {word: i for i, word in enumerate(words)}
        labels = [[None if v is None else number[v] for v in row] for row in values]
        return ObjectValues(name=name, values=labels, classes=tuple(map(str, words)))
    flat = [[_numbers(v) for v in row] for row in values]
    sizes = [len(v) for row in flat for v in row if v is not None]
    size = max(sizes, default=1)
    flat = [[v if v is not None and len(v) == size else None for v in row] for row in flat]
    return ObjectValues(name=name, values=flat, size=size)


def _numbers(value: Any) -> list[float] | None:
    """The numbers in nested lists, one after the other; `None` where one is missing."""
    if value is None:
        return None
    found = list(_flatten(value))
    return found if found and all(math.isfinite(number) for number in found) else None


def _flatten(value: Any) -> Iterator[float]:
    if isinstance(value, list):
        for part in value:
            yield from _flatten(part)
    else:
        yield math.nan if value is None else float(value)
