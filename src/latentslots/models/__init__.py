"""The networks: image -> features -> slots -> conditioning -> denoised latents."""

from latentslots.models.broadcast_decoder import BroadcastDecoder, BroadcastDecoderOutput
from latentslots.models.patch_decoder import PatchDecoder, PatchDecoderOutput
from latentslots.models.residual_encoder import ResidualEncoder
from latentslots.models.slot_attention import SlotAttention, SlotAttentionOutput, SlotEncoder
from latentslots.models.slot_unet import SlotUNet
from latentslots.models.unet_encoder import UNetEncoder

__all__ = [
    "BroadcastDecoder",
    "BroadcastDecoderOutput",
    "PatchDecoder",
    "PatchDecoderOutput",
    "ResidualEncoder",
    "SlotAttention",
    "SlotAttentionOutput",
    "SlotEncoder",
    "SlotUNet",
    "UNetEncoder",
]
