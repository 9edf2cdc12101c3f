"""What is accumulated over batches is what one batch gives; see also `test_distributed.py`."""

import pytest
import torch

from latentslots.metrics import (
    CONVENTIONS,
    Convention,
    SegmentationMetrics,
    adjusted_rand_index,
    overlap,
)
from latentslots.metrics.accumulate import PaddedCat
from tests.reference.segmentation import random_scenes


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_agrees_with_the_pure_functions(convention: Convention) -> None:
    pred, target = random_scenes(6)
    target[2] = 0
    valid = torch.rand(target.shape, generator=torch.Generator().manual_seed(0)) < 0.9
    metrics = SegmentationMetrics(convention=convention)
    metrics.update(pred, target, num_slots=6, valid=valid)

    ari = adjusted_rand_index(pred, target, valid=valid)
    fg_ari = adjusted_rand_index(pred, target, valid=valid, ignore_background=True)
    in_fg_ari = slice(None) if convention == "lsd" else [0, 1, 3, 4, 5]
    means = overlap(pred, target, convention=convention, num_slots=6, valid=valid).means()
    assert {name: value.item() for name, value in metrics.compute().items()} == pytest.approx(
        {
            "ari": ari.mean().item(),
            "fg_ari": fg_ari[in_fg_ari].mean().item(),
            **means,
            "num_images": 6,
            "num_images_without_objects": 1,
        }
    )


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_uneven_batches_are_one_batch(convention: Convention) -> None:
    pred, target = random_scenes(9, num_slots=7, num_objects=6)
    target[4] = 0
    whole = SegmentationMetrics(convention=convention)
    whole.update(pred, target)
    parts = SegmentationMetrics(convention=convention)
    for batch in (slice(0, 4), slice(4, 5), slice(5, 9)):
        parts.update(pred[batch], target[batch])
    torch.testing.assert_close(parts.compute(), whole.compute(), atol=1e-12, rtol=0)


def test_an_empty_batch_changes_nothing() -> None:
    pred, target = random_scenes(4)
    metrics = SegmentationMetrics()
    metrics.update(pred, target)
    before = metrics.compute()
    metrics.update(pred[:0], target[:0])
    torch.testing.assert_close(metrics.compute(), before)


def test_starts_again_after_a_reset() -> None:
    pred, target = random_scenes(4)
    metrics = SegmentationMetrics()
    first = metrics(pred, target)
    metrics.update(target, target)
    metrics.reset()
    metrics.update(pred, target)
    torch.testing.assert_close(metrics.compute(), first)


def test_the_images_of_a_batch_do_not_share_ids() -> None:
    # Ids far apart are renumbered in each image by itself, whatever else is in the batch.
    pred, target = random_scenes(4)
    scale = torch.tensor([1, 70, 400, 16_000])[:, None, None]
    metrics = SegmentationMetrics()
    metrics.update(pred, target * scale)
    expected = SegmentationMetrics()
    expected.update(pred, target)
    torch.testing.assert_close(metrics.compute(), expected.compute())


def test_widths_are_padded_at_their_end() -> None:
    batches = [torch.rand(2, 3, 1), torch.rand(0, 9, 1), torch.rand(1, 2, 4), torch.rand(3, 3, 4)]
    collected = PaddedCat({"values": 7})
    for batch in batches:
        collected.update(values=batch)
    values = collected.concatenated()["values"]
    assert values.shape == (6, 9, 4)
    assert torch.equal(collected.compute()["values"], values)
    rows = [row for batch in batches for row in batch]
    for row, expected in zip(values, rows, strict=True):
        padded = torch.full((9, 4), 7.0)
        padded[: expected.shape[0], : expected.shape[1]] = expected
        assert torch.equal(row, padded)
