"""The frozen encoder: a folder of transformers in, the features of transformers out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, ViTConfig, ViTModel

from latentslots.models.dinov2_encoder import DEVIATION, MEAN, DINOv2Encoder
from tests.tiny import VIT, tiny_vit_encoder

KINDS: dict[str, dict[str, Any]] = {
    "dinov2": {},
    "dinov2_with_registers": {"num_register_tokens": 3},
    "dinov3_vit": {"num_register_tokens": 3, "intermediate_size": 16},
}


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    config = AutoConfig.for_model(**{**VIT, "model_type": request.param, **KINDS[request.param]})
    AutoModel.from_config(config).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def images(size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, size, size, generator=generator) * 2 - 1


@torch.no_grad()
def test_features_are_the_patch_tokens_in_row_major_order(folder: Path) -> None:
    encoder = DINOv2Encoder.from_vit(str(folder), image_size=48)
    assert (encoder.out_channels, encoder.grid_size, encoder.training) == (8, 6, False)
    assert not any(p.requires_grad for p in encoder.parameters())
    pixels = images(48)
    mean, deviation = (torch.tensor(x)[:, None, None] for x in (MEAN, DEVIATION))
    hidden = AutoModel.from_pretrained(folder)(((pixels + 1) / 2 - mean) / deviation)
    patches = hidden.last_hidden_state[:, -36:]  # rows of six, after the class and the registers
    features = encoder(pixels)
    assert features.shape == (2, 8, 6, 6)
    torch.testing.assert_close(features[:, :, 2, 3], patches[:, 2 * 6 + 3], atol=1e-4, rtol=0)


@torch.no_grad()
def test_features_of_the_last_layers_are_concatenated(folder: Path) -> None:
    one = DINOv2Encoder.from_vit(str(folder), image_size=48)
    two = DINOv2Encoder.from_vit(str(folder), image_size=48, num_layers=2)
    assert (one.out_channels, two.out_channels) == (8, 16)
    pixels = images(48)
    features = two(pixels)
    torch.testing.assert_close(features[:, 8:], one(pixels), atol=1e-4, rtol=0)
    model, mean, deviation = two.model, *(torch.tensor(x)[:, None, None] for x in (MEAN, DEVIATION))
    outputs: list[Any] = []
    layers = (model.encoder if hasattr(model, "encoder") else model.model).layer
    layers[0].register_forward_hook(lambda module, inputs, output: outputs.append(output))
    model(((pixels + 1) / 2 - mean) / deviation)
    hidden = outputs[0] if isinstance(outputs[0], torch.Tensor) else outputs[0][0]
    norm = model.layernorm if hasattr(model, "layernorm") else model.norm
    first = norm(hidden)[:, -36:].transpose(1, 2).unflatten(2, (6, 6))
    torch.testing.assert_close(features[:, :8], first, atol=1e-4, rtol=0)


@pytest.mark.parametrize("number", [0, 3])
def test_a_wrong_number_of_layers_is_refused(folder: Path, number: int) -> None:
    with pytest.raises(ValueError, match=f"num_layers must be from 1 to 2, got {number}"):
        DINOv2Encoder.from_vit(str(folder), image_size=48, num_layers=number)


@torch.no_grad()
def test_images_of_any_size_are_resized(folder: Path) -> None:
    encoder = DINOv2Encoder.from_vit(str(folder), image_size=32)
    small = images(24)
    resized = F.interpolate(small, (32, 32), mode="bicubic", antialias=True).clamp(-1, 1)
    torch.testing.assert_close(encoder(small), encoder(resized), atol=1e-4, rtol=1e-4)
    assert encoder(images(64)).shape == (2, 8, 4, 4)


def test_other_models_and_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot load a DINOv2 from '/nowhere'"):
        DINOv2Encoder.from_vit("/nowhere")
    other = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    ViTModel(other).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"must be one of dinov2, .* got vit"):
        DINOv2Encoder.from_vit(str(tmp_path))
    for size in (4, 30):
        with pytest.raises(ValueError, match=f"multiple of .* patch, 8 pixels, got {size}"):
            tiny_vit_encoder(image_size=size)
