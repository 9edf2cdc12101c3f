"""Recipes for the autoencoder that encodes images to the denoiser's latents."""

from latentslots.config import AutoencoderConfig, DataConfig, OptimConfig, TrainConfig


def autoencoder() -> TrainConfig:
    """An autoencoder of the usual size (8 pixels per latent, 4 channels) for images of 256 px.

    For images unlike photographs, for which Stable Diffusion's autoencoders are a good choice. Cost
    and result: not trained by us yet. Trained with L1 and KL alone, it reconstructs images more
    smoothly than autoencoders with an adversarial loss.
    """
    return TrainConfig(
        method=AutoencoderConfig(
            latent_channels=4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            norm_num_groups=32,
            kl_weight=1e-6,
        ),
        data=DataConfig(resolution=256, random_flip=True, num_workers=8),
        optim=OptimConfig(
            learning_rate=1e-4,
            lr_scheduler="cosine",
            lr_warmup_steps=1_000,
            adam_weight_decay=0.0,
        ),
        max_train_steps=100_000,
        train_batch_size=16,
        mixed_precision="bf16",
    )


def autoencoder_small() -> TrainConfig:
    """A small autoencoder (4 pixels per latent, 8 channels) for images of 64 px.

    It is trained on plain scenes, textured scenes (three times as many) and NLVR together, so that
    one autoencoder serves all small recipes. Cost: 134 minutes on one core. Result on held-out
    images: PSNR 37.5 dB on plain scenes, 31.5 on textured ones and 45.8 on NLVR
    (docs/lab-notes.md).
    """
    return TrainConfig(
        method=AutoencoderConfig(
            block_out_channels=(32, 64, 128), mse_weight=10.0, kl_weight=1e-6, cosine_weight=1.0
        ),
        data=DataConfig(path="data/mix", resolution=64, random_flip=True, num_workers=1),
        optim=OptimConfig(
            learning_rate=1e-3,
            lr_scheduler="cosine",
            lr_warmup_steps=100,
            adam_beta2=0.99,
            adam_weight_decay=0.0,
        ),
        max_train_steps=9_000,
        train_batch_size=16,
        mixed_precision="auto",
        channels_last=False,
        checkpointing_steps=500,
        validation_steps=500,
        preview_steps=1_000,
    )
