"""Recipes of the methods that Latent Slot Diffusion is compared with, on the same backbone."""

from dataclasses import replace

from latentslots.config import (
    BroadcastDecoderConfig,
    LSDConfig,
    ResidualEncoderConfig,
    SlotAttentionConfig,
    TrainConfig,
)
from latentslots.recipes.lsd import lsd_scenes_64


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
