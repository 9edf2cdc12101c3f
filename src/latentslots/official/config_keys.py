"""Every key of the official configs, and what it means for the model.

The official U-Nets honor the keys that their own `__init__` lists. Keys that only diffusers' class
lists are saved in `config.json` with diffusers' defaults or whatever the user wrote, but
`from_config` drops them with a warning before the model is built, in training as well as in
evaluation. Applying a dropped key would build a model that was never trained.
"""

import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple


class OfficialCheckpointError(ValueError):
    """A folder that is not, or not completely, an official checkpoint."""


class Use(Enum):
    """How the official code, and therefore the importer, uses a key of a config."""

    HONORED = "the model is built with it"
    SAME_AT_EVERY_LEVEL = "honored; a list must hold one number for all levels"
    IGNORED = "saved, but dropped before the model is built"


class Assumed(NamedTuple):
    """A key that the official code honors, and our models support at one value only."""

    value: Any


ENCODER_KEYS: dict[str, Use | Assumed] = {
    "sample_size": Use.HONORED,
    "in_channels": Use.HONORED,
    "out_channels": Use.HONORED,
    "down_block_types": Assumed("DownBlock2D"),
    "up_block_types": Assumed("UpBlock2D"),
    "block_out_channels": Use.HONORED,
    "layers_per_block": Use.HONORED,
    "attention_head_dim": Use.HONORED,
    "norm_num_groups": Use.HONORED,
    "input_resolution": Use.HONORED,
    "input_channels": Assumed(3),  # the official data loader yields RGB images only
    **dict.fromkeys(
        (
            "act_fn",
            "add_attention",
            "attn_norm_num_groups",
            "center_input_sample",
            "class_embed_type",
            "downsample_padding",
            "downsample_type",
            "dropout",
            "flip_sin_to_cos",
            "freq_shift",
            "mid_block_scale_factor",
            "mid_block_type",
            "norm_eps",
            "num_class_embeds",
            "num_train_timesteps",
            "resnet_time_scale_shift",
            "time_embedding_dim",
            "time_embedding_type",
            "upsample_type",
        ),
        Use.IGNORED,
    ),
}
"""Keys of `UNetEncoder`, a diffusers `UNet2DModel` behind a strided convolution."""

SLOT_KEYS: dict[str, Use | Assumed] = dict.fromkeys(
    (
        "num_iterations",
        "num_slots",
        "num_heads",
        "input_size",
        "out_size",
        "slot_size",
        "mlp_hidden_size",
        "input_resolution",
        "epsilon",
        "learnable_slot_init",
        "bi_level",
    ),
    Use.HONORED,
)
"""Keys of `MultiHeadSTEVESA`, slot attention."""

UNET_KEYS: dict[str, Use | Assumed] = {
    "sample_size": Use.HONORED,
    "in_channels": Use.HONORED,
    "out_channels": Use.HONORED,
    "down_block_types": Use.HONORED,
    "up_block_types": Use.HONORED,
    "block_out_channels": Use.HONORED,
    "layers_per_block": Use.SAME_AT_EVERY_LEVEL,
    "norm_num_groups": Use.HONORED,
    "cross_attention_dim": Use.SAME_AT_EVERY_LEVEL,
    "transformer_layers_per_block": Assumed(1),
    "attention_head_dim": Use.SAME_AT_EVERY_LEVEL,
    "num_attention_heads": Assumed(None),  # diffusers raises an error for any number
    "pos_type": Use.HONORED,
    **dict.fromkeys(
        (
            "act_fn",
            "addition_embed_type",
            "addition_embed_type_num_heads",
            "addition_time_embed_dim",
            "attention_type",
            "center_input_sample",
            "class_embed_type",
            "class_embeddings_concat",
            "conv_in_kernel",
            "conv_out_kernel",
            "cross_attention_norm",
            "downsample_padding",
            "dropout",
            "dual_cross_attention",
            "encoder_hid_dim",
            "encoder_hid_dim_type",
            "flip_sin_to_cos",
            "freq_shift",
            "mid_block_only_cross_attention",
            "mid_block_scale_factor",
            "mid_block_type",
            "norm_eps",
            "num_class_embeds",
            "only_cross_attention",
            "projection_class_embeddings_input_dim",
            "resnet_out_scale_factor",
            "resnet_skip_time_act",
            "resnet_time_scale_shift",
            "reverse_transformer_layers_per_block",
            "time_cond_proj_dim",
            "time_embedding_act_fn",
            "time_embedding_dim",
            "time_embedding_type",
            "timestep_post_act",
            "upcast_attention",
            "use_linear_projection",
        ),
        Use.IGNORED,
    ),
}
"""Keys of `UNet2DConditionModelWithPos`, a diffusers `UNet2DConditionModel` with positions."""


class OfficialConfig:
    """The honored keys of an official config, each checked.

    Args:
        file: The `config.json`.
        keys: How each of its keys is used.

    Raises:
        OfficialCheckpointError: If the file is missing or is not a JSON object, if it lacks a key
            or has an unknown one, or if a key has a value that is not supported.
    """

    def __init__(self, file: Path, keys: Mapping[str, Use | Assumed]) -> None:
        self.file = file
        values = _read_json_object(file)
        unknown = sorted(key for key in values if key not in keys and not key.startswith("_"))
        if unknown:
            raise OfficialCheckpointError(
                f"{file} has the key {unknown[0]!r}, which the official code does not have"
            )
        self._values = {
            key: self._check(key, use, values) for key, use in keys.items() if use != Use.IGNORED
        }

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def require(self, key: str, expected: Any, reason: str) -> None:
        """Raise an error unless a key has the value that another part requires."""
        if self[key] != expected:
            raise OfficialCheckpointError(
                f"{self.file}: {key} is {json.dumps(self[key])}, must be {json.dumps(expected)}: "
                f"{reason}"
            )

    def _check(self, key: str, use: Use | Assumed, values: Mapping[str, Any]) -> Any:
        if key not in values:
            raise OfficialCheckpointError(f"{self.file} lacks the key {key!r}")
        value = values[key]
        if use == Use.HONORED:
            return value
        # A value for all levels, or a list with one per level.
        per_level = value if isinstance(value, list) and value else [value]
        expected = use.value if isinstance(use, Assumed) else per_level[0]
        if any(each != expected for each in per_level):
            allowed = json.dumps(expected) if isinstance(use, Assumed) else "the same"
            where = " at every level" if isinstance(value, list) else ""
            raise OfficialCheckpointError(
                f"{self.file}: {key} is {json.dumps(value)}, must be {allowed}{where}"
            )
        return expected


def _read_json_object(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise OfficialCheckpointError(f"{file.parent} holds no {file.name}")
    try:
        values = json.loads(file.read_text())
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise OfficialCheckpointError(f"{file} is not a JSON object")
    return values
