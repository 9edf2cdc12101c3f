from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from latentslots import editing


@pytest.fixture
def slots() -> Tensor:
    return torch.randn(2, 5, 8)


@pytest.fixture
def other() -> Tensor:
    return torch.randn(2, 3, 8)


@pytest.mark.parametrize("index", range(5))
def test_removed_and_put_back_is_nothing_done(slots: Tensor, index: int) -> None:
    without = editing.remove(slots, index)
    assert without.shape == (2, 4, 8)
    assert torch.equal(editing.insert(without, slots[:, index], index), slots)


def test_several_can_go_in_any_order(slots: Tensor) -> None:
    assert torch.equal(editing.remove(slots, [3, 0]), slots[:, [1, 2, 4]])
    assert torch.equal(editing.remove(slots, []), slots)


def test_what_is_inserted_comes_last_unless_told(slots: Tensor, other: Tensor) -> None:
    assert torch.equal(editing.insert(slots, other), torch.cat([slots, other], dim=1))
    assert torch.equal(editing.insert(slots, other[:, 1], 0)[:, 0], other[:, 1])


def test_a_replaced_slot_leaves_the_others_bit_equal(slots: Tensor, other: Tensor) -> None:
    before = slots.clone()
    edited = editing.replace(slots, [4, 1], other[:, :2])
    assert torch.equal(edited[:, [4, 1]], other[:, :2])
    assert torch.equal(edited[:, [0, 2, 3]], slots[:, [0, 2, 3]])
    assert torch.equal(slots, before), "the input stays as it is"


def test_swapped_twice_is_nothing_done(slots: Tensor, other: Tensor) -> None:
    mine, theirs = editing.swap(slots, [0, 3], other, [2, 1])
    assert torch.equal(mine[:, [0, 3]], other[:, [2, 1]])
    assert torch.equal(theirs[:, [2, 1]], slots[:, [0, 3]])
    mine, theirs = editing.swap(mine, [0, 3], theirs, [2, 1])
    assert torch.equal(mine, slots)
    assert torch.equal(theirs, other)


def test_gradients_flow_to_what_is_kept_and_what_is_new(slots: Tensor, other: Tensor) -> None:
    slots.requires_grad_()
    other.requires_grad_()
    editing.replace(slots, 2, other[:, 0]).sum().backward()
    assert slots.grad is not None
    assert other.grad is not None
    assert slots.grad[0, :, 0].tolist() == [1, 1, 0, 1, 1]
    assert other.grad[0, :, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda a, b: editing.remove(a, 5), "no slot 5: the scene has slots 0 to 4"),
        (lambda a, b: editing.remove(a, -1), "no slot -1"),
        (lambda a, b: editing.remove(a, [1, 1]), r"named twice in \[1, 1\]"),
        (lambda a, b: editing.remove(a, range(5)), "all 5 slots would be removed"),
        (lambda a, b: editing.insert(a, b, 6), "inserted at 0 to 5, got 6"),
        (lambda a, b: editing.insert(a, b[:1]), r"shape \[2, N, 8\], got \[1, 3, 8\]"),
        (lambda a, b: editing.insert(a, b[:, 0, :4]), r"shape \[2, N, 8\], got \[2, 1, 4\]"),
        (lambda a, b: editing.replace(a, [0, 1], b), "2 slots are to be replaced, but 3 were"),
        (lambda a, b: editing.swap(a, 0, b, 3), "no slot 3: the scene has slots 0 to 2"),
        (lambda a, b: editing.swap(a, 0, b, [0, 1]), "1 slots are to be replaced, but 2 were"),
    ],
)
def test_mistakes_are_named(
    edit: Callable[[Tensor, Tensor], object], message: str, slots: Tensor, other: Tensor
) -> None:
    with pytest.raises(ValueError, match=message):
        edit(slots, other)
