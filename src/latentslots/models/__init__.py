"""Networks: image -> features -> slots -> conditioning -> denoised latents."""

from latentslots.models.autoregressive_decoder import AutoregressiveDecoder
from latentslots.models.broadcast_decoder import BroadcastDecoder, BroadcastDecoderOutput
from latentslots.models.discrete_vae import DiscreteVAE
from latentslots.models.feature_decoder import FeatureDecoder, FeatureDecoderOutput
from latentslots.models.patch_decoder import PatchDecoder, PatchDecoderOutput
from latentslots.models.residual_encoder import ResidualEncoder
from latentslots.models.slot_attention import SlotEncoder
from latentslots.models.slot_competition import SlotAttention, SlotAttentionOutput
from latentslots.models.slot_unet import SlotUNet
from latentslots.models.sprite_decoder import SpriteDecoder
from latentslots.models.unet_encoder import UNetEncoder

__all__ = [
    "AutoregressiveDecoder",
    "BroadcastDecoder",
    "BroadcastDecoderOutput",
    "DiscreteVAE",
    "FeatureDecoder",
    "FeatureDecoderOutput",
    "PatchDecoder",
    "PatchDecoderOutput",
    "ResidualEncoder",
    "SlotAttention",
    "SlotAttentionOutput",
    "SlotEncoder",
    "SlotUNet",
    "SpriteDecoder",
    "UNetEncoder",
]
