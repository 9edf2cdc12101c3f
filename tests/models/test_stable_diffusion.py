"""Stable Diffusion's parts: loaded from a true folder, and what of them learns."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from latentslots.models import stable_diffusion
from latentslots.models.stable_diffusion import (
    StableDiffusionUNet,
    empty_prompt,
    load_noise_schedule,
)
from tests.tiny_stable_diffusion import (
    NUM_TOKENS,
    TEXT_WIDTH,
    tiny_unet_config,
    write_stable_diffusion,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stable_diffusion(tmp_path_factory.mktemp("sd") / "tiny")


@pytest.fixture(scope="module")
def pipe(folder: Path) -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(folder)


def draws(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@torch.no_grad()
def test_it_answers_as_stable_diffusion_does(folder: Path, pipe: StableDiffusionPipeline) -> None:
    unet = StableDiffusionUNet.from_stable_diffusion(str(folder))
    assert unet.cross_attention_dim == TEXT_WIDTH
    latents, states = draws(2, 4, 16, 16), draws(2, 5, TEXT_WIDTH)
    timesteps = torch.tensor([3, 700])
    expected = pipe.unet(latents, timesteps, states).sample
    torch.testing.assert_close(unet(latents, timesteps, states).sample, expected)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    masked = unet(latents, timesteps, states, mask).sample
    torch.testing.assert_close(masked[0], expected[0])
    three = pipe.unet(latents[1:], timesteps[1:], states[1:, :3]).sample
    torch.testing.assert_close(masked[1:], three)


def test_no_words_are_those_of_the_pipeline(folder: Path, pipe: StableDiffusionPipeline) -> None:
    states, _ = pipe.encode_prompt("", "cpu", 1, do_classifier_free_guidance=False)
    found = empty_prompt(str(folder))
    assert found.shape == (NUM_TOKENS, TEXT_WIDTH)
    assert not found.requires_grad
    torch.testing.assert_close(found, states[0])


def test_the_schedule_says_what_is_predicted(folder: Path) -> None:
    assert load_noise_schedule(str(folder)).config.prediction_type == "v_prediction"


def test_what_learns(folder: Path) -> None:
    frozen = StableDiffusionUNet.from_stable_diffusion(str(folder))
    assert not any(p.requires_grad for p in frozen.parameters())
    tuned = StableDiffusionUNet.from_stable_diffusion(str(folder), tuned="cross-attention")
    names = {n for n, p in tuned.model.named_parameters() if p.requires_grad}
    assert names == set(tuned.tuned_parameters())
    layers = {n.rpartition("attn2.")[2].rpartition(".")[0] for n in names}
    assert layers == {"to_k", "to_v", "to_out.0"}
    assert all("attn2" in name for name in names)


@pytest.mark.parametrize("tuned", ["nothing", "cross-attention"])
def test_it_is_saved_and_loaded(folder: Path, tmp_path: Path, tuned: Any) -> None:
    unet = StableDiffusionUNet.from_stable_diffusion(str(folder), tuned=tuned)
    unet.save_pretrained(tmp_path)
    again = StableDiffusionUNet.from_pretrained(tmp_path)
    assert again.config.tuned == tuned
    for one, other in zip(unet.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
        assert one.requires_grad == other.requires_grad


def test_gradient_checkpointing_works_though_nothing_learns(folder: Path) -> None:
    """The official flag does nothing: its U-Net, frozen, is never in training mode."""
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
    assert len(calls) == 2, "the block is computed once more on the way back"


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_stable_diffusion_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot load the unet .* from '/nowhere': it must be"):
        StableDiffusionUNet.from_stable_diffusion("/nowhere")
    with pytest.raises(ValueError, match=stable_diffusion.STABLE_DIFFUSION):
        empty_prompt(str(tmp_path))
    with pytest.raises(ValueError, match="cannot load the scheduler"):
        load_noise_schedule(str(tmp_path))
    unknown: Any = "all"
    with pytest.raises(ValueError, match="must be one of nothing, cross-attention, got 'all'"):
        StableDiffusionUNet(architecture=tiny_unet_config(), tuned=unknown)
    for changes, message in (
        ({"addition_embed_type": "text_time", "addition_time_embed_dim": 8}, "text_time"),
        ({"in_channels": 9}, "reads 9 channels and writes 4"),
    ):
        extra = {"projection_class_embeddings_input_dim": 60} if "add" in str(changes) else {}
        other = UNet2DConditionModel(**tiny_unet_config(**changes, **extra))
        other.save_pretrained(tmp_path / message[:9] / "unet")
        with pytest.raises(ValueError, match=message):
            StableDiffusionUNet.from_stable_diffusion(str(tmp_path / message[:9]))
