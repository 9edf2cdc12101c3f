"""A simple decoder that rebuilds every cell of a feature map as a mixture of slots.

An MLP sees one slot and one position and says what the slot would put there and how much it wants
to: the spatial broadcast decoder (Watters et al., 2019, https://arxiv.org/abs/1901.07017) without
convolutions, as DINOSAUR has it (Seitzer et al., 2023, https://arxiv.org/abs/2209.14860, Sec. 3.1).

Dimensions: B batch, K slots, D slot channels, C channels of the cells, h w rows and columns.
"""

from dataclasses import dataclass

from diffusers import ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from jaxtyping import Float
from torch import Tensor, nn

from latentslots.models.position import PositionEmbedding, PositionKind
from latentslots.models.strict_config import StrictConfigMixin


@dataclass
class PatchDecoderOutput(BaseOutput):
    """The rebuilt feature map, and how much of every cell each slot made."""

    sample: Float[Tensor, "B C h w"]
    masks: Float[Tensor, "B K h w"]


class PatchDecoder(ModelMixin, StrictConfigMixin):
    """Rebuild a feature map cell by cell, each from the slots that claim it.

    No cell knows of another one, and what a slot can say is the same vector everywhere: so the
    cheapest way to rebuild an image is one slot per thing that looks alike and lies together.

    Args:
        slot_dim: Channels of a slot.
        out_channels: Channels of a cell.
        mlp_dim: Width of the hidden layers.
        num_layers: Linear layers, the last included.
        position: How the MLP is told which cell it makes.
        learned_position_size: Rows and columns of a `learned` position table.
    """

    @register_to_config
    def __init__(
        self,
        *,
        slot_dim: int = 192,
        out_channels: int = 4,
        mlp_dim: int = 384,
        num_layers: int = 4,
        position: PositionKind = "cartesian",
        learned_position_size: int = 32,
    ) -> None:
        super().__init__()
        if num_layers < 2:
            raise ValueError(f"num_layers must be at least 2, got {num_layers}")
        self.slot_in = nn.Linear(slot_dim, mlp_dim)
        self.position_embedding = PositionEmbedding(
            mlp_dim, position, learned_size=learned_position_size
        )
        hidden: list[nn.Module] = []
        for _ in range(num_layers - 2):
            hidden += [nn.ReLU(), nn.Linear(mlp_dim, mlp_dim)]
        self.mlp = nn.Sequential(*hidden, nn.ReLU(), nn.Linear(mlp_dim, out_channels + 1))

    def forward(
        self, slots: Float[Tensor, "B K D"], *, height: int, width: int
    ) -> PatchDecoderOutput:
        """Rebuild a feature map of `height` x `width` cells.

        Returns:
            The mixture, and the masks that mixed it, which sum to 1 over K.
        """
        position = self.position_embedding(height, width)
        made = self.mlp(self.slot_in(slots)[:, :, None] + position).float()  # [B, K, N, C + 1]
        masks = made[..., -1].softmax(dim=1)
        sample = (masks[..., None] * made[..., :-1]).sum(dim=1).transpose(1, 2)
        return PatchDecoderOutput(
            sample=sample.unflatten(2, (height, width)).to(slots.dtype),
            masks=masks.unflatten(2, (height, width)).to(slots.dtype),
        )
