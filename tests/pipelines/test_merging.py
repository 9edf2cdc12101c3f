"""Merging slots, against loops over pairs of slots."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latentslots.pipelines import LatentSlotDiffusionPipeline
from latentslots.pipelines.inference import InferenceSettings
from latentslots.pipelines.merging import merge_slots
from tests import tiny


def slow_merge(slots: Tensor, masks: Tensor, max_overlap: float) -> list[tuple[Tensor, Tensor]]:
    """Merge by loops over scenes and pairs of slots."""
    scenes = []
    for vectors, maps in zip(slots.double(), masks.double().flatten(2), strict=True):
        group = list(range(len(vectors)))
        for i in range(len(vectors)):
            for j in range(i):
                overlap = maps[i] @ maps[j] / (maps[i].norm() * maps[j].norm())
                if overlap > max_overlap:
                    low, high = sorted((group[i], group[j]))
                    group = [low if g == high else g for g in group]
        merged = []
        for leader in sorted(set(group)):
            members = [i for i, g in enumerate(group) if g == leader]
            mass = maps[members].sum(dim=1)
            mean = (mass[:, None] * vectors[members]).sum(dim=0) / mass.sum()
            merged.append((mean, maps[members].sum(dim=0)))
        slots_of, masks_of = zip(*merged, strict=True)
        scenes.append((torch.stack(slots_of), torch.stack(masks_of)))
    return scenes


@pytest.fixture
def slots() -> Tensor:
    return torch.randn(20, 6, 3)


@pytest.fixture
def masks() -> Tensor:
    """Masks of which some pairs are similar."""
    logits = 2 * torch.randn(20, 3, 5, 4).repeat(1, 2, 1, 1) + torch.randn(20, 6, 5, 4)
    return logits.softmax(dim=1)


@pytest.mark.parametrize("max_overlap", [0.0, 0.2, 0.4, 0.6, 0.9])
def test_agrees_with_loops_over_pairs(slots: Tensor, masks: Tensor, max_overlap: float) -> None:
    merged, summed, exist = merge_slots(slots, masks, max_overlap=max_overlap)
    for i, (vectors, maps) in enumerate(slow_merge(slots, masks, max_overlap)):
        count = int(exist[i].sum())
        assert exist[i].tolist() == [True] * count + [False] * (len(exist[i]) - count)
        torch.testing.assert_close(merged[i, :count], vectors.float(), atol=1e-4, rtol=0)
        torch.testing.assert_close(summed[i, :count].flatten(1), maps.float(), atol=1e-4, rtol=0)
        assert merged[i, count:].abs().sum() == summed[i, count:].sum() == 0
    assert exist.shape[1] == exist.sum(dim=1).max()
    torch.testing.assert_close(summed.sum(dim=1), torch.ones(20, 5, 4))


def test_slots_that_overlap_little_stay_as_they_are(slots: Tensor, masks: Tensor) -> None:
    merged, same, exist = merge_slots(slots, masks, max_overlap=0.999)
    assert torch.equal(merged, slots)
    torch.testing.assert_close(same, masks, atol=1e-6, rtol=0)
    assert exist.all()


def test_a_scene_does_not_depend_on_its_batch(slots: Tensor, masks: Tensor) -> None:
    together, _, exist = merge_slots(slots, masks, max_overlap=0.4)
    for i in range(len(slots)):
        alone, _, all_exist = merge_slots(slots[i : i + 1], masks[i : i + 1], max_overlap=0.4)
        assert all_exist.all()
        torch.testing.assert_close(alone[0], together[i, exist[i]], atol=1e-4, rtol=0)


def test_slots_are_merged_through_others() -> None:
    """Slot 0 overlaps 3, and 3 overlaps 1, but 0 and 1 do not overlap; 2 stays separate."""
    masks = torch.tensor([[[1.0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0.9, 0, 0.9, 0]]])
    slots = torch.eye(4)[None]
    merged, summed, exist = merge_slots(slots, masks[:, :, None], max_overlap=0.5)
    assert exist.tolist() == [[True, True]]
    assert summed[0, :, 0].tolist() == [pytest.approx([1.9, 0, 1.9, 0]), [0, 0, 0, 1]]
    assert merged[0, 0].tolist() == pytest.approx([1 / 3.8, 1 / 3.8, 0, 1.8 / 3.8])
    assert torch.equal(merged[0, 1], slots[0, 2])


@pytest.fixture
def pipe(tiny_pipeline_dir: Path) -> LatentSlotDiffusionPipeline:
    pipe = LatentSlotDiffusionPipeline.from_pretrained(tiny_pipeline_dir)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def generators() -> Any:
    return lambda: [torch.Generator().manual_seed(i) for i in range(3)]


def test_a_pipeline_merges_slots(
    pipe: LatentSlotDiffusionPipeline, generators: Any, tmp_path: Path
) -> None:
    images = torch.rand(3, 3, 32, 32)
    plain = pipe.encode(images, generator=generators(), num_slots=6)
    assert plain.slots_mask is None
    overlaps = torch.nn.functional.normalize(plain.masks.flatten(2), dim=2)
    middle = float((overlaps @ overlaps.transpose(1, 2)).median())
    pipe.set_inference(num_slots=6, merge_overlap=middle)
    assert pipe.num_slots == 6
    expected = merge_slots(plain.slots, plain.masks, max_overlap=middle)
    pipe.save_pretrained(tmp_path)
    for model in (pipe, type(pipe).from_pretrained(tmp_path)):
        scenes = model.encode(images, generator=generators())
        torch.testing.assert_close(scenes.slots, expected[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(scenes.masks, expected[1], atol=1e-4, rtol=0)
        exist = torch.ones_like(expected[2]) if scenes.slots_mask is None else scenes.slots_mask
        assert torch.equal(exist, expected[2])
    alone = pipe.encode(images[0], generator=generators()[:1])
    assert alone.slots_mask is None, "a single scene is not padded"
    pipe.set_inference(merge_overlap=0.0)
    assert pipe.encode(images, generator=generators()).slots.shape == (3, 6, 16)


def test_a_run_keeps_its_inference_settings(tiny_objective: Any) -> None:
    settings = InferenceSettings(num_slots=7, merge_overlap=0.25)
    pipe = tiny_objective(inference=settings).to_pipeline()
    assert (pipe.num_slots, pipe.inference.merge_overlap) == (7, 0.25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"merge_overlap": 1.0}, "merge_overlap must be at least 0 and below 1, got 1"),
        ({"merge_overlap": -0.1}, "got -0.1"),
        ({"num_slots": -1}, "num_slots at inference must be 0 .* or above, got -1"),
    ],
)
def test_wrong_settings_are_refused(
    pipe: LatentSlotDiffusionPipeline, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipe.set_inference(**options)


def test_the_number_of_learned_slots_is_fixed() -> None:
    pipe = tiny.tiny_lsd(slot_init="learned").to_pipeline()
    with pytest.raises(ValueError, match=r"at inference must be 0 or 4 for slots .* got 6"):
        pipe.set_inference(num_slots=6)
    pipe.set_inference(num_slots=4)
