"""A simple decoder that explains every patch of an image as the work of one slot.

An MLP sees one slot and one position and says how likely the place is the slot's own: the spatial
broadcast decoder (Watters et al., 2019, https://arxiv.org/abs/1901.07017) without convolutions, as
DINOSAUR has it (Seitzer et al., 2023, https://arxiv.org/abs/2209.14860, Sec. 3.1), on colors
instead of features.

Dimensions: B batch, K slots, D slot channels, M width of the MLP, N cells of a grid, h w its rows
and columns.
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
PIXELS_PER_CELL = 2
"""Where an image is segmented, the MLP is asked once for so many pixels, in each direction: what it
says changes slowly from place to place."""


@dataclass
class PatchDecoderOutput(BaseOutput):
    """What every slot would paint in every cell, and how likely the cell is its own."""

    colors: Float[Tensor, "B K N 3"]
    masks: Float[Tensor, "B K N"]

    def mixture(self) -> Float[Tensor, "B N 3"]:
        """The image that the slots paint together: colors, weighted by masks."""
        return (self.masks[..., None] * self.colors).sum(dim=1)

    def responsibilities(self, image: Float[Tensor, "B N 3"]) -> Float[Tensor, "B K N"]:
        """How likely each slot made what is really there; they sum to 1 over K.

        The posterior of a mixture (the E-step of Greff et al., 2017,
        https://arxiv.org/abs/1708.03498) whose prior are the masks. Its components are Gaussian,
        with the mean squared error of the image's own mixture for variance; the three channels of a
        cell count as one observation.
        """
        variance = (self.mixture() - image).square().mean(dim=(1, 2)).clamp(min=1e-6)
        distance = (self.colors - image[:, None]).square().mean(dim=3)
        evidence = self.masks.clamp(min=1e-12).log() - distance / (2 * variance[:, None, None])
        return evidence.softmax(dim=1)


class PatchDecoder(ModelMixin, StrictConfigMixin):
    """Paint an image cell by cell, each by the slots that claim it.

    No cell knows of another one, and what a slot can say is the same vector everywhere: so the
    cheapest way to paint an image is one slot per thing that looks alike and lies together.

    Args:
        slot_dim: Channels of a slot.
        mlp_dim: Width of the hidden layers.
        num_layers: Linear layers, the last included.
        color_scale: What the MLP's answers are multiplied with, before `color_mean` is added, to
            be colors in [-1, 1]: about the deviation of the images' colors. With 1, all slots go on
            sharing the background (docs/lab-notes.md).
        position: How the MLP is told which cell it paints.
        learned_position_size: Rows and columns of a `learned` position table.

    Attributes:
        color_mean: The mean color of the images, which is measured. Where it has to be learned,
            slots are long copies of one another (docs/lab-notes.md).
        freedom: How far the color of a slot may differ from place to place, which training sets.
            At 0 each slot has one color: an image of several colors needs several slots from the
            first step on. At 1 shades are painted as well; but where slots begin with it, each of
            them learns to paint a little of the whole image (docs/lab-notes.md).
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
        """Paint a grid of `height` x `width` cells, or some of them.

        Args:
            slots: The scenes.
            height: Rows of the grid, which may be as fine as the pixels.
            width: Its columns.
            cells: Numbers of the cells to paint, row by row; all when absent.

        Returns:
            Colors in [-1, 1] and masks that sum to 1 over K, in fp32.
        """
        position = self.position_embedding(height, width)
        position = position if cells is None else position[cells]
        return self._painted(slots, self._said(slots, position))

    def _said(
        self, slots: Float[Tensor, "B K D"], position: Float[Tensor, "N M"]
    ) -> Float[Tensor, "B K N 4"]:
        """A color's difference from the slot's own, and the logit of its mask."""
        return self.mlp(self.slot_in(slots)[:, :, None] + position).float()

    def _painted(
        self, slots: Float[Tensor, "B K D"], said: Float[Tensor, "B K N 4"]
    ) -> PatchDecoderOutput:
        colors = self.color_mlp(slots).float()[:, :, None] + self.freedom * said[..., :3]
        return PatchDecoderOutput(
            colors=colors * self.config.color_scale + self.color_mean,
            masks=said[..., 3].softmax(dim=1),
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
            width: Its columns.
            slots_mask: True for the slots that exist; the others lie nowhere.

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
        """How likely each slot made each pixel of an image in [-1, 1].

        The MLP is asked on a grid of every second pixel, and its answers are interpolated. In
        pieces, one image at a time: all hidden layers of a large image at once take gigabytes.
        """
        size = tuple(pixel_values.shape[-2:])
        height, width = (-(-side // PIXELS_PER_CELL) for side in size)
        position = self.position_embedding(height, width)
        masks = []
        for one, pixels in zip(slots[:, None], pixel_values[:, None], strict=True):
            pieces = [self._said(one, part) for part in position.split(CELLS_AT_ONCE)]
            coarse = torch.cat(pieces, dim=2)[0].transpose(1, 2)  # [K, 4, N]
            fine = F.interpolate(
                coarse.unflatten(2, (height, width)), size, mode="bilinear", align_corners=False
            )
            painted = self._painted(one, fine.flatten(2).transpose(1, 2)[None])
            masks.append(painted.responsibilities(pixels.flatten(2).transpose(1, 2).float()))
        return torch.cat(masks).unflatten(2, size)
