from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor

from latentslots.config.sampling import Sampling
from latentslots.data import SceneOptions, load_dataset, make_scenes
from latentslots.evaluation.edits import removal
from latentslots.evaluation.edits.pairs import METHODS, covering_slot, outside_scores
from latentslots.evaluation.edits.removal import evaluate_removal, removal_rows, removal_table
from latentslots.metrics.reconstruction import psnr, ssim
from latentslots.pipelines import LatentSlotDiffusionPipeline, SlotOutput
from tests.evaluation.oracle import Oracle, keep_methods, key

FAST = Sampling(num_inference_steps=1)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("pairs") / "scenes"
    options = SceneOptions(kind="scenes", size=32, edit_pairs=True)
    make_scenes(out, options, num_train=0, num_validation=16, workers=1)
    return load_dataset(out, split="validation")


@pytest.fixture
def oracle(tiny_pipeline_dir: Path, pairs: Dataset) -> Oracle:
    pipe = Oracle.from_pretrained(tiny_pipeline_dir)
    pipe.set_progress_bar_config(disable=True)
    loaded = removal._load(pairs, removal_rows(pairs), 0, 32)
    images = zip(loaded.before, loaded.mask, strict=True)
    pipe.truth, pipe.edited = {key(image): mask for image, mask in images}, []
    return pipe


def test_each_way_is_scored_on_the_objects_that_slots_cover(oracle: Oracle, pairs: Dataset) -> None:
    done: list[int] = []
    removed = pairs.features["edit"].str2int("removed")
    assert len(removal_rows(pairs)) == sum(edit == removed for edit in pairs["edit"]) // 2
    reports = evaluate_removal(
        oracle, pairs, sampling=FAST, num_pairs=3, batch_size=2, progress=done.append
    )
    assert list(reports) == list(METHODS)
    assert done == [2, 1]
    for report in reports.values():
        assert (report.num_pairs, report.num_found) == (3, 3)
        assert report.success == 1, "the oracle finds no object in edited images"
        assert report.psnr_ceiling == reports["plain"].psnr_ceiling
    assert reports["blending"].psnr > reports["plain"].psnr + 1
    assert reports["blending-pasted"].psnr > reports["blending"].psnr + 1
    untouched = reports["plain"].psnr_untouched
    assert untouched != reports["plain"].psnr_ceiling, "the object and its shadow are still there"
    assert reports["both"].ssim > reports["plain"].ssim
    assert len(removal_table(reports).splitlines()) == 2 + 2 + len(METHODS) + 2


class Stubborn(Oracle):
    """Predicts some objects in edited images, too, by their number in the batch."""

    stubborn: tuple[int, ...] = ()

    def encode_pixel_values(self, pixel_values: Tensor, **options: Any) -> SlotOutput:
        out = super().encode_pixel_values(pixel_values, **options)
        masks = [self.truth.get(key(image)) for image in pixel_values]
        known = [mask for mask in masks if mask is not None]
        if known:
            self.last = known
            return out
        for i in self.stubborn:
            out.masks[i, 0], out.masks[i, 1] = (~self.last[i]).float(), self.last[i].float()
        return out


def test_objects_that_are_found_again_are_no_success_and_others_are_not_scored(
    oracle: Oracle, pairs: Dataset, tiny_pipeline_dir: Path
) -> None:
    pipe = Stubborn.from_pretrained(tiny_pipeline_dir)
    pipe.set_progress_bar_config(disable=True)
    pipe.truth = dict(list(oracle.truth.items())[1:])  # no slot covers the first object
    pipe.stubborn, pipe.edited = (0,), []
    reports = evaluate_removal(pipe, pairs, sampling=FAST)
    count = len(oracle.truth)
    assert count >= 3
    for report in reports.values():
        assert (report.num_pairs, report.num_found) == (count, count - 1)
        assert report.success == pytest.approx(1 - 1 / (count - 1))


def test_batches_change_no_image(
    oracle: Oracle, pairs: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_methods(monkeypatch, "plain", "both")
    edited = []
    for size in (1, 2):
        oracle.edited = []
        evaluate_removal(oracle, pairs, sampling=FAST, num_pairs=2, batch_size=size)
        edited.append(oracle.edited)
    one = torch.stack(edited[0]).unflatten(0, (-1, 2))
    other = torch.stack(edited[1]).unflatten(0, (2, -1)).transpose(0, 1)
    assert len(one) == 2
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


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
    with pytest.raises(ValueError, match="no pairs with a removed object: make them by"):
        evaluate_removal(tiny_pipeline, dataset)
