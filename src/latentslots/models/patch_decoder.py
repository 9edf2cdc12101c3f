"""A simple decoder that reconstructs the colors of an image as a mixture over slots.

From one slot and one position, an MLP predicts a color and the logit of the slot's mask: the
spatial broadcast decoder (Watters et al., 2019, https://arxiv.org/abs/1901.07017) without
convolutions, like that of DINOSAUR (Seitzer et al., 2023, https://arxiv.org/abs/2209.14860,
Sec. 3.1), but for colors instead of features.

Dimensions: B batch, K slots, D slot channels, M width of the MLP, N cells of a grid, h w rows and
columns of the grid.
"""

from dataclasses import dataclass

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from latentslots.models.position import PositionEmbedding, PositionKind
from latentslots.models.strict_config import StrictConfigMixin

CELLS_AT_ONCE = 8192
"""Cells that `segment` decodes at a time."""
PIXELS_PER_CELL = 2
"""Pixels per cell, in each direction, on the grid that `segment` decodes and then interpolates: the
MLP's output varies slowly with the position."""


@dataclass
class PatchDecoderOutput(BaseOutput):
    """Color and mask of every slot in every cell."""

    colors: Float[Tensor, "B K N 3"]
    masks: Float[Tensor, "B K N"]

    def at(self, cells: Int[Tensor, " n"]) -> "PatchDecoderOutput":
        """Return those of some cells, by their indices."""
        return PatchDecoderOutput(self.colors[:, :, cells], self.masks[:, :, cells])

    def mixture(self) -> Float[Tensor, "B N 3"]:
        """The reconstruction: the slots' colors, weighted by their masks."""
        return (self.masks[..., None] * self.colors).sum(dim=1)

    def responsibilities(self, image: Float[Tensor, "B N 3"]) -> Float[Tensor, "B K N"]:
        """Posterior probability of each slot, given the colors of the image; sums to 1 over K.

        The E-step of a mixture of Gaussians (Greff et al., 2017, https://arxiv.org/abs/1708.03498)
        whose prior is the masks and whose means are the slots' colors. Their variance is the mean
        squared error of the image's reconstruction; the three channels of a cell count as one
        observation.
        """
        variance = (self.mixture() - image).square().mean(dim=(1, 2)).clamp(min=1e-6)
        distance = (self.colors - image[:, None]).square().mean(dim=3)
        evidence = self.masks.clamp(min=1e-12).log() - distance / (2 * variance[:, None, None])
        return evidence.softmax(dim=1)


class PatchDecoder(ModelMixin, StrictConfigMixin):
    """Decode slots to an image, each cell as a mixture over slots.

    Cells are decoded independently, all from the same vectors. So the reconstruction is best if
    each slot represents one region of similar color.

    Args:
        slot_dim: Channels of a slot.
        mlp_dim: Width of the hidden layers.
        num_layers: Linear layers, the last included.
        color_scale: Factor from the MLP's output to colors in [-1, 1], before `color_mean` is
            added: about the standard deviation of the images' colors. With 1, all slots keep
            sharing the background (docs/lab-notes.md).
        position: Kind of position embedding of the cells.
        learned_position_size: Rows and columns of a `learned` position table.

    Attributes:
        color_mean: The mean color of the training images, which is measured, not learned: slots
            that have to learn it stay copies of one another for long (docs/lab-notes.md).
        freedom: How much the color of a slot may vary with the position, from 0 to 1; set during
            training. At 0 each slot has one color, so an image of several colors requires several
            slots from the first step on. At 1 a slot can reproduce shading; but slots that start
            at 1 each represent a little of the whole image (docs/lab-notes.md).
    """

    color_mean: Float[Tensor, " 3"]
    freedom: Float[Tensor, ""]

    @register_to_config
    def __init__(
        self,
        *,
        slot_dim: int = 192,
        mlp_dim: int = 384,
        num_layers: int = 4,
        color_scale: float = 0.3,
        position: PositionKind = "cartesian",
        learned_position_size: int = 32,
    ) -> None:
        super().__init__()
        if num_layers < 2:
            raise ValueError(f"num_layers must be at least 2, got {num_layers}")
        if not color_scale > 0:
            raise ValueError(f"color_scale must be more than 0, got {color_scale}")
        self.register_buffer("color_mean", torch.zeros(3))
        self.register_buffer("freedom", torch.ones(()))
        self.slot_in = nn.Linear(slot_dim, mlp_dim)
        self.position_embedding = PositionEmbedding(
            mlp_dim, position, learned_size=learned_position_size
        )
        hidden: list[nn.Module] = []
        for _ in range(num_layers - 2):
            hidden += [nn.ReLU(), nn.Linear(mlp_dim, mlp_dim)]
        self.mlp = nn.Sequential(*hidden, nn.ReLU(), nn.Linear(mlp_dim, 3 + 1))
        self.color_mlp = nn.Sequential(
            nn.Linear(slot_dim, mlp_dim), nn.ReLU(), nn.Linear(mlp_dim, 3)
        )

    def forward(
        self,
        slots: Float[Tensor, "B K D"],
        *,
        height: int,
        width: int,
        cells: Int[Tensor, " n"] | None = None,
    ) -> PatchDecoderOutput:
        """Decode a grid of `height` x `width` cells, or some of its cells.

        Args:
            slots: The scenes.
            height: Rows of the grid, which may be as fine as the pixels.
            width: Columns of the grid.
            cells: Indices of the cells to decode, row by row; all when absent.

        Returns:
            Colors in [-1, 1] and masks that sum to 1 over K, in fp32.
        """
        position = self.position_embedding(height, width)
        position = position if cells is None else position[cells]
        return self._mix(slots, self._decode(slots, position))

    def _decode(
        self, slots: Float[Tensor, "B K D"], position: Float[Tensor, "N M"]
    ) -> Float[Tensor, "B K N 4"]:
        """Difference from the slot's own color, and logit of its mask, in every cell."""
        return self.mlp(self.slot_in(slots)[:, :, None] + position).float()

    def _mix(
        self, slots: Float[Tensor, "B K D"], decoded: Float[Tensor, "B K N 4"]
    ) -> PatchDecoderOutput:
        colors = self.color_mlp(slots).float()[:, :, None] + self.freedom * decoded[..., :3]
        return PatchDecoderOutput(
            colors=colors * self.config.color_scale + self.color_mean,
            masks=decoded[..., 3].softmax(dim=1),
        )

    @torch.no_grad()
    def slot_layout(
        self,
        slots: Float[Tensor, "B K D"],
        *,
        height: int,
        width: int,
        slots_mask: Bool[Tensor, "B K"] | None = None,
    ) -> Float[Tensor, "B K h w"]:
        """Predict where each slot lies, from the slots alone.

        Args:
            slots: The scenes.
            height: Rows of the grid.
            width: Columns of the grid.
            slots_mask: True for the slots that exist; the masks of others are 0.

        Returns:
            Masks that sum to 1 over K.
        """
        masks = self(slots, height=height, width=width).masks
        if slots_mask is not None:
            masks = masks * slots_mask[..., None]
            masks = masks / masks.sum(dim=1, keepdim=True).clamp(min=1e-6)
        return masks.unflatten(2, (height, width))

    @torch.no_grad()
    def segment(
        self, slots: Float[Tensor, "B K D"], pixel_values: Float[Tensor, "B 3 h w"]
    ) -> Float[Tensor, "B K h w"]:
        """Segment images in [-1, 1]: the posterior probability of each slot at each pixel.

        The MLP is evaluated at every second pixel in each direction, and its output interpolated.
        To save memory it decodes one image at a time, in pieces: the hidden layers of a whole large
        image take gigabytes.
        """
        size = tuple(pixel_values.shape[-2:])
        height, width = (-(-side // PIXELS_PER_CELL) for side in size)
        position = self.position_embedding(height, width)
        masks = []
        for one, pixels in zip(slots[:, None], pixel_values[:, None], strict=True):
            pieces = [self._decode(one, part) for part in position.split(CELLS_AT_ONCE)]
            coarse = torch.cat(pieces, dim=2)[0].transpose(1, 2)  # [K, 4, N]
            fine = F.interpolate(
                coarse.unflatten(2, (height, width)), size, mode="bilinear", align_corners=False
            )
            output = self._mix(one, fine.flatten(2).transpose(1, 2)[None])
            masks.append(output.responsibilities(pixels.flatten(2).transpose(1, 2).float()))
        return torch.cat(masks).unflatten(2, size)
