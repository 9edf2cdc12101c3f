"""The spatial broadcast decoder (Watters et al., 2019, https://arxiv.org/abs/1901.07017).

As in Slot Attention (Locatello et al., 2020, https://arxiv.org/abs/2006.15055): every slot is
repeated on a small grid with position embeddings, and decoded by shared transposed convolutions
into colors and a mask; a softmax over slots normalizes the masks.

Dimensions: B batch, K slots, D slot channels, H W pixels.
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
class BroadcastDecoderOutput(BaseOutput):
    """Colors and mask of every slot."""

    colors: Float[Tensor, "B K 3 H W"]
    masks: Float[Tensor, "B K H W"]

    def mixture(self) -> Float[Tensor, "B 3 H W"]:
        """The reconstruction: the slots' colors, weighted by their masks."""
        return (self.colors * self.masks[:, :, None]).sum(dim=1)


class BroadcastDecoder(ModelMixin, StrictConfigMixin):
    """Decode every slot separately, and mix the results.

    The paper's decoder for images of 128 px: 64 channels on a grid of 8 x 8, four doublings by
    transposed convolutions of 5 x 5 with ReLU, one more convolution of 5 x 5, one of 3 x 3.

    Args:
        slot_dim: Channels of a slot.
        channels: Width of the convolutions.
        num_doublings: Transposed convolutions of stride 2: with `n` of them, a grid cell becomes
            `2**n` x `2**n` pixels.
        num_refinements: Convolutions at the size of the image, before the last one.
        position: Kind of position embedding of the cells.
        learned_position_size: Rows and columns of a `learned` position table.
    """

    @register_to_config
    def __init__(
        self,
        *,
        slot_dim: int = 64,
        channels: int = 64,
        num_doublings: int = 4,
        num_refinements: int = 1,
        position: PositionKind = "cartesian",
        learned_position_size: int = 8,
    ) -> None:
        super().__init__()
        if num_doublings < 0 or num_refinements < 0:
            raise ValueError(
                "num_doublings and num_refinements must be 0 or more, got "
                f"{num_doublings} and {num_refinements}"
            )
        self.position_embedding = PositionEmbedding(
            slot_dim, position, learned_size=learned_position_size
        )
        layers: list[nn.Module] = []
        width = slot_dim
        for _ in range(num_doublings):
            layers += [
                nn.ConvTranspose2d(width, channels, 5, stride=2, padding=2, output_padding=1),
                nn.ReLU(),
            ]
            width = channels
        for _ in range(num_refinements):
            layers += [nn.Conv2d(width, channels, 5, padding=2), nn.ReLU()]
            width = channels
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 4, 3, padding=1))

    @property
    def size_multiple(self) -> int:
        """Heights and widths must be multiples of this many pixels."""
        return 2**self.config.num_doublings

    def forward(
        self,
        slots: Float[Tensor, "B K D"],
        *,
        height: int,
        width: int,
        slots_mask: Bool[Tensor, "B K"] | None = None,
    ) -> BroadcastDecoderOutput:
        """Decode scenes.

        Args:
            slots: The scenes.
            height: Height of the images.
            width: Width of the images.
            slots_mask: True for the slots that exist; the masks of others are 0.

        Returns:
            Colors around [-1, 1], and masks that sum to 1 over K, in fp32.

        Raises:
            ValueError: If a size is not a multiple of `size_multiple`.
        """
        if height % self.size_multiple or width % self.size_multiple:
            raise ValueError(
                f"height and width must be multiples of {self.size_multiple}, "
                f"got {height} and {width}"
            )
        rows, columns = height // self.size_multiple, width // self.size_multiple
        cells = slots.flatten(0, 1)[:, None] + self.position_embedding(rows, columns)
        grid = cells.transpose(1, 2).unflatten(2, (rows, columns))
        decoded = self.layers(grid).float().unflatten(0, slots.shape[:2])  # [B, K, 4, H, W]
        logits = decoded[:, :, 3]
        if slots_mask is not None:
            logits = logits.masked_fill(~slots_mask[:, :, None, None], -torch.inf)
        return BroadcastDecoderOutput(colors=decoded[:, :, :3], masks=logits.softmax(dim=1))
