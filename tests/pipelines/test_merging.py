from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latentslots.pipelines import LatentSlotDiffusionPipeline
from latentslots.pipelines.base import InferenceSettings
from latentslots.pipelines.merging import merge_slots
from tests import tiny


def slow_merge(slots: Tensor, masks: Tensor, max_overlap: float) -> list[tuple[Tensor, Tensor]]:
    """One scene after the other, one pair of slots after the other."""
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
    """Some slots look alike, others do not."""
    logits = 2 * torch.randn(20, 3, 5, 4).repeat(1, 2, 1, 1) + torch.randn(20, 6, 5, 4)
    return logits.softmax(dim=1)


@pytest.mark.parametrize("max_overlap", [0.0, 0.2, 0.4, 0.6, 0.9])
def test_agrees_with_one_pair_after_the_other(
    slots: Tensor, masks: Tensor, max_overlap: float
) -> None:
    merged, summed, exist = merge_slots(slots, masks, max_overlap=max_overlap)
    for i, (vectors, maps) in enumerate(slow_merge(slots, masks, max_overlap)):
        count = int(exist[i].sum())
        assert exist[i].tolist() == [True] * count + [False] * (len(exist[i]) - count)
        torch.testing.assert_close(merged[i, :count], vectors.float())
        torch.testing.assert_close(summed[i, :count].flatten(1), maps.float())
        assert merged[i, count:].abs().sum() == summed[i, count:].sum() == 0
    assert exist.shape[1] == exist.sum(dim=1).max()
    torch.testing.assert_close(summed.sum(dim=1), torch.ones(20, 5, 4))


def test_what_overlaps_little_stays_bit_for_bit(slots: Tensor, masks: Tensor) -> None:
    merged, same, exist = merge_slots(slots, masks, max_overlap=0.999)
    assert torch.equal(merged, slots)
    torch.testing.assert_close(same, masks, atol=1e-6, rtol=0)
    assert exist.all()


def test_a_scene_does_not_depend_on_its_batch(slots: Tensor, masks: Tensor) -> None:
    together, _, exist = merge_slots(slots, masks, max_overlap=0.4)
    for i in range(len(slots)):
        alone, _, all_exist = merge_slots(slots[i : i + 1], masks[i : i + 1], max_overlap=0.4)
        assert all_exist.all()
        torch.testing.assert_close(alone[0], together[i, exist[i]])


def test_links_reach_over_others() -> None:
    """Slot 0 overlaps 3, and 3 overlaps 1, but 0 and 1 have nothing in common; 2 is apart."""
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


def test_a_pipeline_merges_what_it_finds(
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
        found = model.encode(images, generator=generators())
        torch.testing.assert_close(found.slots, expected[0])
        torch.testing.assert_close(found.masks, expected[1])
        exist = torch.ones_like(expected[2]) if found.slots_mask is None else found.slots_mask
        assert torch.equal(exist, expected[2])
    alone = pipe.encode(images[0], generator=generators()[:1])
    assert alone.slots_mask is None, "one scene has the slots that it has"
    pipe.set_inference(merge_overlap=0.0)
    assert pipe.encode(images, generator=generators()).slots.shape == (3, 6, 16)


def test_how_slots_are_found_is_kept_by_a_run(tiny_objective: Any) -> None:
    pipe = tiny_objective(
        inference=InferenceSettings(num_slots=7, merge_overlap=0.25)
    ).to_pipeline()
    assert (pipe.num_slots, pipe.inference.merge_overlap) == (7, 0.25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"merge_overlap": 1.0}, "merge_overlap must be at least 0 and below 1, got 1"),
        ({"merge_overlap": -0.1}, "got -0.1"),
        ({"num_slots": -1}, "num_slots at inference must be 0 .* or above, got -1"),
    ],
)
def test_mistakes_are_named(
    pipe: LatentSlotDiffusionPipeline, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipe.set_inference(**options)


def test_learned_slots_are_as_many_as_they_are() -> None:
    pipe = tiny.tiny_lsd(slot_init="learned").to_pipeline()
    with pytest.raises(ValueError, match=r"learned vectors are always 4: .* must be 0, got 6"):
        pipe.set_inference(num_slots=6)
    pipe.set_inference(num_slots=4)
