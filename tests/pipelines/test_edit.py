"""Painting an edit: what changed is painted, all else stays."""

import torch

from latentslots.pipelines import LatentSlotDiffusionPipeline
from latentslots.pipelines.edit import paint_edit


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
