"""Indices of slots, checked.

Dimensions: B batch, K slots, D slot channels, N slots of an index.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

Indices = int | Sequence[int] | Int[Tensor, "..."]


def check_indices(slots: Tensor, index: Indices, *, unique: bool = True) -> Tensor:
    """Check an index of slots, and return it as `[B, N]`."""
    batch_size, count = slots.shape[:2]
    if isinstance(index, Tensor):
        if index.ndim not in (1, 2) or index.shape[0] != batch_size:
            raise ValueError(
                f"an index for each scene must have shape [{batch_size}] or [{batch_size}, N], "
                f"got {list(index.shape)}"
            )
        indices = index.reshape(batch_size, -1).to(slots.device)
    else:
        numbers = [index] if isinstance(index, int) else list(index)
        indices = torch.tensor(numbers, dtype=torch.long, device=slots.device).expand(
            batch_size, -1
        )
    for one in indices.unique().tolist():
        if not 0 <= one < count:
            raise ValueError(f"there is no slot {one}: the scene has slots 0 to {count - 1}")
    ordered = indices.sort(dim=1).values
    if unique and (ordered[:, 1:] == ordered[:, :-1]).any():
        row = (ordered[:, 1:] == ordered[:, :-1]).any(dim=1).nonzero()[0, 0]
        raise ValueError(f"a slot is named twice in {indices[row].tolist()}")
    return indices


def expand_to_channels(
    indices: Int[Tensor, "B N"], slots: Float[Tensor, "B K D"]
) -> Int[Tensor, "B N D"]:
    """Repeat an index of slots for all of their channels."""
    return indices[..., None].expand(-1, -1, slots.shape[2])
