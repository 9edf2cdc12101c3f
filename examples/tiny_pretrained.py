"""Write a tiny Stable Diffusion and DINOv2, for trying the commands of Stable-LSD.

Their weights are random, so results are meaningless. But the folders are made by the libraries' own
classes, and load like those of the full-size models.

    python examples/tiny_pretrained.py runs/tiny
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, Dinov2Config, Dinov2Model

LATENT_SIZE, TEXT_WIDTH, NUM_TOKENS = 16, 12, 7


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


def write_stable_diffusion(folder: Path, *, text_width: int = TEXT_WIDTH, seed: int = 0) -> Path:
    """Write U-Net, autoencoder, text encoder, tokenizer and noise schedule, as in SD 2.1.

    The autoencoder has two pixels per latent; the prediction type is `v_prediction`.
    """
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "a": 3}
    text = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=text_width,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=NUM_TOKENS,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = StableDiffusionPipeline(
            unet=UNet2DConditionModel(**tiny_unet_config(cross_attention_dim=text_width)),
            vae=AutoencoderKL(
                block_out_channels=(8, 8),
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                norm_num_groups=4,
                latent_channels=4,
                sample_size=2 * LATENT_SIZE,
            ),
            text_encoder=CLIPTextModel(text),
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


def write_dinov2(folder: Path, *, width: int = 16, seed: int = 0) -> Path:
    """Write a vision transformer with patches of four pixels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = Dinov2Config(
            hidden_size=width,
            num_hidden_layers=2,
            num_attention_heads=2,
            patch_size=4,
            image_size=32,
        )
        Dinov2Model(config).save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder for stable-diffusion/ and dinov2/")
    folder = parser.parse_args().folder
    write_stable_diffusion(folder / "stable-diffusion")
    write_dinov2(folder / "dinov2")


if __name__ == "__main__":
    main()
