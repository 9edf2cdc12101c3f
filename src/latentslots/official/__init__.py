"""Import checkpoints of the official implementation (JindongJiang/latent-slot-diffusion)."""

from latentslots.official.checkpoint import load_official
from latentslots.official.config_keys import OfficialCheckpointError

__all__ = ["OfficialCheckpointError", "load_official"]
