"""Sampling images of many scenes, with any sampler."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from latentslots.config.sampling import Sampling
from latentslots.pipelines import LatentSlotDiffusionPipeline
from latentslots.pipelines.sampling import SAMPLERS, sample_images, set_sampler, use_sampling
from tests import tiny


@pytest.fixture
def pipe(tiny_pipeline_dir: Path) -> LatentSlotDiffusionPipeline:
    return LatentSlotDiffusionPipeline.from_pretrained(tiny_pipeline_dir)


@pytest.fixture
def slots() -> Tensor:
    return torch.randn(5, 4, tiny.SLOT_DIM)


def test_batches_change_no_image(pipe: LatentSlotDiffusionPipeline, slots: Tensor) -> None:
    mask = torch.ones(5, 4, dtype=torch.bool)
    mask[2, 3] = False
    sampling = Sampling(num_inference_steps=2, seed=7)
    images = [
        sample_images(pipe, slots, mask, sampling=sampling, batch_size=size, progress=False)
        for size in (2, 5)
    ]
    assert images[0].shape == (5, 3, 32, 32)
    torch.testing.assert_close(images[0], images[1], atol=1e-4, rtol=0)
    one = pipe(
        slots[2:3, :3],
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(9),
        output_type="pt",
    ).images
    torch.testing.assert_close(images[0][2:3], one, atol=1e-4, rtol=0)


def test_each_scene_may_have_its_own_seed(pipe: LatentSlotDiffusionPipeline, slots: Tensor) -> None:
    options: dict[str, Any] = {"sampling": Sampling(num_inference_steps=2), "progress": False}
    whole = sample_images(pipe, slots, **options)
    some = sample_images(pipe, slots[[3, 1]], seeds=[3, 1], batch_size=1, **options)
    torch.testing.assert_close(some, whole[[3, 1]], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", [*SAMPLERS, "EulerDiscreteScheduler"])
def test_every_sampler_samples(name: str, pipe: LatentSlotDiffusionPipeline, slots: Tensor) -> None:
    sampling = Sampling(sampler=name, num_inference_steps=3)
    images = sample_images(pipe, slots[:1], sampling=sampling, progress=False)
    assert type(pipe.scheduler).__name__ == SAMPLERS.get(name, name)
    assert images.isfinite().all()


@pytest.mark.parametrize(
    "name",
    [
        "FlowMatchEulerDiscreteScheduler",
        "DDIMInverseScheduler",
        "RePaintScheduler",
        "VQDiffusionScheduler",
    ],
)
def test_schedulers_that_do_not_denoise_latents_are_named(
    name: str, pipe: LatentSlotDiffusionPipeline
) -> None:
    before = pipe.scheduler
    with pytest.raises(
        ValueError, match=f"{name} is a diffusers scheduler, but none that denoises"
    ):
        set_sampler(pipe, name)
    assert pipe.scheduler is before


@pytest.mark.parametrize("name", ["", "magic", "UNet2DModel"])
def test_unknown_samplers_are_named(name: str, pipe: LatentSlotDiffusionPipeline) -> None:
    with pytest.raises(ValueError, match=f"there is no sampler '{name}'; use one of ddim, "):
        set_sampler(pipe, name)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_inference_steps": 0}, "num_inference_steps must be at least 1, got 0"),
        ({"guidance_scale": -1.0}, "guidance_scale must be 0 or above, and finite, got -1"),
        ({"guidance_scale": float("inf")}, "and finite, got inf"),
        ({"seed": -1}, "seed must be from 0"),
    ],
)
def test_numbers_out_of_range_are_named(
    values: dict[str, Any], message: str, pipe: LatentSlotDiffusionPipeline
) -> None:
    with pytest.raises(ValueError, match=message):
        use_sampling(pipe, Sampling(**values))
