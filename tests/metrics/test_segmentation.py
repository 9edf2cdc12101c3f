import pytest
import torch

from latentslots.metrics import (
    CONVENTIONS,
    AdjustedRandIndex,
    Convention,
    MeanOverlap,
    SegmentationMetrics,
)
from tests.reference.segmentation import random_scenes


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_agrees_with_the_metrics_one_by_one(convention: Convention) -> None:
    pred, target = random_scenes(6)
    target[2] = 0
    valid = torch.rand(target.shape, generator=torch.Generator().manual_seed(0)) < 0.9
    together = SegmentationMetrics(convention=convention)
    together.update(pred, target, num_slots=6, valid=valid)

    ari = AdjustedRandIndex()
    ari.update(pred, target, valid=valid)
    fg_ari = AdjustedRandIndex(ignore_background=True, convention=convention)
    fg_ari.update(pred, target, valid=valid)
    overlap = MeanOverlap(convention=convention)
    overlap.update(pred, target, num_slots=6, valid=valid)
    expected = {"ari": ari.compute(), "fg_ari": fg_ari.compute(), **overlap.compute()}
    counts = {
        "num_images": torch.tensor(6),
        "num_images_without_objects": torch.tensor(1),
    }
    torch.testing.assert_close(together.compute(), {**expected, **counts})


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
