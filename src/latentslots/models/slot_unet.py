"""The denoiser of Latent Slot Diffusion (Jiang et al., 2023, Sec. 3.2).

Dimensions: B batch, C latent channels, S conditioning vectors, X their width, N tokens,
h w rows and columns of the latent, P slots, R channels of a rendering.
"""

import json
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from jaxtyping import Bool, Float, Num
from torch import Tensor, nn

from latentslots.models.cross_attention import attention_weights, token_grids
from latentslots.models.position import PositionEmbedding, PositionKind
from latentslots.models.strict_config import StrictConfigMixin

FEW_SOURCES = 64
"""Up to this number of keys, torch's fused attention is slower than the plain one under bf16
autocast on a CPU (`benchmarks/attention.py`)."""


class PositionedAttnProcessor(nn.Module):
    """diffusers' attention, with the position of every token added to its input.

    The paper adds positions to the residual stream; like the official code, we add them to the
    input of each attention layer only.
    """

    def __init__(self, position: PositionEmbedding) -> None:
        super().__init__()
        self.position = position
        self.fused = AttnProcessor2_0()
        self.plain = AttnProcessor()
        self.recorded: list[Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Exclude the recording, so that a copy does not share it."""
        return {**super().__getstate__(), "recorded": None}

    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "B N C"],
        encoder_hidden_states: Float[Tensor, "B S X"] | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        *,
        grids: dict[int, tuple[int, int]],
    ) -> Float[Tensor, "B N C"]:
        """Attend; `grids` maps a number of tokens to the rows and columns that they form."""
        height, width = grids[hidden_states.shape[1]]
        hidden_states = hidden_states + self.position(height, width).to(hidden_states.dtype)
        if self.recorded is not None and encoder_hidden_states is not None:
            self.recorded.append(
                attention_weights(attn, hidden_states, encoder_hidden_states, attention_mask)
            )
        sources = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        on_cpu = hidden_states.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        attend = self.plain if on_cpu and sources.shape[1] <= FEW_SOURCES else self.fused
        return attend(attn, hidden_states, encoder_hidden_states, attention_mask, temb)


# diffusers selects how to load a component by the classes that it finds in the component's module,
# so ModelMixin must be imported here.
class SlotUNet(StrictConfigMixin, UNet2DConditionModel, ModelMixin):
    """diffusers' conditional U-Net with a position embedding at every attention layer.

    Args:
        in_channels: Channels of the latents.
        out_channels: Channels of the prediction.
        sample_size: Rows and columns of the training latents, and of `learned` position tables.
        block_out_channels: Widths of the levels.
        attention_levels: For each level, whether its blocks have self- and cross-attention.
        layers_per_block: Residual blocks per level.
        cross_attention_dim: Width of the conditioning vectors.
        num_attention_heads: Heads of every attention layer (what diffusers calls
            `attention_head_dim` in this class).
        norm_num_groups: Groups of the group normalizations.
        position: `cartesian`, `sinusoidal`, `learned` or `none`.
        map_channels: Channels of the map of slots, which is concatenated to the latents: at every
            place, the vectors of the slots there. 0 for none, as in the paper: then
            cross-attention alone has to relate vectors to places.
        rendering_factor: Pixels per latent, in each direction, of the rendering of the slots that
            is concatenated, too (the mixture of `SpriteDecoder`); 0 for none.
    """

    @register_to_config
    def __init__(
        self,
        *,
        in_channels: int = 4,
        out_channels: int = 4,
        sample_size: int = 32,
        block_out_channels: Sequence[int] = (192, 384, 768, 768),
        attention_levels: Sequence[bool] = (True, True, True, False),
        layers_per_block: int = 2,
        cross_attention_dim: int = 192,
        num_attention_heads: int = 24,
        norm_num_groups: int = 24,
        position: PositionKind = "cartesian",
        map_channels: int = 0,
        rendering_factor: int = 0,
    ) -> None:
        for name, value in (("map_channels", map_channels), ("rendering_factor", rendering_factor)):
            if value < 0:
                raise ValueError(f"{name} must be 0 or more, got {value}")
        if len(attention_levels) != len(block_out_channels):
            raise ValueError(
                "attention_levels needs one entry per level: "
                f"{len(block_out_channels)} levels, {len(attention_levels)} entries"
            )
        super().__init__(
            sample_size=sample_size,
            in_channels=in_channels,
            out_channels=out_channels,
            down_block_types=tuple(
                "CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in attention_levels
            ),
            up_block_types=tuple(
                "CrossAttnUpBlock2D" if attends else "UpBlock2D"
                for attends in reversed(attention_levels)
            ),
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            cross_attention_dim=cross_attention_dim,
            attention_head_dim=num_attention_heads,
            norm_num_groups=norm_num_groups,
        )
        # diffusers has registered a key of the same name, with None.
        self.register_to_config(num_attention_heads=num_attention_heads)
        added = map_channels + 3 * rendering_factor**2
        if added:
            self.conv_in: nn.Module = nn.Conv2d(
                in_channels + added, block_out_channels[0], 3, padding=1
            )
        if map_channels:
            self.map_in = nn.Linear(cross_attention_dim, map_channels)
        if position != "none":
            self._add_positions(position)

    def _add_positions(self, kind: PositionKind) -> None:
        """Add a position embedding to every attention layer."""
        for name, module in self.named_modules():
            if isinstance(module, Attention):
                size = self.config.sample_size // self._downsampling(name)
                position = PositionEmbedding(module.query_dim, kind, learned_size=max(size, 1))
                module.set_processor(PositionedAttnProcessor(position))

    def _downsampling(self, name: str) -> int:
        """Latent cells per token of the named layer, in each direction."""
        deepest = len(self.config.block_out_channels) - 1
        block, level = name.split(".")[:2]
        if block == "mid_block":
            return 2**deepest
        return 2 ** (int(level) if block == "down_blocks" else deepest - int(level))

    @property
    def latent_size(self) -> int:
        """Rows, and columns, of the training latents."""
        return int(self.config.sample_size)

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return int(self.config.in_channels)

    @property
    def num_levels(self) -> int:
        """Number of resolutions inside the U-Net."""
        return len(self.config.block_out_channels)

    @property
    def map_channels(self) -> int:
        """Channels of the map of slots that is concatenated to the latents; 0 for none."""
        return int(self.config.map_channels)

    @property
    def rendering_factor(self) -> int:
        """Pixels per latent of the rendering that is concatenated to the latents; 0 for none."""
        return int(self.config.rendering_factor)

    def set_attn_processor(self, processor: Any) -> None:
        """Replace attention processors, unless that would drop position embeddings."""
        new = processor.values() if isinstance(processor, dict) else [processor]
        if self.config.position != "none" and not all(
            isinstance(one, PositionedAttnProcessor) for one in new
        ):
            raise ValueError(
                "the attention processors of this U-Net hold its position embeddings; replacing "
                "them would drop trained weights"
            )
        super().set_attn_processor(processor)

    def to_json_string(self) -> str:
        """Return the config as saved: only the keys that this class honors."""
        config = json.loads(super().to_json_string())
        honored = self._get_init_keys(type(self))
        config = {k: v for k, v in config.items() if k in honored or k.startswith("_")}
        return json.dumps(config, indent=2, sort_keys=True) + "\n"

    def forward(
        self,
        sample: Float[Tensor, "B C h w"],
        timestep: Num[Tensor, "..."] | int | float,
        encoder_hidden_states: Float[Tensor, "B S X"],
        encoder_attention_mask: Bool[Tensor, "B S"] | None = None,
        slot_layout: Float[Tensor, "B P h w"] | None = None,
        rendering: Float[Tensor, "B R h w"] | None = None,
        return_dict: bool = True,
    ) -> UNet2DConditionOutput | tuple[Tensor]:
        """Predict noise (or velocity) from noisy latents and conditioning vectors.

        Args:
            sample: Noisy latents.
            timestep: One for all, or one per sample; at 0 latents are almost clean.
            encoder_hidden_states: Conditioning vectors, from `SlotEncoder.condition`.
            encoder_attention_mask: True for the vectors to attend to.
            slot_layout: Layout of the first P vectors, the slots (`PatchDecoder.slot_layout`); the
                registers after them have no position. With `map_channels` only.
            rendering: The scene in colors, the pixels of every latent. With `rendering_factor`
                only.
            return_dict: Whether to wrap the prediction as diffusers does.

        Raises:
            ValueError: If `slot_layout` is passed without `map_channels`, or missing with it;
                or `rendering` without `rendering_factor`.
        """
        if (slot_layout is None) != (self.config.map_channels == 0):
            raise ValueError("slot_layout is required with map_channels, and refused without")
        if (rendering is None) != (self.config.rendering_factor == 0):
            raise ValueError("rendering is required with rendering_factor, and refused without")
        if slot_layout is not None:
            vectors = encoder_hidden_states[:, : slot_layout.shape[1]]
            if encoder_attention_mask is not None:
                slot_layout = (
                    slot_layout * encoder_attention_mask[:, : slot_layout.shape[1], None, None]
                )
            vectors = self.map_in(vectors)
            slot_map = torch.einsum("bphw,bpc->bchw", slot_layout.to(vectors.dtype), vectors)
            sample = torch.cat([sample, slot_map.to(sample.dtype)], dim=1)
        if rendering is not None:
            sample = torch.cat([sample, rendering.to(sample.dtype)], dim=1)
        grids = None
        if self.config.position != "none":
            grids = token_grids(sample.shape[2], sample.shape[3], self.num_levels)
        return super().forward(
            sample,
            timestep,
            encoder_hidden_states,
            cross_attention_kwargs=None if grids is None else {"grids": grids},
            encoder_attention_mask=encoder_attention_mask,
            return_dict=return_dict,
        )
