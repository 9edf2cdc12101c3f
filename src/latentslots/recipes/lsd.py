"""Recipes for Latent Slot Diffusion with a decoder trained from scratch."""

from dataclasses import replace

from latentslots.config import (
    DataConfig,
    LSDConfig,
    OptimConfig,
    ResidualEncoderConfig,
    SlotUNetConfig,
    TrainConfig,
)


def lsd_movi_e() -> TrainConfig:
    """LSD on MOVi-E at 256 px with the official hyper-parameters.

    The official run has 4 processes x 32 images x 200k steps (`accelerate launch --num_processes
    4`); a third party reports about 10 hours on 4 H100. The paper reports an mIoU of 37.6
    (convention `lsd`, over objects). Not trained by us.
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
    """LSD on NLVR (simple shapes on gray) at 64 px, for two CPU cores.

    Cost: 150 minutes on one core. Result on the 935 development images with two objects or more:
    FG-ARI 0.934, ARI 0.956 and mIoU 0.789 (docs/lab-notes.md).
    """
    return _small("data/nlvr", num_slots=9, num_inference_slots=13)


def lsd_parts_64() -> TrainConfig:
    """LSD on figures of five parts at 64 px, for two CPU cores: slots for parts, not for objects.

    It starts from the bundled model, which splits scenes already; from random weights, one slot
    takes the whole figure and keeps it. Cost: 71 minutes on one core. Result on
    1,000 validation images: FG-ARI 0.660, ARI 0.798 and mIoU 0.565 (docs/lab-notes.md).
    `latentslots data make parts data/parts` makes its images.
    """
    config = _small("data/parts", num_slots=7, num_inference_slots=11)
    assert isinstance(config.method, LSDConfig)
    method = replace(config.method, patch_plain_steps=0, merge_overlap=0.5)
    return replace(config, method=method, init_from="bundled", max_train_steps=6_000)


def lsd_scenes_128() -> TrainConfig:
    """LSD on plain scenes at 128 px, for one GPU; on textured ones with `--data.path`.

    Cost: about 4 hours on an H200, without compilation (`benchmarks/gpu.py`: 475 images/s); we have
    not finished a run. Result after 1,500 steps, 5 minutes, on 500 validation scenes: FG-ARI 0.896,
    ARI 0.819 and mIoU 0.679; it cannot reconstruct images by then (docs/lab-notes.md).
    `latentslots data make scenes data/scenes-128 --size 128 --num-train 64000` makes its images.
    """
    config = lsd_scenes_64()
    assert isinstance(config.method, LSDConfig)
    return replace(
        config,
        method=replace(
            config.method,
            slot_dim=128,
            slot_mlp_dim=256,
            encoder=ResidualEncoderConfig(out_channels=128, downscale_factor=8, channels=192),
            patch_size=4,
            unet=SlotUNetConfig(
                block_out_channels=(128, 256, 384),
                attention_levels=(False, True, True),
                layers_per_block=2,
                num_attention_heads=8,
                norm_num_groups=32,
                map_channels=64,
            ),
        ),
        mixed_precision="bf16",
        data=replace(config.data, path="data/scenes-128", resolution=128, num_workers=8),
        optim=replace(
            config.optim,
            learning_rate=2e-4,
            decoder_lr_scale=1.0,
            lr_warmup_steps=2_000,
            ema_decay=0.9995,
        ),
        max_train_steps=100_000,
        train_batch_size=64,
        channels_last=True,
        checkpointing_steps=5_000,
        validation_steps=5_000,
        preview_steps=5_000,
    )


def lsd_scenes_64() -> TrainConfig:
    """LSD on plain scenes at 64 px, for two CPU cores.

    Cost: 134 minutes on one core. Result on 1,000 test scenes, three seeds: FG-ARI 0.913 ± 0.010,
    ARI 0.815 ± 0.002 and mIoU 0.726 ± 0.008 (docs/lab-notes.md). `latentslots data make scenes
    data/scenes` makes its images.
    """
    return _small("data/scenes", num_slots=7, num_inference_slots=11)


def lsd_scenes_textured_64() -> TrainConfig:
    """LSD on textured scenes at 64 px, for two CPU cores.

    Cost: 110 minutes on one core for a run of 8,000 steps, of 12,000. Its result on 1,000
    validation scenes, one seed: FG-ARI 0.671, ARI 0.428 and mIoU 0.409 (docs/lab-notes.md).
    `latentslots data make scenes-textured data/scenes-textured` makes its images.
    """
    config = lsd_scenes_64()
    return replace(config, data=replace(config.data, path="data/scenes-textured"))


def _small(path: str, *, num_slots: int, num_inference_slots: int) -> TrainConfig:
    """Return the settings that the recipes for CPUs have in common.

    Their encoder has a limited receptive field, a few residual blocks on a grid of 16 x 16
    features, with which slots bind soonest. A patch decoder makes slots bind, and supervises their
    attention. Inference uses more slots than training, which finds more of the objects, and merges
    slots that find the same one.
    """
    return TrainConfig(
        method=LSDConfig(
            num_slots=num_slots,
            num_inference_slots=num_inference_slots,
            merge_overlap=0.3,
            slot_dim=64,
            slot_mlp_dim=128,
            encoder=ResidualEncoderConfig(out_channels=64),
            unet=SlotUNetConfig(
                block_out_channels=(64, 128),
                attention_levels=(False, True),
                layers_per_block=1,
                num_attention_heads=4,
                norm_num_groups=16,
                map_channels=32,
            ),
            prediction_type="v_prediction",
            patch_decoder_weight=10.0,
            patch_plain_steps=1_500,
            mask_distillation_weight=2.0,
            condition_dropout=0.1,
        ),
        data=DataConfig(path=path, resolution=64, num_workers=1),
        optim=OptimConfig(
            learning_rate=4e-4,
            decoder_lr_scale=3.0,
            lr_scheduler="linear_decay",
            lr_warmup_steps=200,
            ema_decay=0.999,
        ),
        max_train_steps=12_000,
        train_batch_size=24,
        mixed_precision="auto",
        channels_last=False,
        checkpointing_steps=500,
        validation_steps=500,
        preview_steps=500,
    )


def lsd_smoke() -> TrainConfig:
    """A run of a minute with all features, at 32 px, for tests and for trying the commands.

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
            num_inference_slots=0,
            merge_overlap=0.0,
            patch_plain_steps=5,
            slot_dim=16,
            slot_mlp_dim=16,
            encoder=ResidualEncoderConfig(out_channels=16, channels=16, norm_num_groups=4),
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
