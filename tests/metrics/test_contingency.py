import pytest
import torch

from latentslots.metrics import tabulate
from tests.reference.segmentation import random_scenes


def test_agrees_with_counting_pixels() -> None:
    pred, target = random_scenes(3)
    table = tabulate(pred, target).counts
    expected = torch.zeros_like(table)
    for image in range(3):
        for y in range(pred.shape[1]):
            for x in range(pred.shape[2]):
                expected[image, target[image, y, x], pred[image, y, x]] += 1
    assert torch.equal(table, expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_every_integer_type_counts_alike(dtype: torch.dtype) -> None:
    pred, target = random_scenes(2)
    pred, target = (pred + 200).flatten(1), (target * 50).flatten(1)
    if dtype == torch.int16:
        pred = pred - 200
    expected = tabulate(pred, target).counts
    assert torch.equal(tabulate(pred.to(dtype), target.to(dtype)).counts, expected)


def test_only_valid_pixels_count() -> None:
    target = torch.tensor([[0, 1, 1, 2], [1, 1, 0, 0]])
    valid = torch.tensor([[True, False, True, True], [False, False, False, False]])
    table = tabulate(target, target, valid=valid).counts
    assert table[0].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert not table[1].any()


def test_slots_are_those_of_the_model_or_those_that_own_a_valid_pixel() -> None:
    pred, target = torch.tensor([[0, 0, 2, 3], [1, 1, 1, 1]]), torch.zeros(2, 4, dtype=torch.int64)
    valid = torch.tensor([[True, True, True, False], [True, True, True, True]])
    every = tabulate(pred, target, num_slots=5, valid=valid)
    assert every.counts.shape == (2, 1, 5)
    assert every.slot_ids.tolist() == [[0, 1, 2, 3, 4]] * 2
    owners = tabulate(pred, target, valid=valid)
    assert owners.slot_ids.tolist() == [[0, -1, 2, -1], [-1, 1, -1, -1]]


def test_large_ids_with_gaps_are_renumbered_within_each_image() -> None:
    pred, target = random_scenes(4)
    large_targets = torch.tensor([0, 7, 255, 256, 65_535])
    large_preds = torch.tensor([300, 2, 9_000, 0, 65_000])
    small = tabulate(pred, target)
    large = tabulate(large_preds[pred], large_targets[target])
    assert large.counts.shape[1] <= 5
    assert large.counts.shape[2] <= 5
    assert _by_id(large) == {
        (image, int(large_targets[n]), int(large_preds[k])): count
        for (image, n, k), count in _by_id(small).items()
    }


def test_padding_of_images_with_few_ids_is_marked() -> None:
    target = torch.tensor([[0, 1_000, 2_000], [0, 0, 500]])
    table = tabulate(torch.zeros_like(target), target)
    assert table.object_ids.tolist() == [[0, 1_000, 2_000], [0, 500, -1]]
    assert table.counts[:, :, 0].tolist() == [[1, 1, 1], [2, 1, 0]]


@pytest.mark.parametrize(
    ("pred", "target", "options", "message"),
    [
        ([[0, 1]], [[0, -1]], {}, "ids of target must be 0 or above, got -1"),
        ([[0, -3]], [[0, 1]], {}, "ids of pred must be 0 or above, got -3"),
        ([[0, 1]], [[0, 70_000]], {}, "ids of target must be at most 65535, got 70000"),
        ([[0, 5]], [[0, 1]], {"num_slots": 5}, "pred has id 5, but num_slots is 5"),
    ],
)
def test_invalid_ids_are_refused(
    pred: list[list[int]], target: list[list[int]], options: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tabulate(torch.tensor(pred), torch.tensor(target), **options)


def test_shapes_that_differ_are_refused() -> None:
    labels = torch.zeros(2, 4, 4, dtype=torch.int64)
    with pytest.raises(
        ValueError, match=r"pred and target must have the same shape, got \(2, 2, 4\)"
    ):
        tabulate(labels[:, :2], labels)
    with pytest.raises(ValueError, match="valid must have the shape of target"):
        tabulate(labels, labels, valid=torch.ones(2, 4, 3, dtype=torch.bool))


def _by_id(table: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> dict[tuple, int]:
    counts, object_ids, slot_ids = table
    return {
        (image, int(object_ids[image, n]), int(slot_ids[image, k])): int(counts[image, n, k])
        for image, n, k in counts.nonzero().tolist()
    }
