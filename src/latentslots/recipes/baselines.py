"""Recipes of the methods that Latent Slot Diffusion is compared with, on the same backbone."""

from dataclasses import replace

from latentslots.config import (
    BroadcastDecoderConfig,
    DataConfig,
    DinosaurConfig,
    DiscreteVAEConfig,
    LSDConfig,
    OptimConfig,
    ResidualEncoderConfig,
    SlateConfig,
    SlotAttentionConfig,
    TrainConfig,
    TransformerDecoderConfig,
)
from latentslots.recipes.lsd import lsd_scenes_64


def dinosaur_coco() -> TrainConfig:
    """DINOSAUR with an MLP decoder on the features of a DINOv2, on photographs.

    Slots, decoder, batch (64) and steps as the authors had them for COCO; the features are
    DINOv2's, where theirs were DINO's. Not trained by us. `--method.encoder.name` takes a folder; a
    `method.decoder` of the kind `transformer`, in a config file, is their other decoder.
    """
    return TrainConfig(
        method=DinosaurConfig(),
        data=DataConfig(path="data/coco", resolution=224, num_workers=8),
        optim=OptimConfig(learning_rate=4e-4, lr_warmup_steps=10_000, lr_scheduler="cosine"),
        max_train_steps=500_000,
        train_batch_size=64,
        mixed_precision="fp16",
    )


def slate_64() -> TrainConfig:
    """SLATE on plain scenes at 64 px, for CPU cores.

    Backbone, slots, batch, steps and learning rate are those of `lsd-scenes-64`; vocabulary,
    autoencoder and transformer are smaller than those of the authors' code for 64 px, for the sake
    of time. Not trained by us yet.
    """
    lsd = lsd_scenes_64()
    assert isinstance(lsd.method, LSDConfig)
    return replace(
        lsd,
        method=SlateConfig(
            num_slots=lsd.method.num_slots,
            slot_dim=lsd.method.slot_dim,
            slot_mlp_dim=lsd.method.slot_mlp_dim,
            encoder=ResidualEncoderConfig(out_channels=64),
            dvae=DiscreteVAEConfig(vocab_size=512, channels=32, temperature_steps=3_000),
            decoder=TransformerDecoderConfig(hidden_dim=128),
        ),
        optim=replace(lsd.optim, decoder_lr_scale=1.0),
    )


def slot_attention_64() -> TrainConfig:
    """Slot Attention with a spatial broadcast decoder on plain scenes at 64 px, for CPU cores.

    Backbone, slots, batch and learning rate are those of `lsd-scenes-64`; the decoder has half of
    the paper's channels and no convolution at the size of the image, which would take most of
    the time. Not trained by us yet.
    """
    lsd = lsd_scenes_64()
    assert isinstance(lsd.method, LSDConfig)
    return replace(
        lsd,
        method=SlotAttentionConfig(
            num_slots=lsd.method.num_slots,
            slot_dim=lsd.method.slot_dim,
            slot_mlp_dim=lsd.method.slot_mlp_dim,
            encoder=ResidualEncoderConfig(out_channels=64),
            decoder=BroadcastDecoderConfig(channels=32, num_doublings=3, num_refinements=0),
        ),
        optim=replace(lsd.optim, decoder_lr_scale=1.0),
    )
