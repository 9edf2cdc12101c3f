import json
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from latentslots.config.conventions import check_convention
from latentslots.metrics import CONVENTIONS, Convention, Overlap, adjusted_rand_index, overlap
from tests.reference.segmentation import official_lsd, overlap_by_hand, random_scenes

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics"


@pytest.fixture
def golden() -> tuple[Tensor, Tensor, Tensor, dict]:
    """Segmentations of the official model, true masks, visibility, and the official scores."""
    arrays = np.load(GOLDEN / "metrics_input.npz")
    target = torch.from_numpy(arrays["true_masks"]).long()
    masks = F.interpolate(
        torch.from_numpy(arrays["attention"]), size=target.shape[1:], mode="bilinear"
    )
    visible = torch.from_numpy(arrays["visible"])
    expected = json.loads((GOLDEN / "metrics_expected.json").read_text())
    return masks.argmax(dim=1), target, visible, expected


def test_reproduces_the_official_evaluation(golden: tuple[Tensor, Tensor, Tensor, dict]) -> None:
    pred, target, visible, expected = golden
    found = overlap(pred, target, convention="lsd", visible=visible, num_slots=11)
    means = found.means()
    assert means["miou_objects"] == pytest.approx(expected["miou_over_objects"], abs=1e-6)
    assert means["mbo_objects"] == pytest.approx(expected["mbo_over_objects"], abs=1e-6)
    assert means["miou_images"] == pytest.approx(expected["miou_over_images"], abs=1e-6)
    assert means["mbo_images"] == pytest.approx(expected["mbo_over_images"], abs=1e-6)
    triples = [
        [image, int(found.object_ids[image, n]), int(found.slot_ids[image, n])]
        for image, n in found.in_miou.nonzero().tolist()
    ]
    assert triples == expected["matching_image_object_slot"]
    fg_ari = adjusted_rand_index(pred, target, ignore_background=True)
    expected_ari = torch.tensor(expected["fg_ari_per_image"], dtype=torch.float64)
    torch.testing.assert_close(fg_ari, expected_ari, atol=1e-6, rtol=0)
    assert fg_ari.mean().item() == pytest.approx(expected["fg_ari"], abs=1e-6)


@pytest.mark.parametrize("num_slots", [3, 5, 8])
def test_lsd_agrees_with_the_protocol_written_out(num_slots: int) -> None:
    pred, target = random_scenes(12, num_objects=5, num_slots=num_slots, seed=num_slots)
    visible = torch.rand(12, 5, generator=torch.Generator().manual_seed(1)) < 0.8
    visible &= torch.stack([(target == n).flatten(1).any(1) for n in range(1, 6)], dim=1)
    matched, best, triples = official_lsd(pred, target, visible, num_slots)
    found = overlap(pred, target, convention="lsd", visible=visible, num_slots=num_slots)
    assert found.matched_iou[found.in_miou].tolist() == pytest.approx(list(chain(*matched)))
    assert found.best_iou[found.in_mbo].tolist() == pytest.approx(list(chain(*best)))
    assert triples == [
        [image, n, int(found.slot_ids[image, n])] for image, n in found.in_miou.nonzero().tolist()
    ]
    means = [np.mean(image) for image in matched if image]
    assert of_images(found, "miou") == pytest.approx(means)


@pytest.mark.parametrize("convention", ["iou", "with-background"])
@pytest.mark.parametrize("num_slots", [2, 4])
def test_agrees_with_trying_every_assignment(convention: Convention, num_slots: int) -> None:
    pred, target = random_scenes(6, size=10, num_objects=3, num_slots=num_slots, seed=num_slots)
    expected = [
        overlap_by_hand(p, t, convention == "with-background")
        for p, t in zip(pred, target, strict=True)
    ]
    found = overlap(pred, target, convention=convention)
    assert of_images(found, "miou") == pytest.approx([miou for miou, _ in expected])
    assert of_images(found, "mbo") == pytest.approx([mbo for _, mbo in expected])


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_perfect_prediction_scores_one(convention: Convention) -> None:
    _, target = random_scenes(4)
    means = overlap((target + 2) % 5, target, convention=convention).means()
    assert means == pytest.approx(dict.fromkeys(means, 1.0))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_renaming_slots_and_objects_changes_nothing(convention: Convention) -> None:
    pred, target = random_scenes(8)
    slots = torch.tensor([60_000, 3, 0, 256, 1])
    objects = torch.tensor([0, 9_999, 4, 65_535, 300])
    before = overlap(pred, target, convention=convention)
    after = overlap(slots[pred], objects[target], convention=convention)
    assert after.means() == pytest.approx(before.means())
    assert _pairs(after) == {
        (image, int(objects[n]), int(slots[k])) for image, n, k in _pairs(before)
    }


@pytest.mark.parametrize("convention", ["iou", "lsd"])
@pytest.mark.parametrize("num_slots", [2, 5, 9])
def test_the_best_slot_is_never_worse_than_the_matched_one(
    convention: Convention, num_slots: int
) -> None:
    pred, target = random_scenes(10, num_slots=num_slots)
    found = overlap(pred, target, convention=convention)
    assert (found.best_iou >= found.matched_iou).all()
    means = found.means()
    assert means["mbo_objects"] >= means["miou_objects"]
    assert means["mbo_images"] >= means["miou_images"]


def test_objects_without_a_slot_count_as_the_convention_has_it() -> None:
    target = torch.tensor([[[0, 0, 1, 1], [0, 0, 2, 2]]])
    pred = torch.tensor([[[1, 1, 0, 0], [1, 1, 0, 0]]])
    assert overlap(pred, target, convention="iou").means() == {
        "miou_objects": 0.25,
        "mbo_objects": 0.5,
        "miou_images": 0.25,
        "mbo_images": 0.5,
    }
    # The official code matches the second object to the slot of the background: a score of 0. With
    # a single slot it leaves the object out.
    assert overlap(pred, target, convention="lsd").means()["miou_objects"] == 0.25
    alone = overlap(torch.zeros_like(pred), target, convention="lsd")
    assert alone.in_miou.sum() == 1
    assert alone.means()["miou_objects"] == alone.means()["mbo_objects"] == 0.25
    assert overlap(pred, target, convention="with-background").means() == {
        "miou_objects": pytest.approx((1 + 0.5 + 0) / 3),
        "mbo_objects": 0.5,
        "miou_images": pytest.approx((1 + 0.5 + 0) / 3),
        "mbo_images": 0.5,
    }


def test_under_lsd_an_empty_slot_can_take_an_object() -> None:
    target = torch.tensor([[[1, 1, 2, 2]]])
    pred = torch.zeros_like(target)
    assert overlap(pred, target, convention="lsd").means()["miou_objects"] == 0.5
    found = overlap(pred, target, convention="lsd", num_slots=2)
    assert found.means()["miou_objects"] == 0.25
    assert sorted(found.slot_ids[0, 1:].tolist()) == [0, 1]


def test_objects_and_images_are_averaged_as_they_are_named() -> None:
    # One image with one object that is found, one with three that share a slot.
    target = torch.tensor([[[0, 0, 1, 1]], [[1, 2, 3, 0]]])
    pred = torch.tensor([[[0, 0, 1, 1]], [[1, 1, 1, 0]]])
    means = overlap(pred, target).means()
    assert means["miou_objects"] == pytest.approx((1 + 1 / 3) / 4)
    assert means["miou_images"] == pytest.approx((1 + 1 / 9) / 2)
    assert means["mbo_objects"] == pytest.approx((1 + 3 * 1 / 3) / 4)
    assert means["mbo_images"] == pytest.approx((1 + 1 / 3) / 2)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_hidden_objects_are_left_out(convention: Convention) -> None:
    pred, target = random_scenes(5)
    visible = torch.ones(5, 4, dtype=torch.bool)
    visible[:, 1] = False
    found = overlap(pred, target, convention=convention, visible=visible)
    assert not found.in_miou[:, 2].any()
    assert not found.in_mbo[:, 2].any()
    assert found.in_miou[:, 0].any() == (convention == "with-background")


def test_an_object_without_a_pixel_does_not_count() -> None:
    _, target = random_scenes(5)
    everything = torch.ones(5, 9, dtype=torch.int64)
    for convention in CONVENTIONS:
        found = overlap(target, target, convention=convention, visible=everything)
        assert found.means()["miou_objects"] == 1


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_invalid_pixels_do_not_count(convention: Convention) -> None:
    pred, target = random_scenes(4)
    valid = torch.ones_like(target, dtype=torch.bool)
    valid[:, 10:] = False
    masked = overlap(pred, target, convention=convention, valid=valid)
    cut = overlap(pred[:, :10], target[:, :10], convention=convention)
    assert masked.means() == pytest.approx(cut.means())


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_images_without_objects_are_left_out(convention: Convention) -> None:
    pred, target = random_scenes(3)
    target[1] = 0
    found = overlap(pred, target, convention=convention)
    assert len(of_images(found, "mbo")) == 2
    assert len(of_images(found, "miou")) == (3 if convention == "with-background" else 2)
    nothing = overlap(pred[1:2], target[1:2], convention=convention).means()
    assert np.isnan(nothing["mbo_objects"])


def test_unknown_conventions_and_short_visibilities_are_refused() -> None:
    pred, target = random_scenes(2)
    with pytest.raises(ValueError, match=r"convention must be one of \('iou', 'lsd', .*'dice'"):
        check_convention("dice")
    with pytest.raises(ValueError, match="an object with id 4, but visible describes ids 1 to 3"):
        overlap(pred, target, visible=torch.ones(2, 3, dtype=torch.int64))


def of_images(found: Overlap, name: str) -> list[float]:
    """The means of the images that have regions."""
    means, number = found.sums()[f"{name}_images"]
    return means[number > 0].tolist()


def _pairs(found: Overlap) -> set[tuple[int, int, int]]:
    return {
        (image, int(found.object_ids[image, n]), int(found.slot_ids[image, n]))
        for image, n in (found.slot_ids >= 0).nonzero().tolist()
    }
