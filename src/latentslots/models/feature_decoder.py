"""A decoder that reconstructs the features of a vision transformer as a mixture over slots.

DINOSAUR's MLP decoder (Seitzer et al., 2023, https://arxiv.org/abs/2209.14860, Sec. 3.2): from one
slot and one position, an MLP predicts a feature and the logit of the slot's mask.

Dimensions: B batch, K slots, D slot channels, C feature channels, h w rows and columns of patches.
"""

from dataclasses import dataclass

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from jaxtyping import Bool, Float
from torch import Tensor, nn

from latentslots.models.position import PositionEmbedding, PositionKind
from latentslots.models.strict_config import StrictConfigMixin


@dataclass
class FeatureDecoderOutput(BaseOutput):
    """Reconstructed features, and the masks of the slots."""

    features: Float[Tensor, "B C h w"]
    masks: Float[Tensor, "B K h w"]


class FeatureDecoder(ModelMixin, StrictConfigMixin):
    """Predict the features of an image, each patch as a mixture over slots.

    Args:
        slot_dim: Channels of a slot.
        feature_dim: Channels of a feature.
        mlp_dim: Width of the hidden layers.
        num_layers: Linear layers, the last included.
        position: Kind of position embedding of the patches; `learned` in the paper.
        learned_position_size: Rows and columns of a `learned` position table.
    """

    @register_to_config
    def __init__(
        self,
        *,
        slot_dim: int = 256,
        feature_dim: int = 768,
        mlp_dim: int = 2048,
        num_layers: int = 4,
        position: PositionKind = "learned",
        learned_position_size: int = 16,
    ) -> None:
        super().__init__()
        if num_layers < 2:
            raise ValueError(f"num_layers must be at least 2, got {num_layers}")
        self.position_embedding = PositionEmbedding(
            slot_dim, position, learned_size=learned_position_size
        )
        layers: list[nn.Module] = [nn.Linear(slot_dim, mlp_dim)]
        for _ in range(num_layers - 2):
            layers += [nn.ReLU(), nn.Linear(mlp_dim, mlp_dim)]
        self.mlp = nn.Sequential(*layers, nn.ReLU(), nn.Linear(mlp_dim, feature_dim + 1))

    def forward(
        self,
        slots: Float[Tensor, "B K D"],
        *,
        height: int,
        width: int,
        slots_mask: Bool[Tensor, "B K"] | None = None,
    ) -> FeatureDecoderOutput:
        """Predict the features of a grid of `height` x `width` patches.

        Args:
            slots: The scenes.
            height: Rows of patches.
            width: Columns of patches.
            slots_mask: True for the slots that exist; the masks of others are 0.

        Returns:
            Features, and masks that sum to 1 over K, in fp32.
        """
        cells = slots[:, :, None] + self.position_embedding(height, width)  # [B, K, N, D]
        decoded = self.mlp(cells).float()
        logits = decoded[..., -1]
        if slots_mask is not None:
            logits = logits.masked_fill(~slots_mask[..., None], -torch.inf)
        masks = logits.softmax(dim=1)
        features = (masks[..., None] * decoded[..., :-1]).sum(dim=1)  # [B, N, C]
        return FeatureDecoderOutput(
            features=features.transpose(1, 2).unflatten(2, (height, width)),
            masks=masks.unflatten(2, (height, width)),
        )
