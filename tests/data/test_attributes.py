from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from latentslots.data.store.attributes import attribute_names, read_attributes


def data_set(columns: dict[str, Any], rows: list[dict[str, list[Any]]]) -> Dataset:
    features = Features(attributes={name: List(inner) for name, inner in columns.items()})
    return Dataset.from_list([{"attributes": row} for row in rows], features=features)


def test_class_labels_strings_and_booleans_are_classes() -> None:
    dataset = data_set(
        {
            "shape": ClassLabel(names=["box", "ball"]),
            "word": Value("string"),
            "moves": Value("bool"),
        },
        [
            {"shape": [1, 0], "word": ["tin", "oak"], "moves": [True, None]},
            {"shape": [-1], "word": [None], "moves": [False]},
        ],
    )
    shape, word, moves = read_attributes(dataset)
    assert (shape.classes, shape.values) == (("box", "ball"), [[1, 0], [None]])
    assert (word.classes, word.values) == (("oak", "tin"), [[1, 0], [None]])
    assert (moves.classes, moves.values) == (("False", "True"), [[1, None], [0]])


def test_numbers_and_lists_of_numbers_are_numbers() -> None:
    inner = {"mass": Value("float32"), "box": List(List(Value("float32"))), "label": Value("int32")}
    dataset = data_set(
        inner,
        [
            {"mass": [1.5, None], "box": [[[1, 2], [3, 4]], None], "label": [7, 8]},
            {"mass": [float("nan")], "box": [[[1, 2]]], "label": [9]},
        ],
    )
    mass, box, label = read_attributes(dataset)
    assert (mass.size, mass.values) == (1, [[[1.5], None], [None]])
    assert (box.size, box.values) == (4, [[[1, 2, 3, 4], None], [None]])
    assert label.values == [[[7], [8]], [[9]]]
    assert not any(one.classes for one in (mass, box, label))


def test_some_attributes_of_some_images() -> None:
    dataset = data_set(
        {"a": Value("int32"), "b": Value("int32")}, [{"a": [i], "b": [-i]} for i in range(5)]
    )
    (b,) = read_attributes(dataset, ["b"], num_images=2)
    assert b.values == [[[0]], [[-1]]]


def test_lists_of_strings_are_not_usable() -> None:
    dataset = data_set(
        {"tags": List(Value("string")), "a": Value("int32")}, [{"tags": [["x"]], "a": [1]}]
    )
    assert attribute_names(dataset) == ["a"]


def test_missing_attributes_are_named() -> None:
    dataset = data_set({"a": Value("int32")}, [{"a": [1]}])
    with pytest.raises(ValueError, match="there is no attribute 'colour', only a"):
        read_attributes(dataset, ["colour"])
    plain = Dataset.from_list([{"x": 1}])
    assert attribute_names(plain) == []
    with pytest.raises(ValueError, match=r"probes need a column 'attributes' .* columns \['x'\]"):
        read_attributes(plain)
