"""Position embeddings, computed from the size of the input.

Dimensions: N tokens, C channels, h w rows and columns of the token grid (N = h * w).
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

PositionKind = Literal["cartesian", "sinusoidal", "learned", "none"]
POSITION_KINDS: tuple[str, ...] = ("cartesian", "sinusoidal", "learned", "none")


def cartesian_grid(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Cell centers as four channels, in the official order (y, x, 1-y, 1-x).

    Returns:
        `[h * w, 4]`, values in (0, 1).
    """
    y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
    x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([y, x, 1 - y, 1 - x], dim=-1).flatten(0, 1)


def sinusoidal_grid(
    height: int, width: int, dim: int, device: torch.device | None = None
) -> Float[Tensor, "N C"]:
    """Sines and cosines of the column in the first half of the channels, of the row in the second.

    Positions are counted in cells, so a cell keeps its code when the grid grows
    (Vaswani et al., 2017, https://arxiv.org/abs/1706.03762, in two dimensions).
    """
    frequency = torch.exp(
        torch.arange(dim // 4, dtype=torch.float64) * (-math.log(10000) * 4 / dim)
    )
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64),
        torch.arange(width, dtype=torch.float64),
        indexing="ij",
    )
    angles = torch.stack([x, y], dim=-1).flatten(0, 1)[:, :, None] * frequency  # [N, 2, C / 4]
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1).float().to(device)


class PositionEmbedding(nn.Module):
    """Embed the position of every token of a grid.

    Args:
        dim: Channels of the tokens.
        kind: `cartesian` (a linear map of the cell's coordinates), `sinusoidal` (fixed waves with
            one learned gain) or `learned` (a table, interpolated bicubically to other sizes).
        learned_size: Rows and columns of a `learned` table.
    """

    def __init__(self, dim: int, kind: PositionKind, *, learned_size: int = 32) -> None:
        super().__init__()
        if kind not in POSITION_KINDS or kind == "none":
            raise ValueError(f"position must be one of {POSITION_KINDS[:-1]}, got {kind!r}")
        if kind == "sinusoidal" and dim % 4:
            raise ValueError(f"sinusoidal positions require a multiple of 4 channels, got {dim}")
        self.dim = dim
        self.kind = kind
        if kind == "cartesian":
            self.projection = nn.Linear(4, dim)
        elif kind == "sinusoidal":
            self.gain = nn.Parameter(torch.ones(()))
        else:
            self.table = nn.Parameter(torch.randn(1, learned_size, learned_size, dim) * dim**-0.5)

    def forward(self, height: int, width: int) -> Float[Tensor, "N C"]:
        """Embed a `height` x `width` grid, row by row."""
        if self.kind == "cartesian":
            weight = self.projection.weight
            return self.projection(cartesian_grid(height, width, weight.device).to(weight.dtype))
        if self.kind == "sinusoidal":
            grid = sinusoidal_grid(height, width, self.dim, self.gain.device)
            return grid.to(self.gain.dtype) * self.gain
        table: Tensor = self.table
        if table.shape[1:3] != (height, width):
            table = F.interpolate(
                table.permute(0, 3, 1, 2), size=(height, width), mode="bicubic"
            ).permute(0, 2, 3, 1)
        return table.flatten(0, 2)
