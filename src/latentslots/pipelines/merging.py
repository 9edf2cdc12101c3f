"""Merge slots whose masks overlap.

The number of slots is fixed before encoding. If an image has fewer objects, several slots share
one of them, and their masks overlap.

Dimensions: B batch, K slots, L largest number of slots that a scene keeps, D slot channels, H W
pixels.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from latentslots.models.frames import cell_centers, join_frames, measure_frames, split_frames


def merge_slots(
    slots: Float[Tensor, "B K D"],
    masks: Float[Tensor, "B K H W"],
    *,
    max_overlap: float,
    has_frames: bool = False,
) -> tuple[Float[Tensor, "B L D"], Float[Tensor, "B L H W"], Bool[Tensor, "B L"]]:
    """Merge the slots of each scene whose masks overlap.

    The overlap of two masks is their cosine similarity. Slots that are connected by larger overlaps
    than `max_overlap`, directly or through others, are merged: the mask is the sum of their masks,
    the vector the mean of their vectors, weighted by the masks' areas. The merged slot takes the
    index of the first of them, and later slots move up. Its frame is measured from its mask.

    Args:
        slots: The scenes.
        masks: Their masks, which sum to 1 over K.
        max_overlap: Largest overlap of two slots that stay separate, from 0 to 1.
        has_frames: Whether slots have frames.

    Returns:
        Slots and masks, padded with zeros, and a mask of the slots that exist.
    """
    flat = masks.float().flatten(2)
    directions = F.normalize(flat, dim=2)
    linked = directions @ directions.transpose(1, 2) > max_overlap
    linked = linked | torch.eye(slots.shape[1], dtype=torch.bool, device=slots.device)
    for _ in range(slots.shape[1].bit_length()):  # each round doubles the length of the paths
        linked = (linked.float() @ linked.float()) > 0
    leader = linked.float().argmax(dim=2)  # [B, K]: the first slot of the group of each
    groups = F.one_hot(leader, slots.shape[1]).transpose(1, 2).float()  # [B, K groups, K members]

    exists = groups.any(dim=2)
    count = int(exists.sum(dim=1).max())
    order = (~exists).float().argsort(dim=1, stable=True)[:, :count]
    groups = groups.gather(1, order[..., None].expand(-1, -1, slots.shape[1]))

    weights = groups * flat.sum(dim=2)[:, None]
    total = weights.sum(dim=2, keepdim=True)
    mean = (weights / total.clamp_min(1e-12)) @ slots.float()
    merged_masks = (groups @ flat).unflatten(2, masks.shape[2:])
    if has_frames:
        centers = cell_centers(masks.shape[2], masks.shape[3], masks.device)
        frames = measure_frames(merged_masks.flatten(2), centers)
        mean = join_frames(split_frames(mean)[0], frames)
    alone = groups.sum(dim=2) == 1
    first = slots.gather(1, order[..., None].expand(-1, -1, slots.shape[2]))
    merged = torch.where(alone[..., None], first, mean.to(slots.dtype))
    return merged, merged_masks.to(masks.dtype), exists.gather(1, order)
