from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F

from latentslots import editing
from latentslots.data import load_dataset


@pytest.fixture
def slots() -> Tensor:
    return torch.randn(2, 5, 8)


@pytest.fixture
def other() -> Tensor:
    return torch.randn(2, 3, 8)


@pytest.mark.parametrize("index", range(5))
def test_removing_and_inserting_again_changes_nothing(slots: Tensor, index: int) -> None:
    without = editing.remove(slots, index)
    assert without.shape == (2, 4, 8)
    assert torch.equal(editing.insert(without, slots[:, index], index), slots)


def test_several_slots_are_removed_in_any_order(slots: Tensor) -> None:
    assert torch.equal(editing.remove(slots, [3, 0]), slots[:, [1, 2, 4]])
    assert torch.equal(editing.remove(slots, []), slots)


def test_inserted_slots_come_last_by_default(slots: Tensor, other: Tensor) -> None:
    assert torch.equal(editing.insert(slots, other), torch.cat([slots, other], dim=1))
    assert torch.equal(editing.insert(slots, other[:, 1], 0)[:, 0], other[:, 1])


def test_a_replaced_slot_leaves_the_others_bit_equal(slots: Tensor, other: Tensor) -> None:
    before = slots.clone()
    edited = editing.replace(slots, [4, 1], other[:, :2])
    assert torch.equal(edited[:, [4, 1]], other[:, :2])
    assert torch.equal(edited[:, [0, 2, 3]], slots[:, [0, 2, 3]])
    assert torch.equal(slots, before), "the input stays as it is"


def test_swapping_twice_changes_nothing(slots: Tensor, other: Tensor) -> None:
    mine, theirs = editing.swap(slots, [0, 3], other, [2, 1])
    assert torch.equal(mine[:, [0, 3]], other[:, [2, 1]])
    assert torch.equal(theirs[:, [2, 1]], slots[:, [0, 3]])
    mine, theirs = editing.swap(mine, [0, 3], theirs, [2, 1])
    assert torch.equal(mine, slots)
    assert torch.equal(theirs, other)


def test_gradients_flow_to_kept_and_to_new_slots(slots: Tensor, other: Tensor) -> None:
    slots.requires_grad_()
    other.requires_grad_()
    editing.replace(slots, 2, other[:, 0]).sum().backward()
    assert slots.grad is not None
    assert other.grad is not None
    assert slots.grad[0, :, 0].tolist() == [1, 1, 0, 1, 1]
    assert other.grad[0, :, 0].tolist() == [1, 0, 0]


def test_each_scene_can_have_its_own_numbers(slots: Tensor, other: Tensor) -> None:
    index = torch.tensor([4, 0])
    without = editing.remove(slots, index)
    assert torch.equal(without, torch.stack([slots[0, :4], slots[1, 1:]]))
    assert torch.equal(editing.insert(without, editing.take(slots, index), index), slots)
    edited = editing.replace(slots, torch.tensor([[1, 2], [3, 0]]), other[:, :2])
    assert torch.equal(edited[0], torch.stack([slots[0, 0], *other[0, :2], *slots[0, 3:]]))
    assert torch.equal(edited[1, [3, 0]], other[1, :2])
    assert torch.equal(edited[1, [1, 2, 4]], slots[1, [1, 2, 4]])
    mine, theirs = editing.swap(slots, index, other, torch.tensor([0, 2]))
    assert torch.equal(mine[[0, 1], [4, 0]], other[[0, 1], [0, 2]])
    assert torch.equal(theirs[[0, 1], [0, 2]], slots[[0, 1], [4, 0]])


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_interpolation_goes_from_one_to_the_other(slots: Tensor, weight: float) -> None:
    other = torch.randn(2, 5, 8)
    between = editing.interpolate(slots, other, weight)
    torch.testing.assert_close(between, (1 - weight) * slots + weight * other)
    if weight in (0, 1):
        assert torch.equal(between, slots if weight == 0 else other), "both ends are exact"
    each = editing.interpolate(slots, other, torch.tensor([weight, 0.0]))
    assert torch.equal(each, torch.stack([between[0], slots[1]]))


def test_matching_inverts_a_permutation(slots: Tensor) -> None:
    order = torch.stack([torch.randperm(5), torch.randperm(5)])
    other = editing.take(slots, order) * 3 + 0.01 * torch.randn(2, 5, 8)
    assert torch.equal(editing.match(other, slots), order)
    found = editing.take(other, editing.match(slots, other))
    torch.testing.assert_close(found, 3 * slots, atol=0.1, rtol=0)
    masks = torch.randn(2, 5, 4, 4).mul(3).softmax(dim=1)
    shuffled = torch.stack([masks[i, order[i]] for i in range(2)])
    elsewhere = torch.randn(2, 5, 8)
    found = editing.match(elsewhere, slots, masks=shuffled, other_masks=masks)
    assert torch.equal(found, order), "by masks, whatever the slots hold"


def test_matching_is_one_to_one_and_best_as_a_whole() -> None:
    """Partner 0 is the closest to the first slot, but the second has no other close one."""
    slots = torch.tensor([[[1.0, 0.1], [1.0, 0.0], [-1.0, 0.0]]])
    other = torch.tensor([[[1.0, 0.0], [1.0, 0.3]]])
    assert editing.match(slots, other).tolist() == [[1, 0, -1]]
    assert editing.match(other, slots).tolist() == [[1, 0]]


def test_a_slot_is_selected_by_a_pixel_a_box_or_a_region() -> None:
    ids = torch.zeros(2, 8, 10, dtype=torch.long)
    ids[:, 1:4, 2:5] = 1
    ids[1, 5:7, 6:9] = 2
    masks = F.one_hot(ids, 4).movedim(-1, 1).float()
    masks = 0.8 * masks + 0.05
    assert editing.select(masks, at=(4, 1)).tolist() == [1, 1]
    assert editing.select(masks, at=(6, 5)).tolist() == [0, 2]
    assert editing.select(masks, box=(6, 4, 10, 8)).tolist() == [0, 2], (
        "the box is mostly background"
    )
    assert editing.select(masks, region=ids[1] == 2).tolist() == [0, 2]
    assert editing.select(masks, region=torch.stack([ids[0] == 1, ids[1] == 0])).tolist() == [1, 0]


def test_a_pixel_belongs_to_the_slot_with_the_largest_mask() -> None:
    masks = torch.tensor([[[[0.6, 0.2, 0.2]], [[0.3, 0.5, 0.1]], [[0.1, 0.3, 0.7]]]])
    assert editing.owned_pixels(masks, 1).tolist() == [[[False, True, False]]]
    assert editing.owned_pixels(masks, [0, 2]).tolist() == [[[True, False, True]]]
    assert editing.owned_pixels(masks, torch.tensor([2])).tolist() == [[[False, False, True]]]
    assert not editing.owned_pixels(masks, []).any()


@pytest.fixture
def truth(scenes_store: Path) -> Tensor:
    """True masks of scenes with a large background, which comes first."""
    dataset: Dataset = load_dataset(scenes_store, split="validation")
    ids = [torch.from_numpy(np.array(row["segmentation"])) for row in dataset]
    return F.one_hot(torch.stack(ids).long(), 8).movedim(-1, 1).float()


@pytest.mark.parametrize("rule", ["area", "border", "spread"])
def test_the_background_of_scenes_is_found(truth: Tensor, rule: editing.BackgroundRule) -> None:
    order = torch.stack([torch.randperm(8) for _ in truth])
    masks = torch.stack([masks[ids] for masks, ids in zip(truth, order, strict=True)])
    found = editing.background(masks, rule=rule)
    assert torch.equal(order.gather(1, found[:, None])[:, 0], torch.zeros(len(truth), dtype=int))


def test_the_rules_for_a_background_differ() -> None:
    """A large object in the center, a frame around it, and an object in two opposite corners."""
    ids = torch.zeros(1, 16, 16, dtype=torch.long)
    ids[:, 1:15, 1:15] = 1
    ids[:, :4, :4] = ids[:, 12:, 12:] = 2
    masks = F.one_hot(ids, 3).movedim(-1, 1).float()
    assert editing.background(masks, rule="area").item() == 1
    assert editing.background(masks, rule="border").item() == 0
    assert editing.background(masks, rule="spread").item() == 2


def test_backgrounds_are_exchanged(slots: Tensor, other: Tensor) -> None:
    masks, other_masks = torch.zeros(2, 5, 6, 6), torch.zeros(2, 3, 4, 4)
    masks[0, 2], masks[1, 4], other_masks[:, 1] = 1, 1, 1
    mine, theirs = editing.swap_background(slots, masks, other, other_masks)
    assert torch.equal(mine[[0, 1], [2, 4]], other[:, 1])
    assert torch.equal(theirs[:, 1], slots[[0, 1], [2, 4]])
    assert torch.equal(theirs[:, [0, 2]], other[:, [0, 2]])


def test_scenes_with_different_numbers_of_slots_are_joined(slots: Tensor, other: Tensor) -> None:
    joined, mask = editing.pad([other, slots, slots[:1, :1]])
    assert joined.shape == (5, 5, 8)
    assert mask.sum(dim=1).tolist() == [3, 3, 5, 5, 1]
    assert torch.equal(joined[:2, :3], other)
    assert torch.equal(joined[2:4], slots)
    assert joined[~mask].abs().sum() == 0


MASKS = torch.rand(2, 5, 4, 6)


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
        (lambda a, b: editing.replace(a, [0, 1], b), "2 slots cannot be replaced by 3"),
        (lambda a, b: editing.swap(a, 0, b, 3), "no slot 3: the scene has slots 0 to 2"),
        (lambda a, b: editing.swap(a, 0, b, [0, 1]), "1 slots cannot be replaced by 2"),
        (lambda a, b: editing.take(a, torch.tensor([0, 5])), "no slot 5"),
        (lambda a, b: editing.remove(a, torch.tensor([[0, 1], [2, 2]])), r"twice in \[2, 2\]"),
        (lambda a, b: editing.take(a, torch.tensor([0])), r"shape \[2\] or \[2, N\], got \[1\]"),
        (lambda a, b: editing.interpolate(a, b, 0.5), r"same slots, got \[2, 5, 8\] and \[2, 3, 8"),
        (lambda a, b: editing.match(a, b, masks=MASKS), "needs the masks of both scenes"),
        (lambda a, b: editing.select(MASKS), "pass one of at, box and region"),
        (lambda a, b: editing.select(MASKS, at=(6, 0)), "6,0 lies outside the image of 6 x 4"),
        (lambda a, b: editing.select(MASKS, box=(1, 1, 1, 3)), "is empty or lies outside"),
        (lambda a, b: editing.select(MASKS, region=MASKS[0, 0] > 2), "the region is empty"),
        (lambda a, b: editing.select(MASKS, region=MASKS[0, 0, :3] > 0), "6 x 4 .* got 6 x 3"),
        (lambda a, b: editing.background(MASKS, rule="size"), "area, border or spread, got 'size'"),
        (lambda a, b: editing.move(a, 5, (0.1, 0)), "no slot 5"),
        (lambda a, b: editing.move(a, 0, (float("nan"), 0)), "a distance must be finite"),
        (lambda a, b: editing.place(a, 0, torch.zeros(3, 2)), r"one for each scene, got \[3, 2\]"),
        (lambda a, b: editing.scale(a, 0, 0.0), "scaled by a factor above 0, got 0.0"),
        (lambda a, b: editing.scale(a, 0, float("inf")), "scaled by a factor above 0, got inf"),
        (lambda a, b: editing.pad([]), "no scene to join"),
        (lambda a, b: editing.pad([a, b[..., :4]]), r"one width, got \[4, 8\]"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_mistakes_are_named(
    edit: Callable[[Tensor, Tensor], object], message: str, slots: Tensor, other: Tensor
) -> None:
    with pytest.raises(ValueError, match=message):
        edit(slots, other)


class TestFrames:
    """The last four channels of a slot are its center (y, x) and its scale (y, x)."""

    def test_a_move_changes_the_center_alone(self, slots: Tensor) -> None:
        kept = slots.clone()
        moved = editing.move(slots, [1, 3], (0.25, -0.5))
        change = torch.zeros_like(slots)
        change[:, [1, 3], -4], change[:, [1, 3], -3] = -0.5, 0.25
        torch.testing.assert_close(moved, slots + change)
        assert torch.equal(moved[..., :-4], slots[..., :-4])
        assert torch.equal(slots, kept)

    def test_every_scene_can_move_by_its_own_distance(self, slots: Tensor) -> None:
        distances = torch.tensor([[0.5, 0.0], [0.0, 1.0]])
        moved = editing.move(slots, torch.tensor([0, 2]), distances)
        torch.testing.assert_close(moved[0, 0, -3], slots[0, 0, -3] + 0.5)
        torch.testing.assert_close(moved[1, 2, -4], slots[1, 2, -4] + 1.0)
        assert (moved != slots).sum() == 2

    def test_a_slot_is_placed_at_a_point(self, slots: Tensor) -> None:
        placed = editing.place(slots, 4, (0.5, -1.0))
        assert (placed[:, 4, -4:-2] == torch.tensor([-1.0, 0.5])).all()
        assert torch.equal(placed[:, 4, -2:], slots[:, 4, -2:])
        assert torch.equal(placed[:, :4], slots[:, :4])

    def test_a_slot_is_scaled_around_its_center(self, slots: Tensor) -> None:
        scaled = editing.scale(slots, 2, torch.tensor([2.0, 0.5]))
        torch.testing.assert_close(scaled[0, 2, -2:], slots[0, 2, -2:] * 2)
        torch.testing.assert_close(scaled[1, 2, -2:], slots[1, 2, -2:] / 2)
        assert (scaled != slots).sum() == 4

    def test_masks_move_and_grow_with_their_slots(self) -> None:
        frames = torch.tensor([[[-0.5, -0.25, 0.2, 0.2], [0.0, 0.0, 0.5, 0.5]]])
        masks = torch.zeros(1, 2, 16, 16)
        masks[0, 0, 2:6, 4:8], masks[0, 1, 10:12, 10:12] = 1.0, 1.0
        moved = editing.carry_masks(masks, frames, editing.move(frames, 0, (0.5, 0.25)))
        assert torch.equal(moved[0, 1], masks[0, 1]), "bit for bit, as it has not moved"
        torch.testing.assert_close(moved[0, 0], masks[0, 0].roll((2, 4), dims=(0, 1)))
        grown = editing.carry_masks(masks, frames, editing.scale(frames, 0, 1.5))
        assert float(grown[0, 0].sum()) == pytest.approx(2.25 * 16, rel=0.1)
        rows = (grown[0, 0].sum(dim=1) * torch.arange(16)).sum() / grown[0, 0].sum()
        assert float(rows) == pytest.approx(3.5, abs=0.1), "the center stays"
        gone = editing.carry_masks(masks, frames, editing.move(frames, 0, (3.0, 0.0)))
        assert gone[0, 0].sum() == 0
