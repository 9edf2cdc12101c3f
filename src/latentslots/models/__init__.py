"""The networks: image -> features -> slots -> conditioning -> denoised latents."""

from latentslots.models.slot_attention import SlotAttention, SlotAttentionOutput, SlotEncoder
from latentslots.models.slot_unet import SlotUNet
from latentslots.models.unet_encoder import UNetEncoder

__all__ = ["SlotAttention", "SlotAttentionOutput", "SlotEncoder", "SlotUNet", "UNetEncoder"]
