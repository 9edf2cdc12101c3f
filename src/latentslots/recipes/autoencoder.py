"""Recipes for the autoencoder whose latents the denoiser works on."""

from latentslots.config import AutoencoderConfig, DataConfig, OptimConfig, TrainConfig


def autoencoder() -> TrainConfig:
    """A small autoencoder (4 pixels per latent, 8 channels) for images of 64 px.

    Cost: 14 minutes on one core. Result on NLVR: PSNR 38.7 dB and SSIM 0.992 on held-out images.
    """
    return TrainConfig(
        method=AutoencoderConfig(kl_weight=1e-6, cosine_weight=1.0),
        data=DataConfig(path="data/nlvr", resolution=64, random_flip=True, num_workers=1),
        optim=OptimConfig(
            learning_rate=1e-3,
            lr_scheduler="cosine",
            lr_warmup_steps=100,
            adam_beta2=0.99,
            adam_weight_decay=0.0,
        ),
        max_train_steps=1_500,
        train_batch_size=16,
        mixed_precision="bf16",
        checkpointing_steps=250,
        validation_steps=250,
        preview_steps=250,
    )
