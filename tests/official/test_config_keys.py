"""Keys of the official configs: honored, ignored as in the official code, or refused by name."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from latentslots.official import OfficialCheckpointError, load_official
from latentslots.official.config_keys import (
    ENCODER_KEYS,
    SLOT_KEYS,
    UNET_KEYS,
    Assumed,
    OfficialConfig,
    Use,
)
from tests.official.tools import (
    ENCODER,
    GOLDEN,
    SLOTS,
    UNET,
    WEIGHTS,
    edit_config,
    read_config,
)

KEYS = {ENCODER: ENCODER_KEYS, SLOTS: SLOT_KEYS, UNET: UNET_KEYS}

# What the official `UNetEncoder` passes on to `UNet2DModel`.
PASSED_ON = [
    *("sample_size", "in_channels", "out_channels", "down_block_types", "up_block_types"),
    *("block_out_channels", "layers_per_block", "attention_head_dim", "norm_num_groups"),
]

HEADS = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.heads"

# Honored keys that change no tensor: a valid value, and where the model shows it.
WITHOUT_TENSORS = [
    (ENCODER, "attention_head_dim", 4, "encoder.unet.config.attention_head_dim", 4),
    (ENCODER, "norm_num_groups", 4, "encoder.config.norm_num_groups", 4),
    (ENCODER, "input_resolution", 128, "resolution", 128),
    (SLOTS, "num_iterations", 5, "slot_encoder.slot_attention.num_iterations", 5),
    (SLOTS, "num_slots", 9, "slot_encoder.config.num_slots", 9),
    (SLOTS, "num_heads", 4, "slot_encoder.slot_attention.num_heads", 4),
    (SLOTS, "epsilon", 1e-4, "slot_encoder.slot_attention.eps", 1e-4),
    (SLOTS, "bi_level", True, "slot_encoder.slot_attention.bi_level", True),
    (UNET, "sample_size", 16, "unet.config.sample_size", 16),
    (UNET, "norm_num_groups", 4, "unet.config.norm_num_groups", 4),
    (
        UNET,
        "attention_head_dim",
        2,
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.heads",
        2,
    ),
]

# Honored keys that change tensors, or must fit another key: the file's tensors no longer fit.
WITH_TENSORS = [
    (ENCODER, "sample_size", 32, "input_resolution is 16, must be 32: the sample_size of"),
    (ENCODER, "in_channels", 8, r"downscale_cnn.weight has shape .*, but the config requires \(8,"),
    (ENCODER, "out_channels", 16, "input_size is 24, must be 16: the out_channels of unetencoder"),
    (ENCODER, "block_out_channels", [16, 16, 32, 64], "has shape"),
    (ENCODER, "layers_per_block", 2, "lacks the tensor down_blocks.0.resnets.1"),
    (SLOTS, "input_size", 16, "input_size is 16, must be 24: the out_channels of unetencoder"),
    (SLOTS, "input_resolution", 8, "input_resolution is 8, must be 16: the sample_size of"),
    (SLOTS, "out_size", 16, "out_size is 16, must be 24: the cross_attention_dim of unet2d"),
    (SLOTS, "slot_size", 16, "slot_mu has shape"),
    (SLOTS, "mlp_hidden_size", 32, "mlp.0.weight has shape"),
    (SLOTS, "learnable_slot_init", True, "slot_mu has shape"),
    (UNET, "in_channels", 8, "out_channels is 4, must be 8: its in_channels"),
    (UNET, "out_channels", 8, "out_channels is 8, must be 4: its in_channels"),
    (UNET, "down_block_types", ["DownBlock2D"] * 4, "up_block_types is .*, must be "),
    (UNET, "up_block_types", ["CrossAttnUpBlock2D"] * 4, "up_block_types is .*, must be "),
    (UNET, "block_out_channels", [16, 32, 32, 64], "has shape"),
    (UNET, "layers_per_block", 1, "has shape"),
    (UNET, "cross_attention_dim", 16, "out_size is 24, must be 16: the cross_attention_dim of"),
    (UNET, "pos_type", "sincos", "lacks the tensor .*pos_emb.1.gamma"),
]


def refused(message: str) -> Any:
    return pytest.raises(OfficialCheckpointError, match=message)


def shown(model: Any, path: str) -> Any:
    for name in path.split("."):
        model = model[int(name)] if name.isdecimal() else getattr(model, name)
    return model


@pytest.mark.parametrize("part", KEYS)
@pytest.mark.parametrize("name", ["lsd_a", "lsd_b"])
def test_the_tables_name_every_key_of_a_checkpoint(part: str, name: str) -> None:
    config = read_config(GOLDEN / name / "checkpoint-7" / part)
    assert {key for key in config if not key.startswith("_")} == set(KEYS[part])


@pytest.mark.parametrize(("part", "base"), [(ENCODER, UNet2DModel), (UNET, UNet2DConditionModel)])
def test_the_tables_name_every_key_of_this_diffusers(part: str, base: type) -> None:
    assert set(inspect.signature(base.__init__).parameters) - {"self"} <= set(KEYS[part])


def test_every_honored_key_is_tested_below() -> None:
    for part, keys in KEYS.items():
        honored = {
            key for key, use in keys.items() if use in (Use.HONORED, Use.SAME_AT_EVERY_LEVEL)
        }
        assert honored == {
            key for where, key, *_ in WITHOUT_TENSORS + WITH_TENSORS if where == part
        }


@pytest.mark.parametrize("part", [ENCODER, UNET])
def test_what_the_official_code_saves_and_drops_is_ignored(checkpoint: Path, part: str) -> None:
    """`from_config` hands the official classes only the keys in their signature."""
    expected = load_official(checkpoint)
    ignored = [key for key, use in KEYS[part].items() if use is Use.IGNORED]
    edit_config(checkpoint / part, **dict.fromkeys(ignored, "no such value"))
    loaded = load_official(checkpoint)
    for name in ("encoder", "unet"):
        assert getattr(loaded, name).config == getattr(expected, name).config
        assert repr(getattr(loaded, name)) == repr(getattr(expected, name))


@pytest.mark.parametrize(("part", "key", "value", "path", "expected"), WITHOUT_TENSORS)
def test_an_honored_key_reaches_the_model(
    checkpoint: Path, part: str, key: str, value: Any, path: str, expected: Any
) -> None:
    if key == "input_resolution":  # the stem's stride follows, so its weight is another
        write_encoder(checkpoint / ENCODER, input_resolution=128)
    edit_config(checkpoint / part, **{key: value})
    assert shown(load_official(checkpoint), path) == expected


@pytest.mark.parametrize(("part", "key", "value", "message"), WITH_TENSORS)
def test_an_honored_key_that_does_not_fit_is_refused(
    checkpoint: Path, part: str, key: str, value: Any, message: str
) -> None:
    edit_config(checkpoint / part, **{key: value})
    with refused(message):
        load_official(checkpoint)


@pytest.mark.parametrize(
    ("part", "key", "value", "allowed"),
    [
        (ENCODER, "input_channels", 1, "3"),
        (
            ENCODER,
            "down_block_types",
            ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
            '"DownBlock2D" at every level',
        ),
        (ENCODER, "up_block_types", ["AttnUpBlock2D"] * 4, '"UpBlock2D" at every level'),
        (UNET, "transformer_layers_per_block", 2, "1"),
        (UNET, "transformer_layers_per_block", [1, 2, 1, 1], "1 at every level"),
        (UNET, "num_attention_heads", 8, "null"),
        (UNET, "layers_per_block", [2, 2, 1, 1], "the same at every level"),
        (UNET, "attention_head_dim", [2, 4, 4, 4], "the same at every level"),
        (UNET, "cross_attention_dim", [24, 24, 24, 16], "the same at every level"),
    ],
)
def test_a_value_that_is_not_supported_is_refused_by_name(
    checkpoint: Path, part: str, key: str, value: Any, allowed: str
) -> None:
    edit_config(checkpoint / part, **{key: value})
    with pytest.raises(OfficialCheckpointError) as error:
        load_official(checkpoint)
    start = re.escape(f"{checkpoint / part / 'config.json'}: {key} is ")
    assert re.fullmatch(f"{start}.*, must be {re.escape(allowed)}", str(error.value))


def test_every_assumed_key_is_tested_above() -> None:
    (mark,) = test_a_value_that_is_not_supported_is_refused_by_name.pytestmark
    tested = {(part, key) for part, key, *_ in mark.args[1]}
    for part, keys in KEYS.items():
        assert {(part, key) for key, use in keys.items() if isinstance(use, Assumed)} <= tested


def test_a_list_of_one_number_for_all_levels_is_honored(checkpoint: Path) -> None:
    expected = load_official(checkpoint).unet
    edit_config(
        checkpoint / UNET,
        layers_per_block=[2, 2, 2, 2],
        attention_head_dim=[4, 4, 4, 4],
        cross_attention_dim=[24, 24, 24, 24],
        transformer_layers_per_block=[1, 1, 1, 1],
    )
    assert load_official(checkpoint).unet.config == expected.config


@pytest.mark.parametrize("kind", ["AttnDownBlock2D", "SimpleCrossAttnDownBlock2D"])
def test_other_blocks_of_the_unet_are_refused(checkpoint: Path, kind: str) -> None:
    edit_config(checkpoint / UNET, down_block_types=[kind] * 4)
    with refused(f"down_block_types has '{kind}', must be made of CrossAttnDown"):
        load_official(checkpoint)


def test_unknown_positions_are_refused(checkpoint: Path) -> None:
    edit_config(checkpoint / UNET, pos_type="polar")
    with refused(r"'polar', must be one of cartesian, sincos"):
        load_official(checkpoint)


@pytest.mark.parametrize("part", KEYS)
def test_an_unknown_key_is_refused_by_name(checkpoint: Path, part: str) -> None:
    edit_config(checkpoint / part, _name_or_path="runs/1")  # diffusers' own notes start with _
    load_official(checkpoint)
    edit_config(checkpoint / part, num_slotz=3)
    message = f"{part}/config.json has the key 'num_slotz', which the official code does not"
    with refused(message):
        load_official(checkpoint)


@pytest.mark.parametrize(
    ("part", "key"),
    [(part, key) for part, keys in KEYS.items() for key, use in keys.items() if use != Use.IGNORED],
)
def test_a_missing_key_is_named(tmp_path: Path, part: str, key: str) -> None:
    file = tmp_path / "config.json"
    file.write_bytes((GOLDEN / "lsd_a" / "checkpoint-7" / part / "config.json").read_bytes())
    edit_config(tmp_path, **{key: ...})
    with pytest.raises(OfficialCheckpointError, match=f"config.json lacks the key '{key}'$"):
        OfficialConfig(file, KEYS[part])


def test_a_missing_config_is_named(checkpoint: Path) -> None:
    (checkpoint / SLOTS / "config.json").unlink()
    with refused(f"{SLOTS} holds no config.json$"):
        load_official(checkpoint)


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"3", b"\xff\xfe"])
def test_a_config_that_is_no_json_object_is_named(checkpoint: Path, content: bytes) -> None:
    (checkpoint / ENCODER / "config.json").write_bytes(content)
    with refused(f"{ENCODER}/config.json is not a JSON object"):
        load_official(checkpoint)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        (ENCODER, "block_out_channels", []),
        (ENCODER, "block_out_channels", 16),
        (ENCODER, "norm_num_groups", 7),
        (ENCODER, "input_resolution", None),
        (SLOTS, "num_heads", 3),
        (SLOTS, "mlp_hidden_size", -1),
        (UNET, "down_block_types", None),
        (UNET, "block_out_channels", [16, 32]),
    ],
)
def test_a_config_of_no_model_is_named(
    checkpoint: Path, unchecked: None, part: str, key: str, value: Any
) -> None:
    edit_config(checkpoint / part, **{key: value})
    with refused(f"{part}/config.json describes no valid model: "):
        load_official(checkpoint)


def test_an_image_size_that_the_strides_do_not_divide_is_refused(checkpoint: Path) -> None:
    edit_config(checkpoint / ENCODER, input_resolution=66)  # a stride of 4, as before
    with refused("input_resolution is 66, must be a multiple of 32"):
        load_official(checkpoint)


def write_encoder(part: Path, **changes: Any) -> UNet2DModel:
    """Replace the encoder by a random one of another configuration, as the official code saves it.

    Returns:
        Its U-Net, made by diffusers from the keys that the official class passes on.
    """
    edit_config(part, **changes)
    config = read_config(part)
    stride = config["input_resolution"] // config["sample_size"]
    unet = UNet2DModel(**{key: config[key] for key in PASSED_ON})
    stem = nn.Conv2d(3, config["in_channels"], stride, stride)
    tensors = {f"downscale_cnn.{name}": tensor for name, tensor in stem.state_dict().items()}
    save_file({**unet.state_dict(), **tensors}, part / WEIGHTS)
    return unet.eval()


@torch.no_grad()
def official_features(part: Path, unet: UNet2DModel, images: Tensor) -> Tensor:
    """A strided convolution, then diffusers' U-Net at timestep 0."""
    config, tensors = read_config(part), load_file(part / WEIGHTS)
    stem = F.conv2d(
        images,
        tensors["downscale_cnn.weight"],
        tensors["downscale_cnn.bias"],
        stride=config["input_resolution"] // config["sample_size"],
    )
    return unet(stem, timestep=0).sample


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"in_channels": 24},
        {"in_channels": 5},
        {"attention_head_dim": None},
        {"layers_per_block": 2, "norm_num_groups": 4, "block_out_channels": [8, 16, 32]},
        {"input_resolution": 128},
    ],
)
def test_an_encoder_of_another_configuration_computes_the_official_features(
    checkpoint: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    part = checkpoint / ENCODER
    levels = len(changes.get("block_out_channels", range(4)))
    blocks = {
        "down_block_types": ["DownBlock2D"] * levels,
        "up_block_types": ["UpBlock2D"] * levels,
    }
    unet = write_encoder(part, **changes, **blocks)
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    expected = official_features(part, unet, images)
    pipe = load_official(checkpoint)
    with torch.no_grad():
        torch.testing.assert_close(pipe.encoder(images), expected, atol=1e-4, rtol=0)
    pipe.save_pretrained(tmp_path / "out")
    loaded = type(pipe).from_pretrained(tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(loaded.encoder(images), expected, atol=1e-4, rtol=0)
