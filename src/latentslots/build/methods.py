"""From a method's config to its objective."""

from dataclasses import asdict

from diffusers import AutoencoderKL, ModelMixin
from torch import nn

from latentslots.config import (
    AutoencoderConfig,
    DinosaurConfig,
    LSDConfig,
    MLPDecoderConfig,
    ResidualEncoderConfig,
    SlateConfig,
    SlotAttentionConfig,
    SlotsConfig,
    TrainConfig,
    UNetEncoderConfig,
)
from latentslots.metrics.reconstruction import load_lpips
from latentslots.models import (
    AutoregressiveDecoder,
    BroadcastDecoder,
    DiscreteVAE,
    FeatureDecoder,
    PatchDecoder,
    ResidualEncoder,
    SlotEncoder,
    SlotUNet,
    SpriteDecoder,
    UNetEncoder,
)
from latentslots.models.autoencoder import downscale_factor, load_vae
from latentslots.models.dinov2_encoder import DINOv2Encoder
from latentslots.models.noise_schedule import official_schedule
from latentslots.objectives import (
    AutoencoderObjective,
    DinosaurObjective,
    LatentSlotDiffusionObjective,
    Objective,
    SlateObjective,
    SlotAttentionObjective,
)
from latentslots.objectives.auxiliary import PatchLoss
from latentslots.pipelines.inference import InferenceSettings


def build_objective(config: TrainConfig) -> Objective:
    """Build the model of a run, with fresh weights from the global generator.

    Raises:
        ValueError: If sizes do not fit each other, or no part can checkpoint its gradients.
    """
    objective: Objective = config.method.build_objective(config)
    if config.gradient_checkpointing:
        supported = [
            part  # a frozen denoiser stores activations, too
            for part in objective.children()
            if isinstance(part, ModelMixin) and part._supports_gradient_checkpointing
        ]
        if not supported:
            raise ValueError(
                f"gradient_checkpointing: no part of {config.method.kind} can recompute its "
                "activations"
            )
        for part in supported:
            part.enable_gradient_checkpointing()
    return objective


def inference_settings(method: SlotsConfig, *, merge_error: float = 0.0) -> InferenceSettings:
    """Return the inference settings of a method's pipeline."""
    return InferenceSettings(method.num_inference_slots, method.merge_overlap, merge_error)


def build_lsd(method: LSDConfig, run: TrainConfig) -> LatentSlotDiffusionObjective:
    """Build Latent Slot Diffusion around the autoencoder that the method names."""
    return build_lsd_around(method, run.data.resolution, load_vae(method.vae))


def build_lsd_around(
    method: LSDConfig, resolution: int, vae: AutoencoderKL
) -> LatentSlotDiffusionObjective:
    """Build Latent Slot Diffusion around an autoencoder, which determines the U-Net's size."""
    factor = downscale_factor(vae)
    if resolution % factor:
        raise ValueError(
            f"data.resolution must be a multiple of the VAE's {factor} pixels per latent, "
            f"got {resolution}"
        )
    encoder = _build_encoder(method.encoder, resolution)
    slot_encoder = SlotEncoder(
        in_channels=method.encoder.out_channels,
        slot_dim=method.slot_dim,
        cross_attention_dim=method.slot_dim,
        num_slots=method.num_slots,
        num_iterations=method.num_iterations,
        num_heads=method.num_heads,
        mlp_dim=method.slot_mlp_dim,
        temperature=method.temperature,
        slot_init=method.slot_init,
        bi_level=method.bi_level,
        position=method.position,
        learned_position_size=resolution // method.encoder.downscale_factor,
        num_registers=method.num_registers,
        null_condition=method.condition_dropout > 0 and method.num_registers == 0,
        glimpse_size=method.glimpse_size,
    )
    patch_decoder, auxiliary = None, []
    if method.patch_decoder_weight:
        patch_decoder = _build_patch_decoder(method)
        patch_loss = PatchLoss(
            patch_decoder,
            weight=method.patch_decoder_weight,
            distillation_weight=method.mask_distillation_weight,
            patch_size=method.patch_size,
            num_patches=method.num_patches,
            plain_steps=method.patch_plain_steps,
            resolution=resolution,
        )
        auxiliary.append(patch_loss)
    for name in ("merge_error", "unite_error"):
        if getattr(method, name) and not method.sprite_size:
            raise ValueError(f"method.{name} needs sprites: set sprite_size above 0, or both to 0")
    for name in ("mask_distillation_weight", "patch_plain_steps", "sprite_size"):
        if getattr(method, name) and patch_decoder is None:
            raise ValueError(
                f"method.{name} needs a patch decoder: set patch_decoder_weight above 0, or both "
                "to 0"
            )
    return LatentSlotDiffusionObjective(
        encoder=encoder,
        slot_encoder=slot_encoder,
        unet=_build_unet(method, resolution // factor, vae, rendering_factor=factor),
        noise_schedule=official_schedule(method.prediction_type),
        vae=vae,
        resolution=resolution,
        snr_gamma=method.snr_gamma,
        timestep_shift=method.timestep_shift,
        condition_dropout=method.condition_dropout,
        patch_decoder=patch_decoder,
        auxiliary=auxiliary,
        whiten_latents=method.whiten_latents,
        unite_error=method.unite_error,
        unite_from=2 * method.patch_plain_steps,  # when colors are free
        inference=inference_settings(method, merge_error=method.merge_error),
    )


def _build_patch_decoder(method: LSDConfig) -> PatchDecoder | SpriteDecoder:
    if not method.sprite_size:
        return PatchDecoder(slot_dim=method.slot_dim, mlp_dim=2 * method.slot_dim)
    if not method.glimpse_size:
        raise ValueError(
            "method.sprite_size needs slots with frames: set glimpse_size above 0, or both to 0"
        )
    return SpriteDecoder(slot_dim=method.slot_dim, sprite_size=method.sprite_size)


def _build_unet(
    method: LSDConfig, sample_size: int, vae: AutoencoderKL, *, rendering_factor: int
) -> SlotUNet:
    if method.unet.rendering and not method.sprite_size:
        raise ValueError("method.unet.rendering needs sprites: set sprite_size above 0")
    return SlotUNet(
        in_channels=vae.config.latent_channels,
        out_channels=vae.config.latent_channels,
        sample_size=sample_size,
        block_out_channels=method.unet.block_out_channels,
        attention_levels=method.unet.attention_levels,
        layers_per_block=method.unet.layers_per_block,
        cross_attention_dim=method.slot_dim,
        num_attention_heads=method.unet.num_attention_heads,
        norm_num_groups=method.unet.norm_num_groups,
        position=method.unet.position,
        map_channels=method.unet.map_channels,
        rendering_factor=rendering_factor if method.unet.rendering else 0,
    )


def _build_encoder(
    config: UNetEncoderConfig | ResidualEncoderConfig, resolution: int
) -> UNetEncoder | ResidualEncoder:
    if isinstance(config, ResidualEncoderConfig):
        encoder: UNetEncoder | ResidualEncoder = ResidualEncoder(**asdict(config))
    else:
        encoder = UNetEncoder(**asdict(config))
    if resolution % encoder.size_multiple:
        raise ValueError(
            f"data.resolution must be a multiple of the encoder's {encoder.size_multiple} pixels, "
            f"got {resolution}"
        )
    return encoder


def build_slot_attention(method: SlotAttentionConfig, run: TrainConfig) -> SlotAttentionObjective:
    """Build Slot Attention."""
    resolution = run.data.resolution
    decoder = BroadcastDecoder(
        slot_dim=method.slot_dim,
        channels=method.decoder.channels,
        num_doublings=method.decoder.num_doublings,
        num_refinements=method.decoder.num_refinements,
        position=method.position,
        learned_position_size=max(resolution // 2**method.decoder.num_doublings, 1),
    )
    return SlotAttentionObjective(
        encoder=_build_encoder(method.encoder, resolution),
        slot_encoder=_build_slots(method, resolution),
        decoder=decoder,
        resolution=resolution,
        inference=inference_settings(method),
    )


def build_slate(method: SlateConfig, run: TrainConfig) -> SlateObjective:
    """Build SLATE."""
    resolution = run.data.resolution
    patch_size, vocab_size = method.dvae.patch_size, method.dvae.vocab_size
    dvae = DiscreteVAE(vocab_size=vocab_size, patch_size=patch_size, channels=method.dvae.channels)
    if resolution % patch_size:
        raise ValueError(
            f"data.resolution must be a multiple of the dVAE's {patch_size} pixels per patch, "
            f"got {resolution}"
        )
    decoder = AutoregressiveDecoder(
        in_dim=vocab_size,
        out_dim=vocab_size,
        slot_dim=method.slot_dim,
        num_tokens=(resolution // patch_size) ** 2,
        **asdict(method.decoder),
    )
    return SlateObjective(
        encoder=_build_encoder(method.encoder, resolution),
        slot_encoder=_build_slots(method, resolution),
        dvae=dvae,
        decoder=decoder,
        resolution=resolution,
        temperature_steps=method.dvae.temperature_steps,
        inference=inference_settings(method),
    )


def _build_slots(method: SlotAttentionConfig | SlateConfig, resolution: int) -> SlotEncoder:
    return SlotEncoder(
        in_channels=method.encoder.out_channels,
        slot_dim=method.slot_dim,
        cross_attention_dim=0,
        num_slots=method.num_slots,
        num_iterations=method.num_iterations,
        mlp_dim=method.slot_mlp_dim,
        slot_init=method.slot_init,
        position=method.position,
        learned_position_size=resolution // method.encoder.downscale_factor,
    )


def build_dinosaur(method: DinosaurConfig, run: TrainConfig) -> DinosaurObjective:
    """Build DINOSAUR on the vision transformer that the method names."""
    resolution = run.data.resolution
    encoder = DINOv2Encoder.from_vit(
        method.encoder.name,
        image_size=method.encoder.image_size,
        num_layers=method.encoder.num_layers,
    )
    slot_encoder = SlotEncoder(
        in_channels=encoder.out_channels,
        slot_dim=method.slot_dim,
        cross_attention_dim=0,
        num_slots=method.num_slots,
        num_iterations=method.num_iterations,
        mlp_dim=method.slot_mlp_dim,
        slot_init=method.slot_init,
        position="none",  # The transformer's features contain positions.
    )
    if isinstance(method.decoder, MLPDecoderConfig):
        decoder: FeatureDecoder | AutoregressiveDecoder = FeatureDecoder(
            slot_dim=method.slot_dim,
            feature_dim=encoder.out_channels,
            learned_position_size=encoder.grid_size,
            **asdict(method.decoder),
        )
    else:
        decoder = AutoregressiveDecoder(
            in_dim=encoder.out_channels,
            out_dim=encoder.out_channels,
            slot_dim=method.slot_dim,
            num_tokens=encoder.grid_size**2,
            **asdict(method.decoder),
        )
    return DinosaurObjective(
        encoder=encoder,
        slot_encoder=slot_encoder,
        decoder=decoder,
        resolution=resolution,
        inference=inference_settings(method),
    )


def build_autoencoder(method: AutoencoderConfig, run: TrainConfig) -> AutoencoderObjective:
    """Build an autoencoder."""
    levels = len(method.block_out_channels)
    vae = AutoencoderKL(
        latent_channels=method.latent_channels,
        block_out_channels=method.block_out_channels,
        layers_per_block=method.layers_per_block,
        norm_num_groups=method.norm_num_groups,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        mid_block_add_attention=False,  # Latents should depend on their own place only.
    )
    # Posteriors start narrow (deviation 0.05): with a wide one, latents start as noise.
    nn.init.constant_(vae.quant_conv.bias[method.latent_channels :], -6.0)
    return AutoencoderObjective(
        vae,
        mse_weight=method.mse_weight,
        kl_weight=method.kl_weight,
        cosine_weight=method.cosine_weight,
        perceptual=load_lpips() if method.perceptual_weight else None,
        perceptual_weight=method.perceptual_weight,
    )
