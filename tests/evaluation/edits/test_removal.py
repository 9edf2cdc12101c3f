from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor

from latentslots.data import SceneOptions, load_dataset, make_scenes
from latentslots.evaluation.edits import removal
from latentslots.evaluation.edits.pairs import METHODS, covering_slot, outside_scores, rows_before
from latentslots.evaluation.edits.removal import evaluate_removal
from latentslots.metrics.reconstruction import psnr, ssim
from latentslots.pipelines import LatentSlotDiffusionPipeline, SlotOutput
from tests.evaluation.oracle import Oracle, key


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("pairs") / "scenes"
    options = SceneOptions(kind="scenes", size=32, edit_pairs=True)
    make_scenes(out, options, num_train=0, num_validation=24, workers=1)
    return load_dataset(out, split="validation")


@pytest.fixture(autouse=True)
def _short_inversion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentslots.pipelines.edit.NUM_INVERSION_STEPS", 4)


@pytest.fixture
def oracle(tiny_pipeline_dir: Path, pairs: Dataset) -> Oracle:
    pipe = Oracle.from_pretrained(tiny_pipeline_dir)
    pipe.set_progress_bar_config(disable=True)
    rows = rows_before(pairs, "removed", following=1)
    loaded = removal._load(pairs, rows, 0, 32)
    scenes = zip(loaded.before, loaded.mask, strict=True)
    pipe.truth = {key(image): mask for image, mask in scenes}
    return pipe


def test_each_way_is_scored_on_the_objects_that_were_found(oracle: Oracle, pairs: Dataset) -> None:
    done: list[int] = []
    reports = evaluate_removal(
        oracle, pairs, num_inference_steps=2, batch_size=2, progress=done.append
    )
    assert list(reports) == list(METHODS)
    removed = pairs.features["edit"].str2int("removed")
    count = sum(edit == removed for edit in pairs["edit"]) // 2
    assert count >= 2
    assert sum(done) == count
    for report in reports.values():
        assert (report.num_pairs, report.num_found) == (count, count)
        assert report.success == 1, "the oracle sees nothing in what was painted"
        assert report.psnr_ceiling == reports["plain"].psnr_ceiling
    assert reports["blending"].psnr > reports["plain"].psnr + 1
    assert reports["blending-pasted"].psnr > reports["blending"].psnr + 1
    untouched = reports["plain"].psnr_untouched
    assert untouched != reports["plain"].psnr_ceiling, "the object and its shadow are still there"
    assert reports["both"].ssim > reports["plain"].ssim


class Stubborn(Oracle):
    """Sees some objects again in what was painted without them, in the order of the pairs."""

    stubborn: tuple[int, ...] = ()

    def encode_pixel_values(self, pixel_values: Tensor, **options: Any) -> SlotOutput:
        found = super().encode_pixel_values(pixel_values, **options)
        known = [self.truth.get(key(image)) for image in pixel_values]
        if any(mask is not None for mask in known):
            self.seen = [mask for mask in known if mask is not None]
            return found
        for i in self.stubborn:
            found.masks[i, 0], found.masks[i, 1] = (~self.seen[i]).float(), self.seen[i].float()
        return found


def test_objects_that_are_seen_again_or_were_never_found_are_told(
    oracle: Oracle, pairs: Dataset, tiny_pipeline_dir: Path
) -> None:
    pipe = Stubborn.from_pretrained(tiny_pipeline_dir)
    pipe.set_progress_bar_config(disable=True)
    pipe.truth = dict(list(oracle.truth.items())[1:])  # the first object is not found
    pipe.stubborn = (0,)
    reports = evaluate_removal(pipe, pairs, num_inference_steps=2)
    count = len(oracle.truth)
    assert count >= 3
    for report in reports.values():
        assert (report.num_pairs, report.num_found) == (count, count - 1)
        assert report.success == pytest.approx(1 - 1 / (count - 1))


def test_batches_change_no_number(oracle: Oracle, pairs: Dataset) -> None:
    one, two = (
        evaluate_removal(oracle, pairs, num_pairs=3, num_inference_steps=2, batch_size=size)
        for size in (1, 3)
    )
    for name in METHODS:
        assert one[name].psnr == pytest.approx(two[name].psnr, abs=1e-2)


def test_only_what_is_outside_counts() -> None:
    truth = torch.rand(2, 3, 32, 32)
    outside = torch.ones(2, 1, 32, 32, dtype=torch.bool)
    outside[:, :, 8:20, 8:20] = False
    images = torch.where(outside, truth, torch.rand(2, 3, 32, 32))
    error, similarity = outside_scores(images, truth, outside)
    assert (error > 59.9).all()
    torch.testing.assert_close(similarity, torch.ones(2))
    everywhere = torch.ones_like(outside)
    noisy = (truth + 0.1 * torch.randn_like(truth)).clamp(0, 1)
    error, similarity = outside_scores(noisy, truth, everywhere)
    torch.testing.assert_close(error, psnr(noisy, truth))
    torch.testing.assert_close(similarity, ssim(noisy, truth))


def test_the_slot_that_covers_a_region_is_found() -> None:
    masks = torch.zeros(1, 3, 8, 8)
    masks[0, 0], masks[0, 2, 2:6, 2:6] = 0.1, 1
    target = torch.zeros(1, 8, 8, dtype=torch.bool)
    target[0, 2:6, 2:4] = True
    slot, overlap = covering_slot(masks, target)
    assert (slot.item(), overlap.item()) == (2, 0.5)


def test_data_without_pairs_is_one_sentence(
    tiny_pipeline: LatentSlotDiffusionPipeline, scenes_store: Path
) -> None:
    dataset = load_dataset(scenes_store, split="validation")
    with pytest.raises(ValueError, match="no pairs with a removed object: make --edit-pairs"):
        evaluate_removal(tiny_pipeline, dataset)
