"""Where a config becomes Stable-LSD: slots between pretrained parts."""

from latentslots.config import StableLSDConfig
from latentslots.models import SlotEncoder
from latentslots.models.autoencoder import downscale_factor
from latentslots.objectives import LatentSlotDiffusionObjective
from latentslots.objectives.auxiliary.alignment import Alignment
from latentslots.pipelines.pretrained import PretrainedParts


def build_stable_lsd(
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
            f"the denoiser paints latents of {parts.unet.latent_channels} channels, and the VAE "
            f"{method.vae or method.unet.name!r} has {parts.vae.config.latent_channels}"
        )
    return LatentSlotDiffusionObjective(
        encoder=parts.encoder,
        slot_encoder=_build_slots(method, parts),
        unet=parts.unet,
        noise_schedule=parts.noise_schedule,
        vae=parts.vae,
        resolution=resolution,
        snr_gamma=method.snr_gamma,
        timestep_shift=method.timestep_shift,
        condition_dropout=method.condition_dropout,
        alignment=Alignment(
            contrastive_weight=method.contrastive_weight,
            contrastive_start=method.contrastive_start,
            guidance_weight=method.guidance_weight,
            guidance_blocks=method.guidance_blocks,
        ),
        num_inference_slots=method.num_inference_slots,
        merge_overlap=method.merge_overlap,
        pretrained=parts.sources,
        include_pretrained=method.include_pretrained,
    )


def _build_slots(method: StableLSDConfig, parts: PretrainedParts) -> SlotEncoder:
    """Slots; registers and the unconditional branch are given where they are the empty prompt."""
    learned, given = method.registers == "learned", method.registers == "empty-prompt"
    if learned != (method.num_registers > 0):
        raise ValueError(
            "method.num_registers must be above 0 where method.registers is 'learned', and 0 "
            f"elsewhere; got {method.num_registers} with {method.registers!r}"
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
    )
    if not learned:
        slot_encoder.set_constants(parts.empty_prompt)
    return slot_encoder
