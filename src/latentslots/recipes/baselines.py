"""Recipes for the baselines of Latent Slot Diffusion, on the same backbone."""

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

    Slots, decoder, batch size (64) and steps are the authors' for COCO; the features are DINOv2's,
    while theirs were DINO's. Not trained by us. `--method.encoder.name` may be a folder. For their
    other decoder, set `method.decoder` to the kind `transformer` in a config file.
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

    Backbone, slots, batch size, steps and learning rate are those of `lsd-scenes-64`; to save time,
    vocabulary, autoencoder and transformer are smaller than in the authors' code for 64 px. Not
    trained by us yet.
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

    Backbone, slots, batch size and learning rate are those of `lsd-scenes-64`; the decoder has half
    of the paper's channels and no convolution at full resolution, which would take most of the
    time. Not trained by us yet.
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
