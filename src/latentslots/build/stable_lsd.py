"""From a config to Stable-LSD: slots between pretrained parts."""

from latentslots.build.methods import inference_settings
from latentslots.config import StableLSDConfig, TrainConfig
from latentslots.models import SlotEncoder
from latentslots.models.autoencoder import downscale_factor
from latentslots.objectives import LatentSlotDiffusionObjective
from latentslots.objectives.auxiliary import AuxiliaryLoss, ContrastLoss, GuidanceLoss
from latentslots.pipelines.pretrained import PretrainedParts, load_pretrained_parts


def build_stable_lsd(method: StableLSDConfig, run: TrainConfig) -> LatentSlotDiffusionObjective:
    """Build Stable-LSD between the pretrained parts that the method names.

    Raises:
        ValueError: If a part is not available, or sizes do not fit each other.
    """
    if method.contrastive_weight and run.train_batch_size < 2:
        raise ValueError(
            "method.contrastive_weight takes slots from another image of the batch: "
            f"train_batch_size must be at least 2, got {run.train_batch_size}"
        )
    parts = load_pretrained_parts(
        method.unet.name,
        method.encoder.name,
        image_size=method.encoder.image_size,
        num_layers=method.encoder.num_layers,
        tuned=method.unet.tuned,
        lora_rank=method.unet.lora_rank,
        vae=method.vae,
    )
    return build_between(method, run.data.resolution, parts)


def build_between(
    method: StableLSDConfig, resolution: int, parts: PretrainedParts
) -> LatentSlotDiffusionObjective:
    """Build slots, with fresh weights from the global generator, between pretrained parts.

    Raises:
        ValueError: If sizes do not fit each other.
    """
    factor = downscale_factor(parts.vae)
    deepest = factor * 2 ** (parts.unet.num_levels - 1)
    if resolution % deepest:
        raise ValueError(
            f"data.resolution must be a multiple of the {deepest} pixels per cell of the "
            f"denoiser's lowest level, got {resolution}"
        )
    if parts.vae.config.latent_channels != parts.unet.latent_channels:
        raise ValueError(
            f"the denoiser works on latents of {parts.unet.latent_channels} channels, and the VAE "
            f"{method.vae or method.unet.name!r} has {parts.vae.config.latent_channels}"
        )
    slot_encoder = _build_slots(method, parts)
    auxiliary: list[AuxiliaryLoss] = []
    if method.guidance_weight:
        guidance = GuidanceLoss(
            parts.unet, weight=method.guidance_weight, blocks=method.guidance_blocks
        )
        auxiliary.append(guidance)
    if method.contrastive_weight:
        contrast = ContrastLoss(
            parts.unet,
            slot_encoder,
            weight=method.contrastive_weight,
            start=method.contrastive_start,
        )
        auxiliary.append(contrast)
    return LatentSlotDiffusionObjective(
        encoder=parts.encoder,
        slot_encoder=slot_encoder,
        unet=parts.unet,
        noise_schedule=parts.noise_schedule,
        vae=parts.vae,
        resolution=resolution,
        snr_gamma=method.snr_gamma,
        timestep_shift=method.timestep_shift,
        condition_dropout=method.condition_dropout,
        auxiliary=auxiliary,
        inference=inference_settings(method),
        pretrained=parts.sources,
        include_pretrained=method.include_pretrained,
    )


def _build_slots(method: StableLSDConfig, parts: PretrainedParts) -> SlotEncoder:
    """Build slots; registers and the unconditional branch may be the empty prompt's embedding."""
    learned, given = method.registers == "learned", method.registers == "empty-prompt"
    if learned != (method.num_registers > 0):
        raise ValueError(
            "method.num_registers must be above 0 if method.registers is 'learned', and 0 "
            f"otherwise; got {method.num_registers} with {method.registers!r}"
        )
    if method.pad_unconditional and method.registers != "none":
        raise ValueError(
            "method.pad_unconditional applies to a model without registers, got method.registers "
            f"{method.registers!r}"
        )
    num_given = len(parts.empty_prompt)
    slot_encoder = SlotEncoder(
        in_channels=parts.encoder.out_channels,
        slot_dim=method.slot_dim,
        cross_attention_dim=parts.unet.cross_attention_dim,
        num_slots=method.num_slots,
        num_iterations=method.num_iterations,
        num_heads=method.num_heads,
        mlp_dim=method.slot_mlp_dim,
        slot_init=method.slot_init,
        bi_level=method.bi_level,
        position=method.position,
        learned_position_size=parts.encoder.grid_size,
        num_registers=num_given if given else method.num_registers,
        given_registers=given,
        num_given_null=num_given if method.registers == "none" else 0,
        pad_null=method.pad_unconditional,
    )
    if not learned:
        slot_encoder.set_constants(parts.empty_prompt)
    return slot_encoder
