"""One slot for each thing: slots that share the same pixels become one.

Slot attention looks for a number of things that is given, and where an image holds fewer, several
slots share one of them. Their masks tell: they lie on each other.

Dimensions: B batch, K slots, L slots of the scene that keeps most, D slot channels, H W pixels.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


def merge_slots(
    slots: Float[Tensor, "B K D"], masks: Float[Tensor, "B K H W"], *, max_overlap: float
) -> tuple[Float[Tensor, "B L D"], Float[Tensor, "B L H W"], Bool[Tensor, "B L"]]:
    """Make one slot of those whose masks overlap.

    Two masks overlap as much as the cosine of the angle between them. Slots that are linked by
    larger overlaps, also over others, become one: its mask is their sum, its vector their mean,
    weighted by how much each owns. It gets the place of the first of them, and what is behind
    moves up.

    Args:
        slots: The scenes.
        masks: Their masks, which sum to 1 over K.
        max_overlap: The largest overlap that two slots may have, from 0 to 1.

    Returns:
        Slots and masks, with zeros where a scene has no more, and which of them exist.
    """
    flat = masks.float().flatten(2)
    directions = F.normalize(flat, dim=2)
    linked = directions @ directions.transpose(1, 2) > max_overlap
    linked = linked | torch.eye(slots.shape[1], dtype=torch.bool, device=slots.device)
    for _ in range(slots.shape[1].bit_length()):  # twice as far each time
        linked = (linked.float() @ linked.float()) > 0
    leader = linked.float().argmax(dim=2)  # [B, K]: the first slot of each one's group
    groups = F.one_hot(leader, slots.shape[1]).transpose(1, 2).float()  # [B, K groups, K members]

    exists = groups.any(dim=2)
    count = int(exists.sum(dim=1).max())
    order = (~exists).float().argsort(dim=1, stable=True)[:, :count]
    groups = groups.gather(1, order[..., None].expand(-1, -1, slots.shape[1]))

    weights = groups * flat.sum(dim=2)[:, None]
    total = weights.sum(dim=2, keepdim=True)
    mean = (weights / total.clamp_min(1e-12)) @ slots.float()
    merged_masks = (groups @ flat).unflatten(2, masks.shape[2:])
    alone = groups.sum(dim=2) == 1
    first = slots.gather(1, order[..., None].expand(-1, -1, slots.shape[2]))
    merged = torch.where(alone[..., None], first, mean.to(slots.dtype))
    return merged, merged_masks.to(masks.dtype), exists.gather(1, order)
