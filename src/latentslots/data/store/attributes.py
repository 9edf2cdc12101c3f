"""Reading the attributes of the objects in a data set, as classes or numbers."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Dataset, List, Value

COLUMN = "attributes"


@dataclass(frozen=True, kw_only=True)
class ObjectValues:
    """Values of one attribute for the objects of every image.

    Attributes:
        name: Name of the attribute.
        values: For each image, one value per object (item i belongs to id i + 1): a class index or
            a list of numbers; `None` if the object has no value.
        classes: Names of the classes; empty for numbers.
        size: Numbers per value; 1 for classes.
    """

    name: str
    values: list[list[Any]]
    classes: tuple[str, ...] = ()
    size: int = 1


def attribute_names(dataset: Dataset) -> list[str]:
    """List the attributes that `read_attributes` can read."""
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
    """Read attributes of the objects in the first images.

    Class labels, strings, booleans and codes (`uint8`) are read as classes; other numbers, and
    lists of numbers of equal length, as numbers.

    Args:
        dataset: A data set with a column `attributes`, as the store defines it.
        names: Attributes to read; by default all.
        num_images: Images to read; by default all.
        integer_classes: Read all integers as classes.

    Raises:
        ValueError: If the data set has no attributes, or not the requested ones.
    """
    usable = attribute_names(dataset)
    if not usable:
        raise ValueError(
            "probes need a column 'attributes' with values for every object, got the columns "
            f"{dataset.column_names}"
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
    """Whether the values of a usable attribute are classes or integers."""
    inner = _features(dataset)[name].feature
    return isinstance(inner, ClassLabel) or _are_classes(inner, integer_classes=True)


def _features(dataset: Dataset) -> dict[str, Any]:
    return dict(dataset.features[COLUMN])


def _is_usable(feature: Any) -> bool:
    """Whether an attribute is a list of values, or of lists of numbers, one per object."""
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
    """Whether values without class labels are read as classes."""
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
        distinct = sorted({v for row in values for v in row if v is not None})
        index = {value: i for i, value in enumerate(distinct)}
        labels = [[None if v is None else index[v] for v in row] for row in values]
        return ObjectValues(name=name, values=labels, classes=tuple(map(str, distinct)))
    flat = [[_numbers(v) for v in row] for row in values]
    sizes = [len(v) for row in flat for v in row if v is not None]
    size = max(sizes, default=1)
    flat = [[v if v is not None and len(v) == size else None for v in row] for row in flat]
    return ObjectValues(name=name, values=flat, size=size)


def _numbers(value: Any) -> list[float] | None:
    """Flatten nested lists of numbers; `None` if there are none, or one is not finite."""
    if value is None:
        return None
    numbers = list(_flatten(value))
    return numbers if numbers and all(map(math.isfinite, numbers)) else None


def _flatten(value: Any) -> Iterator[float]:
    if isinstance(value, list):
        for item in value:
            yield from _flatten(item)
    else:
        yield math.nan if value is None else float(value)
