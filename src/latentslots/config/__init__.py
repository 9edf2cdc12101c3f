"""Every knob of a run, as frozen dataclasses. Standard library only.

Leaf names are diffusers' where its training scripts have one. Nothing derived is stored: a width
that follows from another one is worked out in `build`.
"""

from latentslots.config.methods import (
    AutoencoderConfig,
    BroadcastDecoderConfig,
    DinosaurConfig,
    DINOv2Config,
    DiscreteVAEConfig,
    LSDConfig,
    MLPDecoderConfig,
    Position,
    PretrainedUNetConfig,
    ResidualEncoderConfig,
    SlateConfig,
    SlotAttentionConfig,
    SlotsConfig,
    SlotUNetConfig,
    StableLSDConfig,
    TransformerDecoderConfig,
    UNetEncoderConfig,
)
from latentslots.config.run import DataConfig, MixedPrecision, OptimConfig, TrainConfig

__all__ = [
    "AutoencoderConfig",
    "BroadcastDecoderConfig",
    "DINOv2Config",
    "DataConfig",
    "DinosaurConfig",
    "DiscreteVAEConfig",
    "LSDConfig",
    "MLPDecoderConfig",
    "MixedPrecision",
    "OptimConfig",
    "Position",
    "PretrainedUNetConfig",
    "ResidualEncoderConfig",
    "SlateConfig",
    "SlotAttentionConfig",
    "SlotUNetConfig",
    "SlotsConfig",
    "StableLSDConfig",
    "TrainConfig",
    "TransformerDecoderConfig",
    "UNetEncoderConfig",
]
