"""Every knob of a run, as frozen dataclasses. Standard library and annotated-types only.

Leaf names are diffusers' where its training scripts have one. Nothing derived is stored: a width
that follows from another one is computed in `build`.
"""

from latentslots.config.methods import (
    AutoencoderConfig,
    DinosaurConfig,
    LSDConfig,
    MethodConfig,
    SlateConfig,
    SlotAttentionConfig,
    SlotsConfig,
    StableLSDConfig,
)
from latentslots.config.networks import (
    BroadcastDecoderConfig,
    DINOv2Config,
    DiscreteVAEConfig,
    MLPDecoderConfig,
    Position,
    PretrainedUNetConfig,
    ResidualEncoderConfig,
    SlotInit,
    SlotUNetConfig,
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
    "MethodConfig",
    "MixedPrecision",
    "OptimConfig",
    "Position",
    "PretrainedUNetConfig",
    "ResidualEncoderConfig",
    "SlateConfig",
    "SlotAttentionConfig",
    "SlotInit",
    "SlotUNetConfig",
    "SlotsConfig",
    "StableLSDConfig",
    "TrainConfig",
    "TransformerDecoderConfig",
    "UNetEncoderConfig",
]
