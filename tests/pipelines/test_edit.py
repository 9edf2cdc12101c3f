"""Edits of slots, and images that change only where the edit does."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from latentslots import editing
from latentslots.pipelines import LatentSlotDiffusionPipeline, SlotOutput
from latentslots.pipelines.slot_edit import SlotEdit
from latentslots.pipelines.slot_output import upsample_masks
from tests import tiny


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def scenes(batch_size: int, num_slots: int, *, size: int = 8, seed: int = 0) -> SlotOutput:
    """Random slots, whose soft masks sum to 1."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch_size, num_slots, size, size, generator=generator)
    slots = torch.randn(batch_size, num_slots, tiny.SLOT_DIM, generator=generator)
    return SlotOutput(slots=slots, masks=(3 * logits).softmax(dim=1))


def squares_with_frames() -> SlotOutput:
    """A square of 2 x 2 pixels on a background of 8 x 8."""
    masks = torch.zeros(1, 2, 8, 8)
    masks[0, 1, 2:4, 1:3] = 1.0
    masks[0, 0] = 1 - masks[0, 1]
    frames = torch.tensor([[[0.0, 0.0, 0.5, 0.5], [-0.25, -0.5, 0.125, 0.125]]])
    slots = torch.cat([torch.randn(1, 2, tiny.SLOT_DIM - 4), frames], dim=2)
    return SlotOutput(slots=slots, masks=masks, has_frames=True)


def owned(scene: SlotOutput, slot: int, size: int = 8) -> Tensor:
    return upsample_masks(scene.masks, size).argmax(dim=1) == slot


def ring_with_frames() -> SlotOutput:
    """Another square of 4 x 4 pixels, lower, on a background of 8 x 8."""
    masks = torch.zeros(1, 2, 8, 8)
    masks[0, 1, 4:8, 4:8] = 1.0
    masks[0, 0] = 1 - masks[0, 1]
    frames = torch.tensor([[[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 0.25, 0.25]]])
    slots = torch.cat([torch.randn(1, 2, tiny.SLOT_DIM - 4), frames], dim=2)
    return SlotOutput(slots=slots, masks=masks, has_frames=True)


class TestSlotEdit:
    def test_what_is_exchanged_stands_where_the_old_one_stood(self) -> None:
        scene, other = squares_with_frames(), ring_with_frames()
        edit = SlotEdit.of(scene, exchange=[(1, other, 1)])
        assert torch.equal(edit.after.slots[0, 1, :-4], other.slots[0, 1, :-4])
        assert edit.after.slots[0, 1, -4:].tolist() == [-0.25, -0.5, 0.25, 0.25]
        ids = edit.after.masks.argmax(dim=1)[0]
        rows, columns = (ids == 1).nonzero(as_tuple=True)
        # 4 x 4 pixels around the center of the old ones, of which the image's edge cuts one column.
        assert (int(rows.min()), int(rows.max())) == (1, 4)
        assert (int(columns.min()), int(columns.max())) == (0, 3)
        assert torch.equal(edit.changed[0], ids == 1)  # the old square lies inside

    def test_mixtures_lie_between_both(self) -> None:
        scene, other = squares_with_frames(), ring_with_frames()
        edit = SlotEdit.of(scene, mix=[(1, other, 1, 0.25)])
        expected = torch.lerp(scene.slots[0, 1], other.slots[0, 1], 0.25)
        expected[-4:-2] = scene.slots[0, 1, -4:-2]
        torch.testing.assert_close(edit.after.slots[0, 1], expected)
        for weight, like in ((0.0, scene), (1.0, other)):
            end = SlotEdit.of(scene, mix=[(1, other, 1, weight)])
            torch.testing.assert_close(end.after.slots[0, 1, :-4], like.slots[0, 1, :-4])
        with pytest.raises(ValueError, match=r"weight from 0 to 1, got 1\.5"):
            SlotEdit.of(scene, mix=[(1, other, 1, 1.5)])

    def test_without_frames_it_stays_where_it_was_in_its_scene(self) -> None:
        scene, other = scenes(1, 3), scenes(1, 3, seed=1)
        edit = SlotEdit.of(scene, exchange=[(2, other, 0)], mix=[(1, other, 1, 0.5)])
        torch.testing.assert_close(edit.after.slots[0, 2], other.slots[0, 0])
        expected = (scene.slots[0, 1] + other.slots[0, 1]) / 2
        torch.testing.assert_close(edit.after.slots[0, 1], expected)
        for slot, theirs in ((2, 0), (1, 1)):
            both = owned(scene, slot) | owned(other, theirs)
            assert (edit.changed | ~both).float().mean() > 0.9

    def test_copies_are_centered_at_their_points_and_lie_in_front(self) -> None:
        scene = squares_with_frames()
        edit = SlotEdit.of(scene, copy=[(1, (0.5, 0.5), 2.0)])
        torch.testing.assert_close(edit.after.slots[0, 2, :-4], scene.slots[0, 1, :-4])
        torch.testing.assert_close(edit.after.frames[0, 2], torch.tensor([0.5, 0.5, 0.25, 0.25]))
        ids = edit.after.masks.argmax(dim=1)[0]
        rows, columns = (ids == 2).nonzero(as_tuple=True)
        assert (int(rows.min()), int(rows.max())) == (4, 7)
        assert (int(columns.min()), int(columns.max())) == (4, 7)
        assert int((ids == 1).sum()) == 4

    def test_things_of_coarser_masks_are_put_in(self) -> None:
        scene, other = squares_with_frames(), ring_with_frames()
        coarse = torch.nn.functional.avg_pool2d(other.masks, 2)
        small = SlotOutput(slots=other.slots, masks=coarse, has_frames=True)
        edit = SlotEdit.of(scene, place=[(small, 1, (0.0, 0.0))], size=8)
        assert edit.after.masks.shape == (1, 3, 8, 8)
        assert 9 <= int((edit.after.masks.argmax(dim=1) == 2).sum()) <= 25

    def test_the_pixels_of_removed_slots_change(self) -> None:
        scene = scenes(2, 4)
        edit = SlotEdit.of(scene, remove=torch.tensor([1, 3]))
        assert torch.equal(edit.before.slots, scene.slots)
        assert torch.equal(edit.after.slots, editing.remove(scene.slots, torch.tensor([1, 3])))
        assert torch.equal(edit.changed[0], owned(scene, 1)[0])
        assert torch.equal(edit.changed[1], owned(scene, 3)[1])
        assert edit.after.slots_mask is None
        kept = scene.masks[0, [0, 2, 3]].clone()
        ground = kept.sum(dim=(1, 2)).argmax()  # which gets the pixels of what is gone
        kept[ground] += scene.masks[0, 1]
        torch.testing.assert_close(edit.after.masks[0], kept)

    def test_several_changes_use_the_slot_numbers_before_the_edit(self) -> None:
        scene, other = scenes(1, 4), scenes(1, 3, seed=1)
        edit = SlotEdit.of(
            scene, remove=[0], replace=[(3, other, 1)], insert=[(other, [0, 2])], size=16
        )
        expected = torch.cat([scene.slots[:, 1:3], other.slots[:, [1, 0, 2]]], dim=1)
        assert torch.equal(edit.after.slots, expected)
        pixels = owned(scene, 0, 16) | owned(scene, 3, 16)
        for slot in (0, 1, 2):
            pixels |= owned(other, slot, 16)
        assert torch.equal(edit.changed, pixels)
        torch.testing.assert_close(edit.after.masks.sum(dim=1), torch.ones(1, 8, 8))

    def test_a_moved_slot_changes_where_it_was_and_where_it_is(self) -> None:
        scene = squares_with_frames()
        edit = SlotEdit.of(scene, move=[(1, (0.5, 0.0))])
        expected = torch.zeros(1, 8, 8, dtype=torch.bool)
        expected[0, 2:4, 1:3] = expected[0, 2:4, 3:5] = True
        assert torch.equal(edit.changed, expected)
        assert torch.equal(edit.before.slots, scene.slots)
        assert torch.equal(edit.after.slots, editing.move(scene.slots, 1, (0.5, 0.0)))
        assert (edit.after.segmentation()[0, 2:4, 3:5] == 1).all()
        assert (edit.after.segmentation() == 1).sum() == 4
        assert edit.after.has_frames

    def test_a_scaled_slot_covers_what_is_around_it(self) -> None:
        scene = squares_with_frames()
        edit = SlotEdit.of(scene, scale=[(1, 2.0)])
        assert edit.changed[0, 1:5, 0:4].all()
        assert edit.changed.sum() < 25

    def test_a_slot_of_another_scene_is_placed_at_a_point(self) -> None:
        scene = squares_with_frames()
        edit = SlotEdit.of(scene, place=[(scene, 1, (0.5, 0.5))])
        expected = torch.zeros(1, 8, 8, dtype=torch.bool)
        expected[0, 5:7, 5:7] = True
        assert torch.equal(edit.changed, expected)
        assert torch.equal(edit.after.slots[:, :2], scene.slots)
        assert edit.after.slots[0, 2, -4:-2].tolist() == [0.5, 0.5]

    def test_slots_without_frames_do_not_move(self) -> None:
        scene = scenes(1, 3)
        message = "have no frames, so they cannot be moved"
        with pytest.raises(ValueError, match=message):
            SlotEdit.of(scene, move=[(0, (0.1, 0.0))])
        with pytest.raises(ValueError, match=message):
            SlotEdit.of(scene, scale=[(0, 2.0)])
        with pytest.raises(ValueError, match=message):
            SlotEdit.of(scene, place=[(scene, 0, (0.0, 0.0))])

    def test_a_new_background_changes_no_object(self) -> None:
        scene, other = scenes(1, 4), scenes(1, 3, seed=1)
        edit = SlotEdit.of(scene, background=other)
        mine, theirs = (int(editing.background(each.masks)) for each in (scene, other))
        assert torch.equal(edit.changed, owned(scene, mine))
        expected = editing.replace(scene.slots, mine, other.slots[:, theirs])
        assert torch.equal(edit.after.slots, expected)

    def test_missing_slots_stay_missing(self) -> None:
        scene = scenes(2, 4)
        scene.slots_mask = torch.ones(2, 4, dtype=torch.bool)
        scene.slots_mask[1, 3] = False
        edit = SlotEdit.of(scene, remove=0)
        assert edit.after.slots_mask is not None
        assert torch.equal(edit.after.slots_mask, scene.slots_mask[:, 1:])

    def test_edits_of_different_sizes_become_a_batch(self) -> None:
        one = SlotEdit.of(scenes(1, 4), remove=[1, 2])
        two = SlotEdit.of(scenes(1, 3, seed=1), insert=[(scenes(1, 3, seed=2), 0)])
        both = SlotEdit.batch([one, two])
        assert both.before.slots.shape[:2] == (2, 4)
        assert both.before.slots_mask is not None
        assert both.after.slots_mask is not None
        assert both.before.slots_mask.sum(dim=1).tolist() == [4, 3]
        assert both.after.slots_mask.sum(dim=1).tolist() == [2, 4]
        assert torch.equal(both.after.slots[0, :2], one.after.slots[0])
        assert torch.equal(both.changed, torch.cat([one.changed, two.changed]))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"remove": 4}, "no slot 4: the scene has slots 0 to 3"),
            ({"remove": [0, 1, 2, 3]}, "all 4 slots would be removed"),
            ({"replace": [(0, scenes(1, 3), 3)]}, "no slot 3: the scene has slots 0 to 2"),
        ],
    )
    def test_mistakes_are_named(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            SlotEdit.of(scenes(1, 4), **changes)


def edit_of(pipe: LatentSlotDiffusionPipeline, images: Tensor, changed: Tensor) -> SlotEdit:
    """An edit that removes slot 0, with changed pixels set by hand."""
    scene = pipe.encode(images, generator=generators(*range(len(images))))
    return SlotEdit(scene, SlotEdit.of(scene, remove=0).after, changed)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("margin", [0, 2])
def test_the_edit_is_sampled_to_its_edge(
    tiny_pipeline: LatentSlotDiffusionPipeline, margin: int
) -> None:
    image = torch.full((1, 3, 32, 32), 0.5)
    changed = torch.zeros(1, 32, 32, dtype=torch.bool)
    changed[:, 10:13, 10:13] = True
    edit = edit_of(tiny_pipeline, image, changed)
    images = {
        paste: tiny_pipeline.edit(
            image,
            edit,
            margin=margin,
            paste=paste,
            generator=torch.Generator().manual_seed(0),
            num_inference_steps=2,
            output_type="np",
        ).images
        for paste in (True, False)
    }
    assert images[True].shape == (1, 32, 32, 3)
    assert images[True][changed.numpy()] == pytest.approx(images[False][changed.numpy()])
    with pytest.raises(ValueError, match="must be pil, np, pt or latent, got 'tensor'"):
        tiny_pipeline.edit(image, edit, output_type="tensor")


def test_an_edit_of_other_images_is_refused(tiny_pipeline: LatentSlotDiffusionPipeline) -> None:
    image = torch.full((1, 3, 32, 32), 0.5)
    edit = edit_of(tiny_pipeline, image, torch.zeros(1, 16, 16, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"of 1 images of 32 x 32 pixels.*shape \[1, 16, 16\]"):
        tiny_pipeline.edit(image, edit)


def test_pixels_away_from_an_edit_do_not_change(tiny_pipeline: LatentSlotDiffusionPipeline) -> None:
    before = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    changed = torch.zeros(2, 32, 32, dtype=torch.bool)
    changed[:, 8:20, :12] = True
    edit = edit_of(tiny_pipeline, before, changed)

    def apply(**options: bool) -> Tensor:
        images = tiny_pipeline.edit(
            before,
            edit,
            generator=generators(0, 1),
            num_inference_steps=2,
            output_type="pt",
            **options,
        ).images
        assert isinstance(images, Tensor)
        return images

    images, blended = apply(), apply(paste=False)
    far, near = torch.ones(32, 32, dtype=torch.bool), torch.zeros(32, 32, dtype=torch.bool)
    far[6:22, :14] = False  # one pixel of margin, one of the soft edge
    near[8:20, :12] = True
    torch.testing.assert_close(images[..., far], before[..., far])
    torch.testing.assert_close(images[..., near], blended[..., near])
    assert (blended[..., far] - before[..., far]).abs().max() > 1e-2
    assert torch.equal(apply(blending=False), apply(blending=False, paste=False))


@pytest.mark.parametrize("blending", [True, False])
def test_images_of_another_size_keep_it(
    tiny_pipeline: LatentSlotDiffusionPipeline, blending: bool
) -> None:
    image = torch.full((1, 3, 32, 48), 0.5)
    changed = torch.zeros(1, 32, 48, dtype=torch.bool)
    changed[:, :8] = True
    images = tiny_pipeline.edit(
        image,
        edit_of(tiny_pipeline, image, changed),
        blending=blending,
        num_inference_steps=2,
        output_type="pt",
    ).images
    assert images.shape == (1, 3, 32, 48)


def test_an_edit_does_not_depend_on_its_batch(
    tiny_pipeline: LatentSlotDiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentslots.pipelines.edit.NUM_INVERSION_STEPS", 2)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    masks = F.one_hot(torch.arange(32).expand(2, 32, 32) // 8, 4).movedim(-1, 1).float()
    slots = torch.randn(2, 4, tiny.SLOT_DIM)
    edits = [
        SlotEdit.of(SlotOutput(slots=slots[i : i + 1], masks=masks[i : i + 1]), remove=remove)
        for i, remove in enumerate(([1], [0, 2]))
    ]
    options: dict[str, Any] = {"num_inference_steps": 2, "output_type": "pt", "inversion": True}
    both = tiny_pipeline.edit(images, SlotEdit.batch(edits), **options).images
    for i, edit in enumerate(edits):
        alone = tiny_pipeline.edit(images[i : i + 1], edit, **options).images
        torch.testing.assert_close(both[i : i + 1], alone, atol=1e-4, rtol=0)
