"""The parts of Stable Diffusion: loading them from a folder, and training some of them."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from examples.tiny_pretrained import NUM_TOKENS, TEXT_WIDTH, tiny_unet_config

from latentslots.models import stable_diffusion
from latentslots.models.cross_attention import record_cross_attention
from latentslots.models.stable_diffusion import (
    StableDiffusionUNet,
    empty_prompt,
    load_noise_schedule,
)


@pytest.fixture
def folder(tiny_diffusion_dir: Path) -> Path:
    return tiny_diffusion_dir


@pytest.fixture
def pipe(folder: Path) -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(folder)


def draws(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@torch.no_grad()
def test_predicts_what_stable_diffusion_predicts(
    folder: Path, pipe: StableDiffusionPipeline
) -> None:
    unet = StableDiffusionUNet.from_stable_diffusion(str(folder))
    assert unet.cross_attention_dim == TEXT_WIDTH
    latents, states = draws(2, 4, 16, 16), draws(2, 5, TEXT_WIDTH)
    timesteps = torch.tensor([3, 700])
    expected = pipe.unet(latents, timesteps, states).sample
    torch.testing.assert_close(unet(latents, timesteps, states).sample, expected)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    masked = unet(latents, timesteps, states, mask).sample
    torch.testing.assert_close(masked[0], expected[0], atol=1e-4, rtol=0)
    three = pipe.unet(latents[1:], timesteps[1:], states[1:, :3]).sample
    torch.testing.assert_close(masked[1:], three, atol=1e-4, rtol=0)


def test_the_empty_prompt_is_that_of_the_pipeline(
    folder: Path, pipe: StableDiffusionPipeline
) -> None:
    states, _ = pipe.encode_prompt("", "cpu", 1, do_classifier_free_guidance=False)
    prompt = empty_prompt(str(folder))
    assert prompt.shape == (NUM_TOKENS, TEXT_WIDTH)
    assert not prompt.requires_grad
    torch.testing.assert_close(prompt, states[0])


def test_the_schedule_has_the_prediction_type(folder: Path) -> None:
    assert load_noise_schedule(str(folder)).config.prediction_type == "v_prediction"


def test_cross_attention_is_trained_if_tuned(folder: Path) -> None:
    frozen = StableDiffusionUNet.from_stable_diffusion(str(folder))
    assert not any(p.requires_grad for p in frozen.parameters())
    tuned = StableDiffusionUNet.from_stable_diffusion(str(folder), tuned="cross-attention")
    names = {n for n, p in tuned.model.named_parameters() if p.requires_grad}
    assert names == set(tuned.tuned_parameters())
    layers = {n.rpartition("attn2.")[2].rpartition(".")[0] for n in names}
    assert layers == {"to_k", "to_v", "to_out.0"}
    assert all("attn2" in name for name in names)


@torch.no_grad()
def test_lora_starts_at_zero_and_trains_added_matrices_only(folder: Path) -> None:
    plain = StableDiffusionUNet.from_stable_diffusion(str(folder))
    tuned = StableDiffusionUNet.from_stable_diffusion(str(folder), tuned="lora", lora_rank=2)
    inputs = draws(2, 4, 16, 16), torch.tensor([3, 700]), draws(2, 5, TEXT_WIDTH)
    torch.testing.assert_close(tuned(*inputs).sample, plain(*inputs).sample)
    names = set(tuned.tuned_parameters())
    assert names == {n for n, p in tuned.model.named_parameters() if p.requires_grad}
    layers = {name.partition(".lora_")[0].rpartition(".attn")[2] for name in names}
    assert layers == {
        f"{i}.{part}" for i in (1, 2) for part in ("to_q", "to_k", "to_v", "to_out.0")
    }
    for parameter in tuned.tuned_parameters().values():
        parameter.normal_()
    assert not torch.allclose(tuned(*inputs).sample, plain(*inputs).sample, atol=1e-2)


@pytest.mark.parametrize(("tuned", "rank"), [("lora", 0), ("nothing", 4), ("cross-attention", 1)])
def test_a_rank_is_for_lora_only(tuned: Any, rank: int) -> None:
    with pytest.raises(ValueError, match=f"lora_rank must be above 0 .* got {rank} with '{tuned}'"):
        StableDiffusionUNet(architecture=tiny_unet_config(), tuned=tuned, lora_rank=rank)


def test_lora_without_peft_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"requires peft: pip install 'latentslots\[lora\]'"):
        StableDiffusionUNet(architecture=tiny_unet_config(), tuned="lora", lora_rank=1)


@torch.no_grad()
def test_cross_attention_can_be_recorded(folder: Path) -> None:
    unet = StableDiffusionUNet.from_stable_diffusion(str(folder))
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    inputs = draws(2, 4, 16, 16), 5, draws(2, 5, TEXT_WIDTH), mask
    plain = unet(*inputs).sample
    with record_cross_attention(unet) as layers:
        torch.testing.assert_close(unet(*inputs).sample, plain)
    assert [tuple(layer.shape) for layer in layers] == [
        (2, 256, 5),
        (2, 64, 5),
        (2, 256, 5),
        (2, 256, 5),
    ]
    for layer in layers:
        torch.testing.assert_close(layer.sum(dim=2), torch.ones(layer.shape[:2]))
        assert layer[1, :, 3:].max() == 0
    with record_cross_attention(unet, ("up_blocks.1",)) as some:
        unet(*inputs)
    torch.testing.assert_close(some, layers[2:])


def test_sizes(folder: Path) -> None:
    unet = StableDiffusionUNet.from_stable_diffusion(str(folder))
    assert (unet.latent_size, unet.latent_channels, unet.num_levels, unet.map_channels) == (
        16,
        4,
        2,
        0,
    )


@pytest.mark.parametrize(("tuned", "rank"), [("nothing", 0), ("cross-attention", 0), ("lora", 2)])
def test_is_saved_and_loaded(folder: Path, tmp_path: Path, tuned: Any, rank: int) -> None:
    unet = StableDiffusionUNet.from_stable_diffusion(str(folder), tuned=tuned, lora_rank=rank)
    unet.save_pretrained(tmp_path)
    again = StableDiffusionUNet.from_pretrained(tmp_path)
    assert (again.config.tuned, again.config.lora_rank) == (tuned, rank)
    for one, other in zip(unet.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
        assert one.requires_grad == other.requires_grad


def test_gradient_checkpointing_works_in_a_frozen_unet(folder: Path) -> None:
    """In the official code it has no effect: the frozen U-Net is never in training mode."""
    unet = StableDiffusionUNet.from_stable_diffusion(str(folder))
    calls: list[int] = []

    def gradient() -> torch.Tensor:
        states = draws(1, 5, TEXT_WIDTH).requires_grad_()
        unet(draws(1, 4, 16, 16), 5, states).sample.square().sum().backward()
        assert states.grad is not None
        return states.grad

    plain = gradient()
    unet.enable_gradient_checkpointing()
    block = unet.model.up_blocks[1].resnets[0]
    block.register_forward_pre_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(gradient(), plain)
    assert len(calls) == 2, "the backward pass computes the block again"


@pytest.mark.usefixtures("unchecked")
def test_other_models_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot load the unet .* from '/nowhere': it must be"):
        StableDiffusionUNet.from_stable_diffusion("/nowhere")
    with pytest.raises(ValueError, match=stable_diffusion.STABLE_DIFFUSION):
        empty_prompt(str(tmp_path))
    with pytest.raises(ValueError, match="cannot load the scheduler"):
        load_noise_schedule(str(tmp_path))
    unknown: Any = "all"
    with pytest.raises(ValueError, match="one of nothing, cross-attention, lora, got 'all'"):
        StableDiffusionUNet(architecture=tiny_unet_config(), tuned=unknown)
    for changes, message in (
        ({"addition_embed_type": "text_time", "addition_time_embed_dim": 8}, "text_time"),
        ({"in_channels": 9}, "as many output channels as input channels, got 4 and 9"),
    ):
        extra = {"projection_class_embeddings_input_dim": 60} if "add" in str(changes) else {}
        other = UNet2DConditionModel(**tiny_unet_config(**changes, **extra))
        other.save_pretrained(tmp_path / message[:9] / "unet")
        with pytest.raises(ValueError, match=message):
            StableDiffusionUNet.from_stable_diffusion(str(tmp_path / message[:9]))
