"""A bounded form of `python -m tests.fuzz`."""

import random

import pytest

from tests.fuzz import READERS, fuzz, mutate

COUNTS = {"store": 60, "manifest": 40, "coco": 60, "clevr": 60}
"""Of readers that write a store for every input; 200 of the others."""


@pytest.mark.parametrize("name", READERS)
def test_mutated_inputs_are_refused_or_read(name: str) -> None:
    numbers = fuzz(name, COUNTS.get(name, 200))
    assert numbers["refused"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTS)
def test_as_many_inputs_of_slow_readers(name: str) -> None:
    assert fuzz(name, 200)["refused"] > 0


def test_mutations_depend_on_the_seed_alone() -> None:
    content = bytes(range(256))
    one, two, other = (mutate(content, random.Random(seed)) for seed in (1, 1, 2))
    assert one == two != other
