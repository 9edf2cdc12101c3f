"""Painting an edit: what changed is painted, all else stays."""

import pytest
import torch

from latentslots.pipelines import LatentSlotDiffusionPipeline
from latentslots.pipelines.edit import paint_edit


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("margin", [0, 2])
def test_what_was_edited_is_painted_to_its_edge(
    tiny_pipeline: LatentSlotDiffusionPipeline, margin: int
) -> None:
    pixel_values = torch.zeros(1, 3, 32, 32)
    slots = tiny_pipeline.encode_pixel_values(pixel_values).slots
    changed = torch.zeros(1, 32, 32, dtype=torch.bool)
    changed[:, 10:13, 10:13] = True
    images = {
        paste: paint_edit(
            tiny_pipeline,
            pixel_values,
            slots,
            slots[:, 1:],
            changed,
            margin=margin,
            paste=paste,
            generator=torch.Generator().manual_seed(0),
            num_inference_steps=2,
            output_type="np",
        )
        for paste in (True, False)
    }
    assert images[True].shape == (1, 32, 32, 3)
    assert images[True][changed.numpy()] == pytest.approx(images[False][changed.numpy()])
    with pytest.raises(ValueError, match="must be pil, np, pt or latent, got 'tensor'"):
        paint_edit(tiny_pipeline, pixel_values, slots, slots[:, 1:], changed, output_type="tensor")


def test_pixels_away_from_an_edit_stay(tiny_pipeline: LatentSlotDiffusionPipeline) -> None:
    pixel_values = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    scene = tiny_pipeline.encode_pixel_values(
        pixel_values, generator=torch.Generator().manual_seed(0)
    )
    changed = torch.zeros(2, 32, 32, dtype=torch.bool)
    changed[:, 8:20, :12] = True

    def edit(**options: bool) -> torch.Tensor:
        images = paint_edit(
            tiny_pipeline,
            pixel_values,
            scene.slots,
            scene.slots[:, 1:],
            changed,
            generator=[torch.Generator().manual_seed(seed) for seed in (0, 1)],
            num_inference_steps=2,
            output_type="pt",
            **options,
        )
        assert isinstance(images, torch.Tensor)
        return images

    images, blended = edit(), edit(paste=False)
    far, near = torch.ones(32, 32, dtype=torch.bool), torch.zeros(32, 32, dtype=torch.bool)
    far[6:22, :14] = False  # one pixel of margin, one of the soft edge
    near[8:20, :12] = True
    before = (pixel_values + 1) / 2
    torch.testing.assert_close(images[..., far], before[..., far])
    torch.testing.assert_close(images[..., near], blended[..., near])
    assert (blended[..., far] - before[..., far]).abs().max() > 1e-2
    assert torch.equal(edit(blending=False), edit(blending=False, paste=False))


@pytest.mark.parametrize("blending", [True, False])
def test_images_of_another_size_keep_it(
    tiny_pipeline: LatentSlotDiffusionPipeline, blending: bool
) -> None:
    pixel_values = torch.zeros(1, 3, 32, 48)
    slots = tiny_pipeline.encode_pixel_values(pixel_values).slots
    changed = torch.zeros(1, 32, 48, dtype=torch.bool)
    changed[:, :8] = True
    images = paint_edit(
        tiny_pipeline,
        pixel_values,
        slots,
        slots[:, 1:],
        changed,
        blending=blending,
        num_inference_steps=2,
        output_type="pt",
    )
    assert images.shape == (1, 3, 32, 48)
