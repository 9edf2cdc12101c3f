"""Real classes at tiny sizes, with weights from a seed: 32 px, 2 pixels per latent, 4 slots."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Value
from diffusers import AutoencoderKL
from examples.tiny_pretrained import NUM_TOKENS, TEXT_WIDTH, tiny_unet_config

from latentslots.build.stable_lsd import build_between
from latentslots.config import PretrainedUNetConfig, StableLSDConfig
from latentslots.data.store.writer import StoreWriter
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
from latentslots.models.dinov2_encoder import DINOv2Encoder
from latentslots.models.noise_schedule import official_schedule
from latentslots.models.stable_diffusion import StableDiffusionUNet
from latentslots.objectives import (
    DinosaurObjective,
    LatentSlotDiffusionObjective,
    SlateObjective,
    SlotAttentionObjective,
)
from latentslots.objectives.auxiliary import PatchLoss
from latentslots.pipelines.inference import InferenceSettings
from latentslots.pipelines.pretrained import PretrainedParts

RESOLUTION = 32
LATENT_SIZE = 16
NUM_SLOTS = 4
SLOT_DIM = 16

GRAY = (128, 128, 128)
COLOR_NAMES = ["red", "green", "blue", "yellow"]
COLORS = ((230, 40, 40), (40, 200, 60), (50, 80, 240), (240, 220, 30))


def seeded(seed: int, build: Callable[[], Any]) -> Any:
    """What `build` returns when the global generator starts from `seed`; the generator is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def tiny_encoder(seed: int = 0, **changes: Any) -> UNetEncoder:
    """32 px to a feature map of 16 x 16 with 16 channels."""
    arguments = {
        "out_channels": 16,
        "downscale_factor": 2,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
    }
    return seeded(seed, lambda: UNetEncoder(**{**arguments, **changes})).eval()


def tiny_residual_encoder(seed: int = 0, **changes: Any) -> ResidualEncoder:
    """The same in another way."""
    arguments = {"out_channels": 16, "downscale_factor": 2, "channels": 8, "norm_num_groups": 4}
    return seeded(seed, lambda: ResidualEncoder(**{**arguments, **changes})).eval()


def tiny_slot_encoder(seed: int = 0, **changes: Any) -> SlotEncoder:
    arguments = {
        "in_channels": 16,
        "slot_dim": SLOT_DIM,
        "cross_attention_dim": 16,
        "num_slots": NUM_SLOTS,
        "mlp_dim": 16,
        "learned_position_size": LATENT_SIZE,
    }
    return seeded(seed, lambda: SlotEncoder(**{**arguments, **changes})).eval()


def tiny_unet(seed: int = 0, **changes: Any) -> SlotUNet:
    """Attention at both levels, so that positions are needed at two sizes."""
    arguments = {
        "sample_size": LATENT_SIZE,
        "block_out_channels": (8, 16),
        "attention_levels": (True, True),
        "layers_per_block": 1,
        "cross_attention_dim": 16,
        "num_attention_heads": 2,
        "norm_num_groups": 4,
    }
    return seeded(seed, lambda: SlotUNet(**{**arguments, **changes})).eval()


def tiny_patch_decoder(seed: int = 0, **changes: Any) -> PatchDecoder:
    arguments = {
        "slot_dim": SLOT_DIM,
        "mlp_dim": 32,
        "learned_position_size": LATENT_SIZE,
    }
    return seeded(seed, lambda: PatchDecoder(**{**arguments, **changes})).eval()


def tiny_sprite_decoder(seed: int = 0, **changes: Any) -> SpriteDecoder:
    arguments = {"slot_dim": SLOT_DIM, "sprite_size": 8, "channels": 16}
    return seeded(seed, lambda: SpriteDecoder(**{**arguments, **changes})).eval()


def tiny_broadcast_decoder(seed: int = 0, **changes: Any) -> BroadcastDecoder:
    """32 px from a grid of 8 x 8."""
    arguments = {"slot_dim": SLOT_DIM, "channels": 8, "num_doublings": 2, "num_refinements": 1}
    return seeded(seed, lambda: BroadcastDecoder(**{**arguments, **changes})).eval()


def tiny_slot_attention(seed: int = 0, **options: Any) -> SlotAttentionObjective:
    """A fresh objective whose weights nobody else holds."""
    return SlotAttentionObjective(
        encoder=tiny_encoder(seed),
        slot_encoder=tiny_slot_encoder(seed, cross_attention_dim=0),
        decoder=tiny_broadcast_decoder(seed),
        resolution=RESOLUTION,
        **options,
    )


def tiny_discrete_vae(seed: int = 0, **changes: Any) -> DiscreteVAE:
    """Eight words for patches of 4 px."""
    arguments = {"vocab_size": 8, "patch_size": 4, "channels": 8}
    return seeded(seed, lambda: DiscreteVAE(**{**arguments, **changes})).eval()


def tiny_autoregressive_decoder(seed: int = 0, **changes: Any) -> AutoregressiveDecoder:
    arguments = {
        "in_dim": 8,
        "out_dim": 8,
        "slot_dim": SLOT_DIM,
        "num_tokens": 64,
        "hidden_dim": 16,
        "num_layers": 2,
        "num_heads": 2,
    }
    return seeded(seed, lambda: AutoregressiveDecoder(**{**arguments, **changes})).eval()


def tiny_feature_decoder(seed: int = 0, **changes: Any) -> FeatureDecoder:
    arguments = {
        "slot_dim": SLOT_DIM,
        "feature_dim": 8,
        "mlp_dim": 32,
        "learned_position_size": 4,
    }
    return seeded(seed, lambda: FeatureDecoder(**{**arguments, **changes})).eval()


VIT = {
    "model_type": "dinov2",
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 8,
    "image_size": 32,
}


def tiny_vit_encoder(seed: int = 0, **changes: Any) -> DINOv2Encoder:
    """32 px to a grid of 4 x 4 with 8 channels."""
    arguments = {"architecture": VIT, "image_size": 32}
    return seeded(seed, lambda: DINOv2Encoder(**{**arguments, **changes})).eval()


def tiny_slate(seed: int = 0, **options: Any) -> SlateObjective:
    """A fresh objective whose weights nobody else holds."""
    return SlateObjective(
        encoder=tiny_encoder(seed),
        slot_encoder=tiny_slot_encoder(seed, cross_attention_dim=0),
        dvae=tiny_discrete_vae(seed),
        decoder=tiny_autoregressive_decoder(seed),
        resolution=RESOLUTION,
        **options,
    )


def tiny_dinosaur(
    seed: int = 0, *, autoregressive: bool = False, **options: Any
) -> DinosaurObjective:
    """A fresh objective whose weights nobody else holds."""
    if autoregressive:
        decoder: Any = tiny_autoregressive_decoder(seed, num_tokens=16)
    else:
        decoder = tiny_feature_decoder(seed)
    return DinosaurObjective(
        encoder=tiny_vit_encoder(seed),
        slot_encoder=tiny_slot_encoder(seed, in_channels=8, cross_attention_dim=0, position="none"),
        decoder=decoder,
        resolution=RESOLUTION,
        **options,
    )


def tiny_autoencoder(seed: int = 0, **changes: Any) -> AutoencoderKL:
    """2 pixels per latent, 4 latent channels."""
    arguments = {
        "latent_channels": 4,
        "block_out_channels": (8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "norm_num_groups": 4,
        "scaling_factor": 0.8,
    }
    return seeded(seed, lambda: AutoencoderKL(**{**arguments, **changes})).eval()


def tiny_autoencoder_of_8() -> AutoencoderKL:
    """A tiny VAE of 8 pixels per latent, as the golden official checkpoints were trained with."""
    return tiny_autoencoder(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )


def tiny_lsd(
    seed: int = 0,
    *,
    prediction_type: str = "epsilon",
    snr_gamma: float = 0.0,
    condition_dropout: float = 0.0,
    num_registers: int = 0,
    patch_decoder_weight: float = 0.0,
    patch_size: int = 2,
    patch_plain_steps: int = 0,
    map_channels: int = 0,
    mask_distillation_weight: float = 0.0,
    inference: InferenceSettings = InferenceSettings(),
    frames: bool = False,
    whiten_latents: bool = False,
    unite_error: float = 0.0,
    **slots: Any,
) -> LatentSlotDiffusionObjective:
    """A fresh objective whose weights nobody else holds; `slots` are arguments of SlotEncoder.

    With `frames`, slots have them, and the denoiser gets a rendering of their sprites.
    """
    null_condition = condition_dropout > 0 and num_registers == 0
    patch_decoder, auxiliary = None, []
    if patch_decoder_weight:
        patch_decoder = tiny_sprite_decoder(seed) if frames else tiny_patch_decoder(seed)
        patch_loss = PatchLoss(
            patch_decoder,
            weight=patch_decoder_weight,
            distillation_weight=mask_distillation_weight,
            patch_size=patch_size,
            plain_steps=patch_plain_steps,
            resolution=RESOLUTION,
        )
        auxiliary.append(patch_loss)
    if frames:
        slots |= {"glimpse_size": 8, "position": "none"}
    return LatentSlotDiffusionObjective(
        encoder=tiny_encoder(seed),
        slot_encoder=tiny_slot_encoder(
            seed, num_registers=num_registers, null_condition=null_condition, **slots
        ),
        unet=tiny_unet(seed, map_channels=map_channels, rendering_factor=2 if frames else 0),
        noise_schedule=official_schedule(prediction_type),
        vae=tiny_autoencoder(seed),
        resolution=RESOLUTION,
        snr_gamma=snr_gamma,
        whiten_latents=whiten_latents,
        unite_error=unite_error,
        unite_from=2 * patch_plain_steps,
        condition_dropout=condition_dropout,
        patch_decoder=patch_decoder,
        auxiliary=auxiliary,
        inference=inference,
    )


def tiny_stable_lsd(seed: int = 0, *, tuned: str = "nothing", **changes: Any) -> Any:
    """Stable-LSD around tiny parts in memory; `changes` are knobs of its config."""
    lora_rank = 2 if tuned == "lora" else 0
    states = seeded(seed, lambda: torch.randn(NUM_TOKENS, TEXT_WIDTH))
    parts = PretrainedParts(
        encoder=tiny_vit_encoder(seed),
        unet=seeded(
            seed,
            lambda: StableDiffusionUNet(
                architecture=tiny_unet_config(), tuned=tuned, lora_rank=lora_rank
            ),
        ).eval(),
        vae=tiny_autoencoder(seed),
        noise_schedule=official_schedule("v_prediction"),
        empty_prompt=states,
    )
    knobs = {
        "num_slots": 4,
        "slot_dim": SLOT_DIM,
        "slot_mlp_dim": 16,
        "num_iterations": 2,
        "guidance_blocks": ("up_blocks.1",),
        "unet": PretrainedUNetConfig(tuned=tuned, lora_rank=lora_rank),
    }
    method = StableLSDConfig(**{**knobs, **changes})
    return seeded(seed, lambda: build_between(method, RESOLUTION, parts))


def squares(num_images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """One to four squares of different colors on gray, which never touch.

    Returns:
        Images `[N, 32, 32, 3]` and exact ids `[N, 32, 32]`, 0 for the gray, both uint8.
    """
    random = np.random.default_rng(seed)
    images = np.full((num_images, RESOLUTION, RESOLUTION, 3), GRAY, dtype=np.uint8)
    ids = np.zeros(images.shape[:3], dtype=np.uint8)
    for image, mask in zip(images, ids, strict=True):
        quarters = random.permutation(4)[: random.integers(1, 5)]
        for object_id, quarter in enumerate(quarters, start=1):
            side = random.integers(7, 12)
            top, left = np.array(divmod(quarter, 2)) * 16 + random.integers(0, 16 - side, 2)
            place = np.s_[top : top + side, left : left + side]
            image[place] = COLORS[random.integers(len(COLORS))]
            mask[place] = object_id
    return images, ids


def write_squares(path: str | os.PathLike[str], *, num_train: int, num_validation: int) -> Path:
    """A store of `squares`, and what they are, with the splits `train` and `validation`."""
    for seed, (split, count) in enumerate(
        {"train": num_train, "validation": num_validation}.items()
    ):
        known = {"color_label": ClassLabel(names=COLOR_NAMES), "side": Value("float32")}
        with StoreWriter(
            path, split, name="squares", segmentation=True, attributes=known
        ) as writer:
            for image, mask in zip(*squares(count, seed=seed), strict=True):
                own = [image[mask == object_id] for object_id in range(1, mask.max() + 1)]
                attributes = {
                    "color_label": [COLORS.index(tuple(pixels[0].tolist())) for pixels in own],
                    "side": [len(pixels) ** 0.5 for pixels in own],
                }
                writer.add(image, segmentation=mask, attributes=attributes)
    return Path(path)
