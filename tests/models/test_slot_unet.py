"""The denoiser: positions in every attention layer, masks, and the map of slots."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from latentslots.models import SlotUNet
from latentslots.models.slot_unet import FEW_SOURCES, PositionedAttnProcessor
from tests.tiny import tiny_unet

POSITIONS = ("cartesian", "sinusoidal", "learned")


def predict(unet: SlotUNet, *, height: int = 16, width: int = 16, **arguments: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, height, width, generator=generator)
    states = torch.randn(2, 3, 16, generator=generator)
    with torch.no_grad():
        return unet(latents, torch.tensor([10, 900]), states, **arguments).sample


def trained(**changes: Any) -> SlotUNet:
    """A U-Net whose positions differ from their initialization, so that losing them shows."""
    unet = tiny_unet(**changes)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if ".position." in name:
                parameter += torch.randn_like(parameter)
    return unet


@pytest.mark.parametrize("position", POSITIONS)
def test_every_attention_layer_has_its_own_positions(position: str) -> None:
    unet = tiny_unet(position=position)
    layers = [module for module in unet.modules() if isinstance(module, Attention)]
    assert len(layers) == 2 * (2 + 1 + 4)  # self and cross; down, middle, up
    assert all(isinstance(layer.processor, PositionedAttnProcessor) for layer in layers)
    assert len({id(layer.processor.position) for layer in layers}) == len(layers)


@pytest.mark.parametrize("position", POSITIONS)
def test_positions_are_added_to_the_input_of_an_attention_layer(position: str) -> None:
    processor = next(iter(trained(position=position).attn_processors.values()))
    layer = Attention(query_dim=8, cross_attention_dim=16, heads=2, dim_head=4)
    tokens, states = torch.randn(2, 15, 8), torch.randn(2, 3, 16)
    expected = AttnProcessor2_0()(layer, tokens + processor.position(3, 5), states)
    out = processor(layer, tokens, states, grids={15: (3, 5)})
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("sources", [3, FEW_SOURCES, FEW_SOURCES + 1])
def test_attention_under_autocast_agrees_for_few_keys_and_for_many(sources: int) -> None:
    processor = next(iter(trained(position="cartesian").attn_processors.values()))
    layer = Attention(query_dim=8, cross_attention_dim=16, heads=2, dim_head=4)
    tokens, states = torch.randn(2, 15, 8), torch.randn(2, sources, 16)
    bias = torch.zeros(2, 1, sources).masked_fill(torch.arange(sources) % 2 == 1, -10_000.0)
    exact = processor(layer, tokens, states, bias, grids={15: (3, 5)})
    other = processor(layer, tokens, states, grids={15: (3, 5)})
    with torch.autocast("cpu", torch.bfloat16):
        out = processor(layer, tokens, states, bias, grids={15: (3, 5)})
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), exact, rtol=0.02, atol=0.02)
    assert (exact - other).abs().max() > 0.04  # the bias has an effect


def test_without_positions_it_is_the_unet_of_diffusers() -> None:
    ours = tiny_unet(position="none")
    theirs = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    theirs.load_state_dict(ours.state_dict())
    latents, states = torch.randn(2, 4, 12, 8), torch.randn(2, 3, 16)
    timesteps = torch.tensor([10, 900])
    torch.testing.assert_close(
        ours(latents, timesteps, states).sample, theirs(latents, timesteps, states).sample
    )


def test_attention_levels_select_the_blocks_with_attention() -> None:
    unet = tiny_unet(block_out_channels=(8, 16, 16), attention_levels=(False, True, False))
    attending = {
        name.split(".attentions")[0]
        for name, module in unet.named_modules()
        if isinstance(module, Attention)
    }
    assert attending == {"down_blocks.1", "mid_block", "up_blocks.1"}


def test_attention_levels_need_one_entry_per_level() -> None:
    with pytest.raises(ValueError, match="2 levels, 3 entries"):
        tiny_unet(attention_levels=(True, True, True))


@pytest.mark.parametrize("size", [(8, 8), (12, 20), (7, 9)])
@pytest.mark.parametrize("position", [*POSITIONS, "none"])
def test_other_sizes(position: str, size: tuple[int, int]) -> None:
    height, width = size
    out = predict(tiny_unet(position=position), height=height, width=width)
    assert out.shape == (2, 4, height, width)
    assert out.isfinite().all()


def test_a_learned_table_has_its_layers_size() -> None:
    unet = tiny_unet(position="learned", sample_size=16)
    for name, processor in unet.attn_processors.items():
        deep = name.startswith(("down_blocks.1", "mid_block", "up_blocks.0"))
        assert processor.position.table.shape[1:3] == ((8, 8) if deep else (16, 16)), name


@pytest.mark.parametrize("position", POSITIONS)
def test_positions_survive_saving(position: str, tmp_path: Path) -> None:
    unet = trained(position=position)
    unet.save_pretrained(tmp_path)
    loaded = SlotUNet.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.state_dict(), unet.state_dict(), atol=0, rtol=0)
    torch.testing.assert_close(predict(loaded), predict(unet))


def test_the_saved_config_holds_exactly_the_honored_keys(tmp_path: Path) -> None:
    unet = tiny_unet()
    unet.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert {key for key in saved if not key.startswith("_")} == {
        "in_channels",
        "out_channels",
        "sample_size",
        "block_out_channels",
        "attention_levels",
        "layers_per_block",
        "cross_attention_dim",
        "num_attention_heads",
        "norm_num_groups",
        "position",
        "map_channels",
        "rendering_factor",
    }
    assert saved["num_attention_heads"] == 2
    assert saved["_class_name"] == "SlotUNet"


@pytest.mark.parametrize("position", POSITIONS)
def test_processors_that_would_drop_positions_are_refused(position: str) -> None:
    unet = trained(position=position)
    before = predict(unet)
    mixed = {**unet.attn_processors}
    mixed[next(iter(mixed))] = AttnProcessor2_0()
    for replace in (
        unet.set_default_attn_processor,
        lambda: unet.set_attn_processor(AttnProcessor2_0()),
        lambda: unet.set_attn_processor(mixed),
        unet.fuse_qkv_projections,
    ):
        with pytest.raises(ValueError, match=r"would drop trained weights|set_default_attn_proc"):
            replace()
    torch.testing.assert_close(predict(unet), before)


def test_processors_can_be_set_again() -> None:
    unet = trained()
    before = predict(unet)
    unet.set_attn_processor(unet.attn_processors)
    torch.testing.assert_close(predict(unet), before)


def test_without_positions_processors_can_be_replaced() -> None:
    unet = tiny_unet(position="none")
    before = predict(unet)
    unet.set_default_attn_processor()
    torch.testing.assert_close(predict(unet), before)


def test_masking_vectors_equals_dropping_them() -> None:
    unet, latents = tiny_unet(), torch.randn(1, 4, 16, 16)
    states, timestep = torch.randn(1, 5, 16), torch.tensor(500)
    keep = torch.tensor([[True, False, True, True, False]])
    with torch.no_grad():
        masked = unet(latents, timestep, states, keep).sample
        dropped = unet(latents, timestep, states[:, keep[0]]).sample
        everything = unet(latents, timestep, states).sample
    torch.testing.assert_close(masked, dropped, atol=1e-4, rtol=0)
    assert not torch.allclose(masked, everything, atol=1e-3)


@torch.no_grad()
def test_the_map_holds_every_slot_where_it_lies() -> None:
    unet, latents = tiny_unet(map_channels=3), torch.randn(2, 4, 16, 16)
    states, timestep = torch.randn(2, 5, 16), torch.tensor([500, 20])
    layout = torch.rand(2, 4, 16, 16).softmax(dim=1)  # the last vector is a register
    inputs = []
    unet.conv_in.register_forward_hook(lambda _, arguments, __: inputs.append(arguments[0]))
    out = unet(latents, timestep, states, slot_layout=layout).sample
    assert out.shape == latents.shape
    torch.testing.assert_close(inputs[0][:, :4], latents)
    mapped = unet.map_in(states)
    for row, column in ((0, 0), (3, 7), (15, 15)):
        expected = sum(layout[:, k, row, column, None] * mapped[:, k] for k in range(4))
        torch.testing.assert_close(inputs[0][:, 4:, row, column], expected, atol=1e-4, rtol=0)
    order = torch.tensor([2, 0, 3, 1])
    whole = torch.cat([order, torch.tensor([4])])
    other = unet(latents, timestep, states[:, whole], slot_layout=layout[:, order]).sample
    torch.testing.assert_close(other, out, atol=1e-4, rtol=1e-4)
    keep = torch.tensor([[True, True, False, True, True]]).expand(2, -1)
    unet(latents, timestep, states, keep, layout)
    expected = torch.einsum("bkhw,bkc->bchw", layout[:, keep[0, :4]], mapped[:, [0, 1, 3]])
    torch.testing.assert_close(inputs[-1][:, 4:], expected, atol=1e-4, rtol=0)


def test_a_slot_layout_is_required_with_map_channels_and_refused_without() -> None:
    latents, states, layout = torch.ones(1, 4, 8, 8), torch.ones(1, 2, 16), torch.ones(1, 2, 8, 8)
    for unet, argument in ((tiny_unet(), layout), (tiny_unet(map_channels=2), None)):
        with pytest.raises(ValueError, match="slot_layout is required with map_channels"):
            unet(latents, 3, states, slot_layout=argument)
    with pytest.raises(ValueError, match="map_channels must be 0 or more, got -1"):
        tiny_unet(map_channels=-1)


def test_a_map_survives_saving(tmp_path: Path) -> None:
    unet = trained(map_channels=2)
    unet.save_pretrained(tmp_path)
    loaded = SlotUNet.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.state_dict(), unet.state_dict())


def test_gradient_checkpointing_changes_no_gradient() -> None:
    gradients = []
    latents, states = torch.randn(1, 4, 8, 8), torch.randn(1, 3, 16)
    for checkpointing in (False, True):
        unet = tiny_unet().train()
        if checkpointing:
            unet.enable_gradient_checkpointing()
        unet(latents, 10, states).sample.square().sum().backward()
        gradients.append(nn.utils.parameters_to_vector(p.grad for p in unet.parameters()))
    torch.testing.assert_close(gradients[1], gradients[0])


def test_return_dict() -> None:
    unet = tiny_unet()
    (sample,) = unet(torch.ones(1, 4, 8, 8), 3, torch.ones(1, 2, 16), return_dict=False)
    torch.testing.assert_close(sample, unet(torch.ones(1, 4, 8, 8), 3, torch.ones(1, 2, 16)).sample)
