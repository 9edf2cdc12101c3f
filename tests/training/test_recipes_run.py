"""Every recipe, with small networks and images: two steps, resumed, loaded, used."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from latentslots.config import (
    AutoencoderConfig,
    DinosaurConfig,
    LSDConfig,
    ResidualEncoderConfig,
    SlateConfig,
    SlotAttentionConfig,
    StableLSDConfig,
    TrainConfig,
)
from latentslots.models.autoencoder import load_vae
from latentslots.pipelines import load_pipeline
from latentslots.recipes import RECIPES, recipe
from tests.training.runs import assert_same_run, losses, rewind, rows, run

DISTINCT = (
    "autoencoder-small",
    "dinosaur-coco",
    "lsd-movi-e",
    "lsd-scenes-64",
    "lsd-smoke",
    "slate-64",
    "slot-attention-64",
    "stable-lsd-coco",
    "stable-lsd-coco-plus",
)
"""Of other sizes, the other recipes are like one of these."""


def shrink(config: TrainConfig, store: Path, vae: Path, vit: Path, diffusion: Path) -> TrainConfig:
    """The same run on 12 images of 32 px, on a CPU; what is not size stays."""
    method = config.method

    def narrow(levels: tuple[int, ...]) -> dict[str, Any]:
        return {"block_out_channels": (8,) * len(levels), "norm_num_groups": 4}

    if isinstance(method, AutoencoderConfig):
        method = replace(method, **narrow(method.block_out_channels))
    elif isinstance(method, DinosaurConfig):
        method = replace(
            method,
            slot_dim=16,
            slot_mlp_dim=16,
            encoder=replace(method.encoder, name=str(vit), image_size=32),
            decoder=replace(method.decoder, mlp_dim=16),
        )
    elif isinstance(method, StableLSDConfig):
        layers = min(method.encoder.num_layers, 2)
        method = replace(
            method,
            slot_dim=16,
            slot_mlp_dim=16,
            encoder=replace(method.encoder, name=str(vit), image_size=32, num_layers=layers),
            unet=replace(method.unet, name=str(diffusion)),
            guidance_blocks=("up_blocks.1",),
            contrastive_start=0,
        )
    else:
        encoder: Any = replace(method.encoder, out_channels=16, norm_num_groups=4)
        if isinstance(encoder, ResidualEncoderConfig):
            encoder = replace(encoder, channels=8)
        else:
            levels = narrow(encoder.block_out_channels)
            encoder = replace(encoder, attention_head_dim=4, **levels)
        method = replace(method, slot_dim=16, slot_mlp_dim=16, encoder=encoder)
    if isinstance(method, SlotAttentionConfig):
        method = replace(method, decoder=replace(method.decoder, channels=8))
    if isinstance(method, SlateConfig):
        method = replace(
            method,
            dvae=replace(method.dvae, vocab_size=8, channels=8),
            decoder=replace(method.decoder, hidden_dim=16, num_layers=1),
        )
    if isinstance(method, LSDConfig):
        method = replace(
            method,
            unet=replace(
                method.unet, num_attention_heads=2, **narrow(method.unet.block_out_channels)
            ),
            vae=str(vae),
        )
    return replace(
        config,
        method=method,
        data=replace(config.data, path=str(store), resolution=32, num_workers=0),
        init_from="",  # there are no weights of these sizes
        max_train_steps=2,
        train_batch_size=4,
        mixed_precision="no" if config.mixed_precision == "fp16" else config.mixed_precision,
        num_validation_images=4,
        checkpointing_steps=1,
        validation_steps=2,
    )


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in DISTINCT else pytest.mark.slow) for name in RECIPES],
)
def test_two_steps_resumed_and_loaded(
    name: str,
    squares_store: Path,
    tiny_vae_dir: Path,
    tiny_vit_dir: Path,
    tiny_diffusion_dir: Path,
    tmp_path: Path,
) -> None:
    config = shrink(recipe(name), squares_store, tiny_vae_dir, tiny_vit_dir, tiny_diffusion_dir)
    run(config, tmp_path / "whole")
    assert len(losses(tmp_path / "whole")) == 2
    assert any("validation" in key for key in rows(tmp_path / "whole")[-1])
    assert (tmp_path / "whole" / "previews" / "step_0000002.png").is_file()

    run(config, rewind(tmp_path / "whole", 1, tmp_path / "resumed"), resume=True)
    assert_same_run(tmp_path / "resumed", tmp_path / "whole", step=2)

    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    if not isinstance(config.method, AutoencoderConfig):
        pipe = load_pipeline(tmp_path / "whole")
        pipe.set_inference(num_slots=0, merge_overlap=0.0)
        scene = pipe.encode_pixel_values(pixels, generator=torch.Generator().manual_seed(0))
        assert scene.slots.shape == (2, config.method.num_slots, 16)
    else:
        vae = load_vae(str(tmp_path / "whole"))
        painted = vae.decode(vae.encode(pixels).latent_dist.mean).sample
        assert painted.shape == pixels.shape
