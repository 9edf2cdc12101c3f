"""Recipes for Stable-LSD: slots for photographs, on pretrained parts."""

from dataclasses import replace

from latentslots.config import (
    DataConfig,
    DINOv2Config,
    OptimConfig,
    PretrainedUNetConfig,
    StableLSDConfig,
    TrainConfig,
)


def stable_lsd_coco() -> TrainConfig:
    """Stable-LSD on COCO with the official hyper-parameters: slot attention alone learns.

    Officially 4 processes x 32 images x 500k steps (`accelerate launch --num_processes 4`). By its
    review, FG-ARI 35.0; runs by others gave 33.8 with mBO 27.0 over instances. Cost: with cached
    latents 305 images/s on one H200 (docs/benchmarks.md), so 58 hours for the official number.
    Not trained by us. docs/photographs.md says what memory it takes.
    """
    return TrainConfig(
        method=StableLSDConfig(),
        data=DataConfig(path="data/coco", resolution=256, random_flip=True, num_workers=8),
        optim=OptimConfig(learning_rate=2e-5),
        max_train_steps=500_000,
        train_batch_size=32,
        mixed_precision="fp16",
    )


def stable_lsd_coco_plus() -> TrainConfig:
    """Stable-LSD on COCO with what its descendants found.

    From CODA: the empty prompt as registers, tuned cross-attention, slots dropped for guidance, and
    contrasted (its weight for COCO, after 20k steps); three iterations and its warm-up. From
    SlotAdapt: cross-attention guided in the third block on the way up. From MUFASA: the last four
    layers of the transformer. Nobody has put these together; the weight of guidance is our guess,
    and small. CODA alone reports FG-ARI 47.5 and mBO 36.6 over instances, at 512 px. Cost: not
    known; each step runs the denoiser twice. Not trained by us.
    """
    config = stable_lsd_coco()
    assert isinstance(config.method, StableLSDConfig)
    return replace(
        config,
        method=replace(
            config.method,
            num_iterations=3,
            encoder=DINOv2Config(image_size=448, num_layers=4),
            unet=PretrainedUNetConfig(tuned="cross-attention"),
            registers="empty-prompt",
            condition_dropout=0.1,
            contrastive_weight=0.03,
            contrastive_start=20_000,
            guidance_weight=0.01,
        ),
        optim=replace(config.optim, lr_warmup_steps=2_500),
    )


def stable_lsd_movi_e() -> TrainConfig:
    """Stable-LSD on MOVi-E with what its descendants found, and its 24 slots.

    As `stable-lsd-coco-plus`, with CODA's contrastive weight and steps for MOVi-E. CODA alone
    reports FG-ARI 59.0 and mBO 43.5, at 512 px. Cost: not known. Not trained by us: there is no
    GPU here.
    """
    config = stable_lsd_coco_plus()
    assert isinstance(config.method, StableLSDConfig)
    return replace(
        config,
        method=replace(config.method, num_slots=24, contrastive_weight=0.05),
        data=replace(config.data, path="data/movi-e"),
        max_train_steps=250_000,
    )


def stable_lsd_tiny() -> TrainConfig:
    """A minute's worth of Stable-LSD between parts with random weights: to try its commands with.

    Cost: seconds; result: nothing, as these parts know nothing. `python examples/tiny_pretrained.py
    runs/tiny` writes them.
    """
    return TrainConfig(
        method=StableLSDConfig(
            num_slots=4,
            slot_dim=16,
            slot_mlp_dim=16,
            num_iterations=2,
            encoder=DINOv2Config(name="runs/tiny/dinov2", image_size=32, num_layers=2),
            unet=PretrainedUNetConfig(name="runs/tiny/stable-diffusion", tuned="cross-attention"),
            registers="empty-prompt",
            condition_dropout=0.1,
            contrastive_weight=0.05,
            contrastive_start=5,
            guidance_weight=0.01,
            guidance_blocks=("up_blocks.1",),
        ),
        data=DataConfig(path="data/scenes", resolution=32, num_workers=0, cache_features=True),
        optim=OptimConfig(learning_rate=4e-4),
        max_train_steps=20,
        train_batch_size=4,
        channels_last=False,
        checkpointing_steps=10,
        validation_steps=10,
        num_validation_images=8,
        preview_steps=10,
    )


def stable_lsd_voc() -> TrainConfig:
    """Stable-LSD on PASCAL VOC with what its descendants found, and six slots.

    As `stable-lsd-coco-plus`, with CODA's contrastive weight and steps for VOC. CODA alone reports
    FG-ARI 32.2 and mBO 55.4 over instances, at 512 px. Cost: not known. Not trained by us.
    """
    config = stable_lsd_coco_plus()
    assert isinstance(config.method, StableLSDConfig)
    return replace(
        config,
        method=replace(config.method, num_slots=6, contrastive_weight=0.05),
        data=replace(config.data, path="data/voc"),
        max_train_steps=250_000,
    )
