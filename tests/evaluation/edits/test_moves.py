"""Moves of objects, by an editor that moves exactly, one that does nothing, and a slow referee."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset, Features, Image
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from latentslots.config.sampling import Sampling
from latentslots.evaluation.edits.moves import (
    DISTANCE,
    evaluate_moves,
    find_pixels,
    move_rows,
    move_table,
    shift_masks,
)
from latentslots.evaluation.edits.pairs import METHODS
from latentslots.models.autoencoder import encode_latents
from latentslots.models.frames import cell_centers, measure_frames
from latentslots.pipelines import SlotOutput
from latentslots.pipelines.slot_edit import SlotEdit
from tests.evaluation.squares import png
from tests.tiny import tiny_autoencoder

SIDE = 64


def squares(number: int) -> Dataset:
    """A striped square on gray, near a corner, and a small one at the opposite side."""
    rows = []
    for i in range(number):
        ids = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
        ids[10 + i : 20 + i, 8:18] = 1
        ids[50:57, 50:57] = 2
        pixels = torch.full((SIDE, SIDE, 3), 90, dtype=torch.uint8)
        pixels[ids == 1] = torch.tensor([200, 40, 40], dtype=torch.uint8)
        pixels[12 + i, 8:18] = 255
        pixels[ids == 2] = 10
        rows.append({"image": png(pixels.numpy()), "segmentation": png(ids.numpy())})
    return Dataset.from_list(rows, features=Features(image=Image(), segmentation=Image()))


class Mover:
    """A pipeline that knows the objects and moves pixels; `step` distorts what is asked."""

    resolution, has_frames = SIDE, True

    def __init__(self, step: tuple[int, int] = (0, 0), share: float = 1.0) -> None:
        self.step, self.share, self.vae = torch.tensor(step), share, tiny_autoencoder()
        self.scheduler = DPMSolverMultistepScheduler()

    def encode_latents(self, pixel_values: Tensor) -> Tensor:
        return encode_latents(self.vae, pixel_values)

    def encode_pixel_values(self, pixel_values: Tensor, **_: Any) -> SlotOutput:
        ground = ((pixel_values + 1) / 2 * 255).round()[:, 0] == 90
        masks = torch.stack([ground, ~ground], dim=1).float()
        masks[:, 1, 40:] = 0
        masks[:, 0] = 1 - masks[:, 1]
        frames = measure_frames(masks.flatten(2), cell_centers(SIDE, SIDE))
        slots = torch.cat([torch.zeros(len(masks), 2, 3), frames], dim=2)
        return SlotOutput(slots=slots, masks=masks, has_frames=self.has_frames)

    def edit(self, images: Tensor, edit: SlotEdit, **_: Any) -> SimpleNamespace:
        before, after = edit.before.frames, edit.after.frames
        assert before is not None
        assert after is not None
        way = ((after - before)[:, 1, :2] * SIDE / 2).round().long()
        mask = edit.before.segmentation() == 1
        painted = self.vae.decode(encode_latents(self.vae, images * 2 - 1)).sample
        decoded = ((painted + 1) / 2).clamp(0, 1)
        edited = torch.where(mask[:, None], torch.full_like(decoded, 90 / 255), decoded)
        for one, source, region, step in zip(edited, decoded, mask, way, strict=True):
            place = region.nonzero() + ((step * self.share).long() + self.step)
            one[:, place[:, 0], place[:, 1]] = source[:, region]
        return SimpleNamespace(images=edited)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return squares(5)


@pytest.mark.parametrize("step", [(0, 0), (1, 1)])
def test_an_exact_move_succeeds(data: Dataset, step: tuple[int, int]) -> None:
    reports = evaluate_moves(Mover(step), data, sampling=Sampling(), batch_size=2)
    assert list(reports) == list(METHODS)
    for report in reports.values():
        assert (report.num_images, report.num_found) == (5, 5)
        assert (report.placed, report.kept, report.success) == (1, 1, 1)
        assert report.psnr == pytest.approx(report.psnr_ceiling, abs=0.5)
    assert len(move_table(reports).splitlines()) == 2 + 2 + len(METHODS) + 1


@pytest.mark.parametrize(("step", "share"), [((0, 0), 0.0), ((2, 0), 1.0), ((0, 0), 0.5)])
def test_an_object_that_is_elsewhere_fails(
    data: Dataset, step: tuple[int, int], share: float
) -> None:
    reports = evaluate_moves(Mover(step, share), data, sampling=Sampling())
    assert (reports["plain"].placed, reports["plain"].success) == (0, 0)
    assert reports["plain"].kept == 1, "the rest of the image is as it was"


def test_pixels_are_found_where_loops_find_them() -> None:
    generator = torch.Generator().manual_seed(0)
    source, target = torch.rand(2, 3, 12, 12, generator=generator), torch.zeros(2, 3, 12, 12)
    mask = torch.zeros(2, 12, 12, dtype=torch.bool)
    mask[0, 2:5, 3:6] = mask[1, 6:9, 1:5] = True
    way = torch.tensor([[3, -2], [-4, 5]])
    for one, other, region, step in zip(source, target, mask, way, strict=True):
        for y, x in region.nonzero().tolist():
            other[:, y + int(step[0]), x + int(step[1])] = one[:, y, x]
    assert torch.equal(find_pixels(source, mask, target, reach=6), way)
    assert torch.equal(shift_masks(mask, way), (target != 0).any(dim=1))
    gone = shift_masks(mask, torch.tensor([[-4, 0], [20, 0]]))
    assert gone.sum(dim=(1, 2)).tolist() == [3, 0]


def test_the_largest_object_with_room_moves_toward_the_middle(data: Dataset) -> None:
    seen = []

    class Watcher(Mover):
        def edit(self, images: Tensor, edit: SlotEdit, **options: Any) -> SimpleNamespace:
            assert edit.before.frames is not None
            assert edit.after.frames is not None
            seen.append((edit.after.frames - edit.before.frames)[:, 1, :2] * SIDE / 2)
            return super().edit(images, edit, **options)

    evaluate_moves(Watcher(), data.select([0]), sampling=Sampling())
    torch.testing.assert_close(seen[0], torch.tensor([[0.0, float(DISTANCE)]]))


def test_slots_without_frames_are_refused(data: Dataset) -> None:
    pipe = Mover()
    pipe.has_frames = False
    with pytest.raises(ValueError, match="the slots of this model have no frames"):
        evaluate_moves(pipe, data, sampling=Sampling())


def test_images_without_segmentations_are_refused(data: Dataset) -> None:
    images = data.remove_columns("segmentation")
    assert move_rows(images) == []
    with pytest.raises(ValueError, match="in images with segmentations only"):
        evaluate_moves(Mover(), images, sampling=Sampling())


def test_objects_without_room_are_left_out(data: Dataset) -> None:
    full = torch.ones(SIDE, SIDE, dtype=torch.uint8)
    row = {
        "image": png(full[..., None].expand(-1, -1, 3).numpy()),
        "segmentation": png(full.numpy()),
    }
    images = Dataset.from_list([row], features=data.features)
    with pytest.raises(ValueError, match="no slot covers an object that can move in 1 images"):
        evaluate_moves(Mover(), images, sampling=Sampling())
