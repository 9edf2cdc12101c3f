"""Edited photographs keep their size, and every pixel away from the edit."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from latentslots import LatentSlotDiffusionPipeline
from latentslots.pipelines.full_size import Area, central_square, check_area, paste_into
from latentslots.pipelines.slot_edit import SlotEdit
from latentslots.pipelines.slot_output import SlotOutput
from tests import tiny

ORIENTATION, LEFT_AND_UP = 0x0112, 6


def photograph(width: int, height: int, mode: str = "RGB") -> Image.Image:
    channels = {"RGB": 3, "RGBA": 4, "L": 1, "LA": 2}[mode]
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels, mode=mode)


def changed(rows: slice, columns: slice) -> torch.Tensor:
    pixels = torch.zeros(1, 32, 32, dtype=torch.bool)
    pixels[:, rows, columns] = True
    return pixels


def edit_of(pixels: torch.Tensor) -> SlotEdit:
    masks = F.one_hot(torch.arange(32).expand(1, 32, 32) // 8, 4).movedim(-1, 1).float()
    slots = torch.randn(1, 4, tiny.SLOT_DIM, generator=torch.Generator().manual_seed(0))
    scene = SlotOutput(slots=slots, masks=masks)
    return SlotEdit(before=scene, after=SlotEdit.of(scene, remove=[1]).after, changed=pixels)


def apply(pipe: Any, image: Image.Image, pixels: torch.Tensor, **options: Any) -> Image.Image:
    (edited,) = pipe.edit(
        image,
        edit_of(pixels),
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        **options,
    ).images
    return edited


def far_from(area: Area, rows: slice, columns: slice, size: tuple[int, int]) -> np.ndarray:
    """Pixels of the photograph that are 3 or more of the model's pixels away from the change."""
    left, top, right, _ = area
    scale = (right - left) / 32
    far = np.ones((size[1], size[0]), bool)
    first_row, last_row = (
        round(top + scale * (r + d)) for r, d in ((rows.start, -3), (rows.stop, 3))
    )
    first, last = (
        round(left + scale * (c + d)) for c, d in ((columns.start, -3), (columns.stop, 3))
    )
    far[max(first_row, 0) : last_row, max(first, 0) : last] = False
    return far


@pytest.mark.parametrize("size", [(96, 64), (64, 96), (33, 47), (32, 32), (200, 20), (1, 1)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
def test_pixels_away_from_the_edit_are_those_of_the_photograph(
    tiny_pipeline: LatentSlotDiffusionPipeline, size: tuple[int, int], mode: str
) -> None:
    image = photograph(*size, mode)
    rows, columns = slice(10, 20), slice(4, 14)
    edited = apply(tiny_pipeline, image, changed(rows, columns))
    assert edited.size == size
    kind = "RGBA" if mode in ("RGBA", "LA") else "RGB"
    assert edited.mode == kind
    before, after = np.asarray(image.convert(kind)), np.asarray(edited)
    far = far_from(central_square(size), rows, columns, size)
    assert (after[far] == before[far]).all()
    if min(size) > 1:
        assert (after != before).any()
        if kind == "RGBA":
            opaque = (after[..., :3] != before[..., :3]).any(axis=2) & ~far
            assert after[opaque][:, 3].mean() > before[opaque][:, 3].mean()


def test_nothing_changes_where_nothing_is_edited(
    tiny_pipeline: LatentSlotDiffusionPipeline,
) -> None:
    image = photograph(50, 70)
    edited = apply(tiny_pipeline, image, changed(slice(0, 0), slice(0, 0)))
    assert (np.asarray(edited) == np.asarray(image)).all()


def test_an_area_is_edited_and_edits_in_several_compose(
    tiny_pipeline: LatentSlotDiffusionPipeline,
) -> None:
    image = photograph(120, 80)
    everything = changed(slice(0, 32), slice(0, 32))
    first: Area = (5, 10, 45, 50)
    second: Area = (60, 20, 110, 70)
    one = apply(tiny_pipeline, image, everything, area=first)
    both = apply(tiny_pipeline, one, everything, area=second)
    before, after = np.asarray(image), np.asarray(both)
    inside = np.zeros((80, 120), bool)
    for left, top, right, bottom in (first, second):
        inside[top:bottom, left:right] = True
        assert (after[top:bottom, left:right] != before[top:bottom, left:right]).mean() > 0.9
    assert (after[~inside] == before[~inside]).all()
    assert (after[10:50, 5:45] == np.asarray(one)[10:50, 5:45]).all()


def test_the_model_sees_the_area(tiny_pipeline: LatentSlotDiffusionPipeline) -> None:
    """Blending starts from its latents, so that the same square alone gives the same result."""
    image = photograph(120, 80)
    area: Area = (5, 10, 69, 74)
    pixels = changed(slice(8, 24), slice(8, 24))
    whole = apply(tiny_pipeline, image, pixels, area=area)
    alone = apply(tiny_pipeline, image.crop(area), pixels)
    assert (np.asarray(whole.crop(area)) == np.asarray(alone)).all()


def test_the_size_of_the_model_on_request(tiny_pipeline: LatentSlotDiffusionPipeline) -> None:
    image = photograph(96, 64)
    pixels = changed(slice(8, 24), slice(8, 24))
    assert apply(tiny_pipeline, image, pixels, full_size=False).size == (32, 32)
    assert apply(tiny_pipeline, image, pixels, output_type="np").shape == (32, 32, 3)


def test_exif_and_color_profile_are_kept() -> None:
    image = photograph(60, 40)
    exif = Image.Exif()
    exif[ORIENTATION] = LEFT_AND_UP
    exif[0x010F] = "Maker"
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", exif=exif, icc_profile=b"profile", quality=95)
    turned = Image.open(buffer)
    result = paste_into(turned, torch.zeros(3, 4, 4), torch.zeros(1, 4, 4))
    assert result.size == (40, 60)
    assert (np.asarray(result) == np.rot90(np.asarray(turned), -1)).all()
    assert result.info["icc_profile"] == b"profile"
    assert result.getexif().get(0x010F) == "Maker"
    assert ORIENTATION not in result.getexif()


@pytest.mark.parametrize(
    ("area", "message"),
    [
        ((0, 0, 20, 30), "must be a square of 1 pixel or more, got 20 x 30"),
        ((0, 0, 0, 0), "must be a square of 1 pixel or more, got 0 x 0"),
        ((5, 5, 2, 2), "must be a square of 1 pixel or more"),
        ((-1, 0, 20, 21), "must lie in the image of 96 x 64 pixels, got x from -1 to 20"),
        ((40, 0, 105, 65), "must lie in the image"),
    ],
)
def test_areas_that_are_none(
    tiny_pipeline: LatentSlotDiffusionPipeline, area: Area, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_area(area, (96, 64))
    with pytest.raises(ValueError, match=message):
        apply(tiny_pipeline, photograph(96, 64), changed(slice(0, 4), slice(0, 4)), area=area)


def test_an_area_is_of_one_picture(tiny_pipeline: LatentSlotDiffusionPipeline) -> None:
    pixels = torch.full((1, 3, 32, 32), 0.5)
    with pytest.raises(ValueError, match="an area applies to a single PIL image"):
        tiny_pipeline.edit(pixels, edit_of(changed(slice(0, 4), slice(0, 4))), area=(0, 0, 9, 9))
