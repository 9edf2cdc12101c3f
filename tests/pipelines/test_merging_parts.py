"""Merging parts of objects, by slots that paint their region in its mean color."""

from typing import Any

import pytest
import torch
from torch import Tensor

from latentslots.pipelines import LatentSlotDiffusionPipeline
from latentslots.pipelines.inference import InferenceSettings
from latentslots.pipelines.merging_parts import merge_parts
from tests import tiny
from tests.regions import (
    BLUE,
    FAR,
    LEFT,
    OTHER,
    RED,
    RIGHT,
    SIDE,
    MeanColors,
    PaintedRegions,
    encode,
    regions,
    scene,
)


def merge(images: Tensor, masks: Tensor, max_error: float = 0.01) -> tuple[Tensor, Tensor]:
    return merge_parts(
        encode(images, masks),
        masks,
        images,
        images,
        slot_encoder=MeanColors(),
        decoder=PaintedRegions(),
        max_error=max_error,
    )


def test_parts_of_an_object_become_one_slot() -> None:
    image, masks = scene((LEFT, RED), (OTHER, BLUE), (RIGHT, RED))
    slots, exist = merge(image[None], masks[None])
    assert exist.tolist() == [[True, True, True]]
    torch.testing.assert_close(regions(slots)[0, 1], LEFT + RIGHT)  # the first one's index
    torch.testing.assert_close(regions(slots)[0, 2], OTHER)
    torch.testing.assert_close(slots[0, 1, :3], torch.tensor(RED))
    expected = encode(image[None], (LEFT + RIGHT)[None, None])
    torch.testing.assert_close(slots[0, 1], expected[0, 0])


def test_objects_that_do_not_touch_stay_apart() -> None:
    image, masks = scene((LEFT, RED), (FAR, RED))
    slots, exist = merge(image[None], masks[None])
    assert exist.shape == (1, 3)
    assert exist.all()
    torch.testing.assert_close(regions(slots)[0], masks)


def test_a_slot_must_be_worth_its_error() -> None:
    shades = (0.8, -0.5, -0.5), (0.8, -0.4, -0.4)
    image, masks = scene((LEFT, shades[0]), (RIGHT, shades[1]))
    union = encode(image[None], (LEFT + RIGHT)[None, None])[0, 0, :3]
    painted = torch.where(LEFT + RIGHT > 0, union[:, None, None], image)
    worth = float((painted - image).square().mean()) / 0.3**2
    assert worth > 1e-4
    assert merge(image[None], masks[None], 0.95 * worth)[1].sum() == 3
    assert merge(image[None], masks[None], 1.05 * worth)[1].sum() == 2


def test_scenes_are_merged_on_their_own() -> None:
    scenes = [scene((LEFT, RED), (RIGHT, RED)), scene((LEFT, RED), (RIGHT, BLUE))]
    images, masks = (torch.stack(parts) for parts in zip(*scenes, strict=True))
    slots, exist = merge(images, masks)
    assert exist.tolist() == [[True, True, False], [True, True, True]]
    assert slots[0, 2].abs().sum() == 0
    for index, (image, mask) in enumerate(scenes):
        alone, _ = merge(image[None], mask[None])
        assert torch.equal(alone[0], slots[index, exist[index]])


def test_everything_merges_if_no_error_is_too_large() -> None:
    image, masks = scene((LEFT, RED), (OTHER, BLUE), (FAR, RED))
    slots, exist = merge(image[None], masks[None], 1e6)
    assert exist.tolist() == [[True]]
    torch.testing.assert_close(regions(slots)[0, 0], torch.ones(SIDE, SIDE))


def test_one_slot_has_nothing_to_merge_with() -> None:
    image = torch.zeros(1, 3, SIDE, SIDE)
    slots, exist = merge(image, torch.ones(1, 1, SIDE, SIDE))
    assert exist.tolist() == [[True]]
    assert torch.equal(regions(slots), torch.ones(1, 1, SIDE, SIDE))


class TestPipeline:
    @pytest.fixture
    def pipe(self) -> LatentSlotDiffusionPipeline:
        return tiny.tiny_lsd(frames=True, patch_decoder_weight=1.0).to_pipeline()

    def test_merged_scenes_are_whole(self, pipe: LatentSlotDiffusionPipeline) -> None:
        images = torch.rand(3, 3, 32, 32) * 2 - 1
        counts = []
        for max_error in (0.0, 1e-3, 1e3):
            pipe.set_inference(num_slots=6, merge_error=max_error)
            out = pipe.encode_pixel_values(images, generator=torch.Generator().manual_seed(0))
            exist = out.slots_mask if out.slots_mask is not None else out.masks.flatten(2).any(2)
            counts.append(int(exist.sum()))
            torch.testing.assert_close(out.masks.sum(dim=1), torch.ones(3, 32, 32))
            assert (out.masks.flatten(2).amax(dim=2) > 0).equal(exist)
            assert out.frames is not None
        assert counts[0] == 18
        assert counts[0] >= counts[1] > counts[2]

    def test_merged_scenes_are_painted_and_edited(self, pipe: LatentSlotDiffusionPipeline) -> None:
        images = torch.rand(2, 3, 32, 32) * 2 - 1
        pipe.set_inference(num_slots=4, merge_error=0.01)
        out = pipe.encode_pixel_values(images, generator=torch.Generator().manual_seed(0))
        painted = pipe(
            slots=out.slots, slots_mask=out.slots_mask, num_inference_steps=1, output_type="pt"
        ).images
        assert painted.shape[0] == 2
        assert painted.isfinite().all()

    def test_the_setting_is_saved(self, pipe: LatentSlotDiffusionPipeline, tmp_path: Any) -> None:
        pipe.set_inference(merge_error=0.02)
        pipe.save_pretrained(tmp_path)
        again = LatentSlotDiffusionPipeline.from_pretrained(tmp_path)
        assert again.inference == InferenceSettings(merge_error=0.02)

    def test_one_way_of_merging_replaces_the_other(self, pipe: LatentSlotDiffusionPipeline) -> None:
        pipe.set_inference(merge_error=0.02)
        pipe.set_inference(merge_overlap=0.3)
        assert (pipe.inference.merge_overlap, pipe.inference.merge_error) == (0.3, 0.0)
        pipe.set_inference(merge_error=0.01)
        assert (pipe.inference.merge_overlap, pipe.inference.merge_error) == (0.0, 0.01)

    def test_attention_masks_are_not_merged_by_paintings(
        self, pipe: LatentSlotDiffusionPipeline
    ) -> None:
        pipe.set_inference(merge_error=0.02)
        pipe.use_attention_masks()
        assert pipe.inference.merge_error == 0
        assert pipe.mask_source == "attention"
        out = pipe.encode_pixel_values(torch.zeros(1, 3, 32, 32))
        assert out.slots_mask is None
        assert out.masks.shape[2:] == (16, 16), "tokens, not pixels"
        painted = pipe(out.slots, num_inference_steps=1, output_type="pt").images
        assert painted.isfinite().all(), "the denoiser keeps its map"


def test_models_without_sprites_refuse_it() -> None:
    pipe = tiny.tiny_lsd(patch_decoder_weight=1.0).to_pipeline()
    with pytest.raises(ValueError, match=r"merge_error=0\.02 needs a model that decodes sprites"):
        pipe.set_inference(merge_error=0.02)
    assert pipe.inference.merge_error == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"merge_error": -0.1}, "merge_error must be finite and 0 or more, got -0.1"),
        ({"merge_error": float("nan")}, "got nan"),
        ({"merge_error": 0.1, "merge_overlap": 0.2}, "by overlap or by error, not both"),
    ],
)
def test_refuses_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InferenceSettings(**settings)
