"""A true Stable Diffusion folder at a tiny size, saved by the libraries' own classes."""

from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tests.tiny import LATENT_SIZE, seeded

TEXT_WIDTH, NUM_TOKENS = 12, 7


def tiny_unet_config(**changes: Any) -> dict[str, Any]:
    return {
        "sample_size": LATENT_SIZE,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
        **changes,
    }


def write_stable_diffusion(folder: Path, *, seed: int = 0) -> Path:
    """U-Net, autoencoder, text encoder, tokenizer and schedule, as Stable Diffusion 2.1 has them.

    The autoencoder has two pixels per latent; the schedule's prediction is the velocity.
    """
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "a": 3}
    text = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=TEXT_WIDTH,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=NUM_TOKENS,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    pipe = StableDiffusionPipeline(
        unet=seeded(seed, lambda: UNet2DConditionModel(**tiny_unet_config())),
        vae=seeded(
            seed,
            lambda: AutoencoderKL(
                block_out_channels=(8, 8),
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                norm_num_groups=4,
                latent_channels=4,
                sample_size=2 * LATENT_SIZE,
            ),
        ),
        text_encoder=seeded(seed, lambda: CLIPTextModel(text)),
        tokenizer=CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=NUM_TOKENS),
        scheduler=DDPMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            clip_sample=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder)
    return folder
