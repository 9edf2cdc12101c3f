"""Predictions: whatever the batch size, and as they are kept on disk."""

from dataclasses import fields
from pathlib import Path

import pytest
import torch

from latentslots.data import load_dataset
from latentslots.evaluation.predictions import Predictions, predict
from latentslots.evaluation.predictions_cache import (
    CACHE_FILE,
    load_predictions,
    save_predictions,
)
from latentslots.metrics import PixelTable
from latentslots.pipelines import LatentSlotDiffusionPipeline

KEY = {"model_hash": "a", "seed": 0}


@pytest.fixture
def predictions() -> Predictions:
    table = PixelTable(
        torch.arange(12, dtype=torch.int32).view(2, 2, 3),
        torch.tensor([[0, 1], [0, -1]]),
        torch.tensor([[0, 1, 2], [0, 1, -1]]),
    )
    return Predictions(table=table, slots=torch.randn(2, 3, 4), resolution=32, seed=7)


def test_the_batch_size_changes_slots_by_rounding_only(
    tiny_pipeline: LatentSlotDiffusionPipeline, scenes_store: Path
) -> None:
    dataset = load_dataset(scenes_store, split="validation")
    one, all_at_once = (
        predict(tiny_pipeline, dataset, batch_size=size, progress=False) for size in (1, 16)
    )
    torch.testing.assert_close(one.slots, all_at_once.slots, atol=1e-4, rtol=1e-4)


def test_cached_predictions_are_loaded_unchanged(predictions: Predictions, tmp_path: Path) -> None:
    assert load_predictions(tmp_path, key=KEY) is None
    save_predictions(predictions, tmp_path, key=KEY)
    loaded = load_predictions(tmp_path, key=KEY)
    for f in fields(Predictions):
        torch.testing.assert_close(getattr(loaded, f.name), getattr(predictions, f.name))
    bare = Predictions(table=predictions.table, videos=torch.tensor([0, 0]))
    save_predictions(bare, tmp_path, key=KEY)
    loaded = load_predictions(tmp_path, key=KEY)
    assert loaded.slots is None
    assert torch.equal(loaded.videos, bare.videos)


def test_predictions_with_another_key_or_truncated_are_not_used(
    predictions: Predictions, tmp_path: Path
) -> None:
    save_predictions(predictions, tmp_path, key=KEY)
    assert load_predictions(tmp_path, key={**KEY, "seed": 1}) is None
    file = tmp_path / CACHE_FILE
    file.write_bytes(file.read_bytes()[:-10])
    assert load_predictions(tmp_path, key=KEY) is None
