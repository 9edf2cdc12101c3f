"""Recipes for Stable-LSD: slots for photographs, with pretrained parts."""

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
    """Stable-LSD on COCO with the official hyper-parameters: only slot attention is trained.

    The official run has 4 processes x 32 images x 500k steps (`accelerate launch --num_processes
    4`). According to a review of the paper, FG-ARI is 35.0; others report 33.8, with an mBO of 27.0
    over instances. Cost: 305 images/s on one H200 with cached latents (docs/benchmarks.md), so 58
    hours for the official number of images; docs/photographs.md has the memory. Not trained by us.
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
    """Stable-LSD on COCO with the improvements of later methods.

    From CODA: the empty prompt as registers, tuned cross-attention, condition dropout, and the
    contrastive loss (with its weight for COCO, after 20k steps), three iterations and the warm-up.
    From SlotAdapt: attention guidance in the third up block. From MUFASA: the last four layers of
    the transformer. We know of no run that combines these; the small weight of attention guidance
    is our guess. CODA alone reports FG-ARI 47.5 and mBO 36.6 over instances, at 512 px. Cost:
    unknown; each step runs the denoiser twice. Not trained by us.
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
    """Stable-LSD on MOVi-E with the improvements of later methods, and 24 slots.

    Like `stable-lsd-coco-plus`, with CODA's contrastive weight and steps for MOVi-E. CODA alone
    reports FG-ARI 59.0 and mBO 43.5, at 512 px. Cost: unknown. Not trained by us.
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
    """A short run of Stable-LSD with tiny pretrained parts, for trying its commands.

    Cost: seconds. Result: none, since the parts have random weights. `python
    examples/tiny_pretrained.py runs/tiny` writes them.
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
    """Stable-LSD on PASCAL VOC with the improvements of later methods, and six slots.

    Like `stable-lsd-coco-plus`, with CODA's contrastive weight and steps for VOC. CODA alone
    reports FG-ARI 32.2 and mBO 55.4 over instances, at 512 px. Cost: unknown. Not trained by us.
    """
    config = stable_lsd_coco_plus()
    assert isinstance(config.method, StableLSDConfig)
    return replace(
        config,
        method=replace(config.method, num_slots=6, contrastive_weight=0.05),
        data=replace(config.data, path="data/voc"),
        max_train_steps=250_000,
    )
