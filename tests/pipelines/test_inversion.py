"""Inverse DDIM steps, against diffusers' DDIM and analytic denoisers."""

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from latentslots.models.noise_schedule import official_schedule
from latentslots.pipelines.inversion import inverse_ddim_step, invert_latents


def ddim(kind: str, num_steps: int) -> DDIMScheduler:
    scheduler = DDIMScheduler.from_config(
        official_schedule(kind).config, timestep_spacing="trailing", clip_sample=False
    )
    scheduler.set_timesteps(num_steps)
    return scheduler


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("index", [0, 10, 23, 24])
def test_it_is_the_inverse_of_a_ddim_step(kind: str, index: int) -> None:
    scheduler = ddim(kind, 25)
    high, prediction = torch.randn(2, 3, 4, 8, 8, dtype=torch.float64)
    timestep = int(scheduler.timesteps[index])
    low = scheduler.step(prediction, timestep, high).prev_sample
    alphas = [*scheduler.alphas_cumprod[scheduler.timesteps], torch.ones(())]
    found = inverse_ddim_step(
        prediction, low, low=alphas[index + 1].double(), high=alphas[index].double(), kind=kind
    )
    torch.testing.assert_close(found, high, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_gaussian_images_become_their_noise(kind: str) -> None:
    """The best denoiser of Gaussian images is known: pixels of deviation s around a mean m."""
    mean, std = 0.5, 0.3
    scheduler = ddim(kind, 200)

    def predict(latents: Tensor, timestep: Any) -> Tensor:
        product = scheduler.alphas_cumprod[int(timestep)]
        alpha, sigma = product.sqrt(), (1 - product).sqrt()
        gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
        image = mean + gain * (latents - alpha * mean)
        noise = (latents - alpha * image) / sigma
        return noise if kind == "epsilon" else alpha * noise - sigma * image

    images = mean + std * torch.randn(2, 4, 8, 8)
    noise = invert_latents(predict, images, scheduler, num_steps=200)
    product = scheduler.alphas_cumprod[-1]
    alpha, variance = product.sqrt(), product * std**2 + 1 - product
    torch.testing.assert_close(
        noise, alpha * mean + variance.sqrt() * (images - mean) / std, atol=0.05, rtol=0.05
    )
    back = noise
    for timestep in scheduler.timesteps:
        back = scheduler.step(predict(back, timestep), timestep, back).prev_sample
    assert (back - images).abs().max() < 0.05


@pytest.mark.parametrize("num_steps", [0, 1001])
def test_a_number_of_steps_that_cannot_be_is_refused(num_steps: int) -> None:
    with pytest.raises(ValueError, match=rf"must be from 1 to 1000, got {num_steps}"):
        invert_latents(
            lambda x, _: x, torch.zeros(1, 4, 8, 8), ddim("epsilon", 5), num_steps=num_steps
        )


def test_only_noise_and_velocity_can_be_inverted() -> None:
    with pytest.raises(ValueError, match="got 'sample'"):
        invert_latents(lambda x, _: x, torch.zeros(1, 4, 8, 8), ddim("sample", 5), num_steps=5)
