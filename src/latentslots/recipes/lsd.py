"""Recipes for Latent Slot Diffusion with a decoder trained from scratch."""

from dataclasses import replace

from latentslots.config import (
    DataConfig,
    LSDConfig,
    OptimConfig,
    SlotUNetConfig,
    TrainConfig,
    UNetEncoderConfig,
)


def lsd_movi_e() -> TrainConfig:
    """LSD on MOVi-E at 256 px with the official hyper-parameters.

    Officially 4 processes x 32 images x 200k steps (`accelerate launch --num_processes 4`), about
    10 hours on 4 H100 by a third party's report. The paper reports an mIoU of 37.6 (convention
    `lsd`, over objects).
    """
    return TrainConfig(
        method=LSDConfig(num_slots=24, vae="stabilityai/sd-vae-ft-mse"),
        data=DataConfig(path="data/movi-e", resolution=256, num_workers=8),
        optim=OptimConfig(learning_rate=1e-4),
        max_train_steps=200_000,
        train_batch_size=32,
        mixed_precision="fp16",
    )


def lsd_nlvr_64() -> TrainConfig:
    """LSD on the NLVR pictures (simple shapes on gray) at 64 px, for two CPU cores.

    Cost: 75 minutes on one core at 1.35 steps/s. Result so far, on the development images with two
    objects or more: FG-ARI 0.418, ARI 0.398 and mIoU 0.212 after 5,009 steps (README.md).
    """
    return TrainConfig(
        method=LSDConfig(
            num_slots=9,
            slot_dim=64,
            slot_mlp_dim=128,
            encoder=UNetEncoderConfig(
                out_channels=64,
                downscale_factor=4,
                block_out_channels=(64,),
                layers_per_block=1,
                mid_attention=False,
                norm_num_groups=16,
            ),
            unet=SlotUNetConfig(
                block_out_channels=(48, 96),
                attention_levels=(False, True),
                layers_per_block=1,
                num_attention_heads=4,
                norm_num_groups=16,
            ),
            prediction_type="v_prediction",
            patch_decoder_weight=10.0,
            condition_dropout=0.1,
        ),
        data=DataConfig(path="data/nlvr", resolution=64, num_workers=1),
        optim=OptimConfig(
            learning_rate=4e-4,
            lr_scheduler="linear_decay",
            lr_warmup_steps=200,
            ema_decay=0.999,
        ),
        max_train_steps=6_000,
        train_batch_size=24,
        mixed_precision="bf16",
        channels_last=False,
        checkpointing_steps=500,
        validation_steps=500,
        preview_steps=500,
    )


def lsd_smoke() -> TrainConfig:
    """A minute's worth of everything, at 32 px: for tests and for trying the commands.

    It is far too small and too short to find objects.
    """
    config = lsd_nlvr_64()
    method = config.method
    assert isinstance(method, LSDConfig)
    return replace(
        config,
        method=replace(
            method,
            num_slots=4,
            slot_dim=16,
            slot_mlp_dim=16,
            encoder=replace(
                method.encoder, out_channels=16, block_out_channels=(16, 16), norm_num_groups=4
            ),
            unet=replace(
                method.unet, block_out_channels=(16, 16), num_attention_heads=2, norm_num_groups=4
            ),
        ),
        data=replace(config.data, resolution=32, num_workers=0),
        max_train_steps=20,
        train_batch_size=4,
        mixed_precision="no",
        checkpointing_steps=10,
        validation_steps=10,
        num_validation_images=8,
        preview_steps=10,
    )
