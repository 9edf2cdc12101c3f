"""Masks from the denoiser's cross-attention, against explicit attention."""

from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler
from diffusers.models.attention_processor import Attention
from torch.nn import functional as F

from latentslots.models.cross_attention import record_cross_attention, token_grids
from latentslots.models.slot_unet import PositionedAttnProcessor
from latentslots.pipelines.cross_attention import TIMESTEPS, CrossAttentionPipeline
from tests.tiny import tiny_lsd, tiny_unet


def images(number: int = 3) -> torch.Tensor:
    return torch.rand(number, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def draws(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_the_attention_of_every_cross_attention_layer_is_recorded() -> None:
    pipe = tiny_lsd().to_pipeline()
    layers = {
        name: module
        for name, module in pipe.unet.named_modules()
        if isinstance(module, Attention) and name.endswith("attn2")
    }
    inputs = {}

    def keep_inputs(name: str) -> None:
        def hook(module: Attention, args: tuple, kwargs: dict) -> None:
            inputs[name] = (args[0], kwargs["encoder_hidden_states"])

        layers[name].register_forward_pre_hook(hook, with_kwargs=True)

    for name in layers:
        keep_inputs(name)
    scene = pipe.encode_pixel_values(images(), generator=draws(0, 1, 2))
    states, mask = pipe.slot_encoder.condition(scene.slots)
    latents = torch.randn(3, *pipe._latents_shape(3, None, None)[1:])
    with torch.no_grad(), record_cross_attention(pipe.unet) as recorded:
        pipe.unet(latents, torch.tensor(500), states, mask)
    assert len(recorded) == len(layers)
    grids = token_grids(*latents.shape[2:], pipe.unet.num_levels)
    for attention, (name, (tokens, sources)) in zip(recorded, inputs.items(), strict=True):
        height, width = grids[tokens.shape[1]]
        layer = layers[name]
        assert isinstance(layer.processor, PositionedAttnProcessor)
        tokens = tokens + layer.processor.position(height, width)
        query, key = (
            part.unflatten(2, (layer.heads, -1)).transpose(1, 2)
            for part in (layer.to_q(tokens), layer.to_k(sources))
        )
        scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
        expected = scores.softmax(dim=3).mean(dim=1)
        torch.testing.assert_close(attention, expected, atol=1e-4, rtol=0)
    with torch.no_grad():
        pipe.unet(latents, torch.tensor(500), states, mask)
    assert len(recorded) == len(layers)  # nothing outside of the `with` block


def test_masks_sum_to_1_and_do_not_depend_on_the_batch() -> None:
    pipe = CrossAttentionPipeline.of(tiny_lsd().to_pipeline())
    scene = pipe.encode_pixel_values(images(), generator=draws(0, 1, 2))
    torch.testing.assert_close(scene.masks.sum(dim=1), torch.ones_like(scene.masks[:, 0]))
    alone = pipe.encode_pixel_values(images()[1:2], generator=draws(1))
    torch.testing.assert_close(alone.masks[0], scene.masks[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(alone.slots[0], scene.slots[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sampler", [DPMSolverMultistepScheduler, EulerDiscreteScheduler])
def test_masks_are_the_mean_over_layers_and_noise_levels(sampler: Any) -> None:
    """Step by step for one image, whose generator draws its slots first, then its noise."""
    pipe = tiny_lsd().to_pipeline()
    alphas = torch.cumprod(1 - torch.linspace(0.00085, 0.012, 1000), dim=0)
    pipe.scheduler = sampler.from_config(pipe.scheduler.config)
    pipe.scheduler.set_timesteps(5)  # as after painting
    own = draws(7)
    scene = pipe.encode_pixel_values(images(1), generator=own)
    states, mask = pipe.slot_encoder.condition(scene.slots)
    latents = pipe.encode_latents(images(1))
    size = latents.shape[2:]
    maps_of_layers = []
    for level in TIMESTEPS:
        noise = torch.randn(latents.shape, generator=own[0])
        noisy = alphas[level].sqrt() * latents + (1 - alphas[level]).sqrt() * noise
        with torch.no_grad(), record_cross_attention(pipe.unet) as layers:
            pipe.unet(noisy, torch.tensor([level]), states, mask)
        for attention in layers:
            height, width = token_grids(*size, pipe.unet.num_levels)[attention.shape[1]]
            maps = attention[0].T.reshape(1, -1, height, width)
            maps_of_layers.append(F.interpolate(maps, tuple(size), mode="bilinear")[0])
    expected = torch.stack(maps_of_layers).mean(dim=0)
    assert len({attention.shape[1] for attention in layers}) > 1, "grids differ"
    scene = CrossAttentionPipeline.of(pipe).encode_pixel_values(images(1), generator=draws(7))
    torch.testing.assert_close(scene.masks[0], expected, atol=1e-4, rtol=1e-4)


def test_requires_a_vae_and_positions() -> None:
    pipe = tiny_lsd().to_pipeline()
    pipe.vae = None
    with pytest.raises(ValueError, match="cross-attention masks require a VAE"):
        CrossAttentionPipeline.of(pipe)
    with (
        pytest.raises(ValueError, match="with position='none' cannot be recorded"),
        record_cross_attention(tiny_unet(position="none")),
    ):
        pass
