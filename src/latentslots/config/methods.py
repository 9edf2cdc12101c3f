"""Every method's configuration. A method of your own is another subclass of `MethodConfig`."""

from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import Any, ClassVar, Literal

from latentslots.config.networks import (
    BroadcastDecoderConfig,
    DINOv2Config,
    DiscreteVAEConfig,
    MLPDecoderConfig,
    Position,
    PretrainedUNetConfig,
    ResidualEncoderConfig,
    SlotInit,
    SlotUNetConfig,
    TransformerDecoderConfig,
    UNetEncoderConfig,
)
from latentslots.config.ranges import Count, CountOrNone, Positive, ShareBelowOne, Weight


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """A model and its objective.

    Attributes:
        kind: The name of the method in JSON files.
        builder: The function that builds its objective from this config and the run's, as
            `module:function`; a subclass may override `build_objective` instead.
    """

    kind: ClassVar[str]
    builder: ClassVar[str]

    def build_objective(self, run: Any) -> Any:
        """Build the objective, with fresh weights from the global generator.

        Args:
            run: The `TrainConfig` that this is the method of.
        """
        return resolve_name(self.builder)(self, run)


@dataclass(frozen=True, kw_only=True)
class SlotsConfig(MethodConfig):
    """Settings that all methods with slots have."""

    num_slots: Count = 7
    """Slots per image: the most objects expected, plus one for the background."""
    num_iterations: Count = 3
    """Iterations of slot attention."""
    slot_init: SlotInit = "gaussian"
    """Whether slots start from draws of one Gaussian or from learned vectors."""
    num_inference_slots: CountOrNone = 0
    """Slots per image once trained; 0 for `num_slots`."""
    merge_overlap: ShareBelowOne = 0.0
    """Once trained, slots of an image whose masks overlap more than this (cosine of the two masks,
    from 0 to 1) are merged into one; 0 for never."""


@dataclass(frozen=True, kw_only=True)
class LSDConfig(SlotsConfig):
    """Latent Slot Diffusion (Jiang et al., 2023), with a decoder trained from scratch."""

    kind: ClassVar[str] = "lsd"
    builder: ClassVar[str] = "latentslots.build.methods:build_lsd"

    num_slots: Count = 11
    """Slots per image: the most objects expected, plus one for the background."""
    slot_dim: Count = 192
    """Channels per slot; also the cross-attention width of the decoder."""
    glimpse_size: CountOrNone = 0
    """Rows and columns of the crop in which each slot sees its part of the image: a power of two.
    Slots then have a frame, their position and scale, in four of their channels. 0 for slots
    without frames, as in the paper."""
    num_heads: Count = 1
    """Heads of slot attention."""
    slot_mlp_dim: Count = 192
    """Hidden width of the slots' MLP."""
    temperature: Positive = 1.0
    """Divisor of the logits of slot attention: below 1, slots compete harder."""
    bi_level: bool = False
    """Pass gradients straight from the last iteration to the initial slots."""
    position: Position = "cartesian"
    """Position embedding of the features."""
    num_registers: CountOrNone = 0
    """Learned vectors that the decoder attends to beside the slots."""
    encoder: UNetEncoderConfig | ResidualEncoderConfig = field(default_factory=UNetEncoderConfig)
    """The image backbone."""
    unet: SlotUNetConfig = field(default_factory=SlotUNetConfig)
    """The denoiser."""
    vae: str = "bundled"
    """The frozen autoencoder: `bundled`, a folder, or a hub id."""
    whiten_latents: bool = False
    """Measure mean and deviation of every latent channel on training images, and denoise latents
    that are whitened by them, so that all channels count alike. The paper scales all by one number.
    """
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    """What the denoiser predicts; the paper's choice is the noise."""
    snr_gamma: Weight = 0.0
    """Min-SNR weighting of the loss (Hang et al., 2023) with this gamma; 0 for none."""
    timestep_shift: Positive = 1.0
    """Draw timesteps toward high noise, where the prediction depends most on the slots: 3 puts half
    of them above 750; 1 draws them uniformly, as the paper does."""
    patch_decoder_weight: Weight = 0.0
    """Weight of the loss of a second, much simpler decoder: an MLP that reconstructs every patch of
    the image as a mixture of slots. It makes slots bind early; 0 for none, as in the paper."""
    patch_plain_steps: CountOrNone = 0
    """Steps in which the patch decoder predicts one color per slot; over as many further steps, the
    color gradually becomes free to vary with the position. 0: it is free from the start."""
    patch_size: Count = 2
    """Pixels per side of the patches that the patch decoder reconstructs."""
    num_patches: Count = 256
    """Patches of an image that the patch decoder reconstructs per step, drawn anew each time."""
    sprite_size: CountOrNone = 0
    """Rows and columns of each slot's own picture, a power of two: the patch decoder then places
    pictures at the slots' frames instead of computing every patch by an MLP; needs `glimpse_size`.
    0 for the MLP."""
    unite_error: Weight = 0.0
    """In training, once colors are free, a random pair of slots that touch is replaced by the slot
    of both regions, if that raises the mean squared error of the painted image by at most this, in
    the units of `merge_error`, so that spare slots do not cut objects into parts; needs
    `sprite_size`. 0 for never."""
    merge_error: Weight = 0.0
    """Once trained, parts of an object are merged into one slot if one slot instead of two raises
    the mean squared error of the painted image by at most this, in units of the colors' variance,
    0.09; needs `sprite_size`, and excludes `merge_overlap`. 0 for never."""
    mask_distillation_weight: Weight = 0.0
    """Weight of the cross-entropy from the patch decoder's responsibilities to the slots'
    attention, so that attention follows the same boundaries; needs `patch_decoder_weight`. 0 for
    none."""
    condition_dropout: ShareBelowOne = 0.0
    """Share of images that are denoised without their slots, for classifier-free guidance."""


@dataclass(frozen=True, kw_only=True)
class StableLSDConfig(SlotsConfig):
    """Stable-LSD (Jiang et al., 2023): slots between a frozen DINOv2 and a Stable Diffusion."""

    kind: ClassVar[str] = "stable-lsd"
    builder: ClassVar[str] = "latentslots.build.stable_lsd:build_stable_lsd"

    slot_dim: Count = 768
    """Channels per slot."""
    num_iterations: Count = 5
    """Iterations of slot attention."""
    num_heads: Count = 1
    """Heads of slot attention."""
    slot_mlp_dim: Count = 768
    """Hidden width of the slots' MLP."""
    bi_level: bool = False
    """Pass gradients straight from the last iteration to the initial slots."""
    position: Position = "cartesian"
    """Position embedding of the features."""
    encoder: DINOv2Config = field(default_factory=lambda: DINOv2Config(image_size=448))
    """The image backbone, frozen."""
    unet: PretrainedUNetConfig = field(default_factory=PretrainedUNetConfig)
    """The denoiser."""
    vae: str = ""
    """The frozen autoencoder, `bundled`, a folder, or a hub id; empty for the denoiser's own."""
    registers: Literal["none", "empty-prompt", "learned"] = "none"
    """What the decoder attends to beside the slots: nothing, as in the paper; the embedding of the
    empty prompt; or learned vectors."""
    num_registers: CountOrNone = 0
    """Number of learned registers; 0 unless `registers` is `learned`."""
    condition_dropout: ShareBelowOne = 0.0
    """Share of images that are denoised without their slots, from registers or the empty prompt
    alone."""
    pad_unconditional: bool = False
    """Show the denoiser the whole empty prompt where slots are dropped and in guidance, as Stable
    Diffusion does, instead of as many of its vectors as there are slots."""
    contrastive_weight: Weight = 0.0
    """Weight of the denoising error with slots of another image, which is subtracted; 0 for
    none."""
    contrastive_start: CountOrNone = 0
    """Steps before the contrastive loss is added."""
    guidance_weight: Weight = 0.0
    """Weight of the distance between slot attention and the denoiser's cross-attention; 0 for
    none."""
    guidance_blocks: tuple[str, ...] = ("up_blocks.2",)
    """Blocks of the denoiser whose cross-attention is compared with slot attention."""
    snr_gamma: Weight = 0.0
    """Min-SNR weighting of the loss (Hang et al., 2023) with this gamma; 0 for none."""
    timestep_shift: Positive = 1.0
    """Draw timesteps toward high noise, where the prediction depends most on the slots; 1 draws
    them uniformly, as the paper does."""
    include_pretrained: bool = False
    """Copy the frozen parts into every saved pipeline, instead of recording ids and hashes."""


@dataclass(frozen=True, kw_only=True)
class SlotAttentionConfig(SlotsConfig):
    """Slot Attention (Locatello et al., 2020): slots that reconstruct the image's pixels."""

    kind: ClassVar[str] = "slot-attention"
    builder: ClassVar[str] = "latentslots.build.methods:build_slot_attention"

    slot_dim: Count = 64
    """Channels per slot."""
    slot_mlp_dim: Count = 128
    """Hidden width of the slots' MLP."""
    position: Position = "cartesian"
    """Position embedding of the features, and of the grid cells at which slots are decoded."""
    encoder: UNetEncoderConfig | ResidualEncoderConfig = field(
        default_factory=ResidualEncoderConfig
    )
    """The image backbone."""
    decoder: BroadcastDecoderConfig = field(default_factory=BroadcastDecoderConfig)
    """The decoder of slots."""


@dataclass(frozen=True, kw_only=True)
class SlateConfig(SlotsConfig):
    """SLATE (Singh et al., 2022): slots from which a transformer predicts an image's tokens."""

    kind: ClassVar[str] = "slate"
    builder: ClassVar[str] = "latentslots.build.methods:build_slate"

    slot_dim: Count = 192
    """Channels per slot."""
    slot_mlp_dim: Count = 192
    """Hidden width of the slots' MLP."""
    position: Position = "cartesian"
    """Position embedding of the features."""
    encoder: UNetEncoderConfig | ResidualEncoderConfig = field(
        default_factory=ResidualEncoderConfig
    )
    """The image backbone."""
    dvae: DiscreteVAEConfig = field(default_factory=DiscreteVAEConfig)
    """The autoencoder of tokens."""
    decoder: TransformerDecoderConfig = field(default_factory=TransformerDecoderConfig)
    """The decoder from slots to tokens."""


@dataclass(frozen=True, kw_only=True)
class DinosaurConfig(SlotsConfig):
    """DINOSAUR (Seitzer et al., 2023): slots that reconstruct a frozen transformer's features."""

    kind: ClassVar[str] = "dinosaur"
    builder: ClassVar[str] = "latentslots.build.methods:build_dinosaur"

    slot_dim: Count = 256
    """Channels per slot."""
    slot_mlp_dim: Count = 1024
    """Hidden width of the slots' MLP."""
    encoder: DINOv2Config = field(default_factory=DINOv2Config)
    """The image backbone, frozen."""
    decoder: MLPDecoderConfig | TransformerDecoderConfig = field(default_factory=MLPDecoderConfig)
    """The decoder from slots to features."""


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(MethodConfig):
    """diffusers' AutoencoderKL, trained with L1 + KL."""

    kind: ClassVar[str] = "autoencoder"
    builder: ClassVar[str] = "latentslots.build.methods:build_autoencoder"

    latent_channels: Count = 8
    """Channels of the latents."""
    block_out_channels: tuple[Count, ...] = (32, 64, 64)
    """Widths of the levels; every level after the first halves the image."""
    layers_per_block: Count = 1
    """Residual blocks per level."""
    norm_num_groups: Count = 16
    """Groups of the group normalizations."""
    mse_weight: Weight = 0.0
    """Weight of the squared error, beside an absolute error of weight 1."""
    kl_weight: Weight = 1e-4
    """Weight of the KL term, per latent."""
    cosine_weight: Weight = 0.0
    """Weight of the term that keeps each latent near the cosine transform of its patch."""
    perceptual_weight: Weight = 0.0
    """Weight of LPIPS, which needs the extra `perceptual`; 0 for none."""
