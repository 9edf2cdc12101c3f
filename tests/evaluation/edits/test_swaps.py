from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from diffusers import ImagePipelineOutput
from torch import Tensor

from latentslots.config.sampling import Sampling
from latentslots.data import load_dataset
from latentslots.evaluation.edits import swaps
from latentslots.evaluation.edits.pairs import METHODS, rows_before
from latentslots.evaluation.edits.swaps import evaluate_swaps, swap_rows, swap_table
from latentslots.pipelines import LatentSlotDiffusionPipeline
from tests.evaluation.oracle import Oracle, keep_methods, key

FAST = Sampling(num_inference_steps=1)


@pytest.fixture(scope="module")
def pairs(part_pairs_dir: Path) -> Dataset:
    return load_dataset(part_pairs_dir, split="validation")


@pytest.fixture
def oracle(tiny_pipeline_dir: Path, pairs: Dataset) -> Oracle:
    pipe = Oracle.from_pretrained(tiny_pipeline_dir)
    pipe.set_progress_bar_config(disable=True)
    loaded = swaps._load(pairs, swap_rows(pairs), 32)
    pipe.truth, pipe.edited = {}, []
    for images, parts in (
        (loaded.after, loaded.new_part),
        (loaded.source, loaded.source_part),
        (loaded.before, loaded.old_part),
    ):
        pipe.truth |= {key(image): part for image, part in zip(images, parts, strict=True)}
    return pipe


def test_the_next_figure_gives_the_part(pairs: Dataset) -> None:
    rows = swap_rows(pairs)
    assert len(rows) >= 2
    loaded = swaps._load(pairs, rows, 32)
    for i, row in enumerate(rows):
        number = pairs[row]["edited_object"]
        before, after, source = (pairs[row + k]["attributes"] for k in range(3))
        for name in ("shape_label", "scale", "pose", "color"):
            assert after[name][number - 1] == source[name][number - 1]
            others = [k for k in range(5) if k != number - 1]
            assert [after[name][k] for k in others] == [before[name][k] for k in others]
        assert loaded.source_part[i].any()


def test_replaced_objects_of_scenes_are_no_swaps(pairs: Dataset) -> None:
    others = pairs.remove_columns("attributes")
    assert rows_before(others, "replaced", following=2)
    assert swap_rows(others) == []


def test_each_way_is_scored_on_the_parts_that_slots_cover(oracle: Oracle, pairs: Dataset) -> None:
    done: list[int] = []
    reports = evaluate_swaps(
        oracle, pairs, sampling=FAST, num_pairs=3, batch_size=2, progress=done.append
    )
    assert list(reports) == list(METHODS)
    assert done == [2, 1]
    for report in reports.values():
        assert 2 <= report.num_found <= report.num_pairs == 3
        assert report.placed == report.success == 0, "the oracle does not know the edited images"
    assert reports["blending"].psnr > reports["plain"].psnr + 1
    assert len(swap_table(reports).splitlines()) == 2 + 2 + len(METHODS) + 1


def test_batches_change_no_image(
    oracle: Oracle, pairs: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_methods(monkeypatch, "plain", "both")
    edited = []
    for size in (1, 3):
        oracle.edited = []
        evaluate_swaps(oracle, pairs, sampling=FAST, num_pairs=3, batch_size=size)
        edited.append(oracle.edited)
    one = torch.stack(edited[0]).unflatten(0, (-1, 2))
    other = torch.stack(edited[1]).unflatten(0, (2, -1)).transpose(0, 1)
    assert len(one) == 2
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("result", "success"), [("after", 1), ("before", 0)])
def test_an_edit_that_returns_the_truth_succeeds(
    oracle: Oracle,
    pairs: Dataset,
    result: str,
    success: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = swaps._load(pairs, swap_rows(pairs), 32)
    known = {key(b): getattr(loaded, result)[i] for i, b in enumerate(loaded.before)}

    def edit(images: Tensor, *others: Any, **options: Any) -> ImagePipelineOutput:
        edited = torch.stack([known[key(image * 2 - 1)] for image in images])
        return ImagePipelineOutput(images=(edited + 1) / 2)

    monkeypatch.setattr(oracle, "edit", edit)
    report = evaluate_swaps(oracle, pairs)["plain"]
    assert report.colored == report.success == success
    assert (report.psnr > 59) == (result == "after")


def test_data_without_swaps_is_one_sentence(
    tiny_pipeline: LatentSlotDiffusionPipeline, scenes_store: Path
) -> None:
    dataset = load_dataset(scenes_store, split="validation")
    with pytest.raises(ValueError, match="no pairs with a replaced part: make them by"):
        evaluate_swaps(tiny_pipeline, dataset)
