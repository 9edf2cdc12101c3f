"""Editing scenes: pure functions on slots, which never change their input.

A scene is a set of slots, so an edit removes vectors, inserts them, or exchanges them; all other
vectors are returned bit for bit. Slots are numbered from 0. An index is a number or a list of
numbers, the same for all scenes of a batch, or a tensor with one number `[B]`, or several `[B, N]`,
for each scene.

Dimensions: B batch, K slots, D slot channels, N slots of an index, L slots of another scene, M
slots after an insertion, H W pixels.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from latentslots.editing.indices import Indices, check_indices, expand_to_channels


def take(slots: Float[Tensor, "B K D"], index: Indices) -> Float[Tensor, "B N D"]:
    """Select slots, in the order of the index, as in `take(other, match(slots, other))`.

    Args:
        slots: The scenes.
        index: One slot, or several.

    Raises:
        ValueError: If a slot does not exist.
    """
    indices = check_indices(slots, index, unique=False)
    return slots.gather(1, expand_to_channels(indices, slots))


def remove(slots: Float[Tensor, "B K D"], index: Indices) -> Float[Tensor, "B N D"]:
    """Remove slots; those behind them move up.

    >>> remove(torch.arange(4.0).reshape(1, 4, 1), [3, 0]).flatten().tolist()
    [1.0, 2.0]

    Args:
        slots: The scenes.
        index: One slot, or several, in any order.

    Raises:
        ValueError: If a slot does not exist or is named twice, or none would be left.
    """
    indices = check_indices(slots, index)
    batch_size, count = slots.shape[:2]
    if indices.shape[1] == count:
        raise ValueError(f"all {count} slots would be removed: at least one must be left")
    kept = torch.ones(batch_size, count, dtype=torch.bool, device=slots.device)
    kept.scatter_(1, indices, False)
    return slots[kept].unflatten(0, (batch_size, count - indices.shape[1]))


def insert(
    slots: Float[Tensor, "B K D"],
    new: Float[Tensor, "..."],
    index: int | Int[Tensor, " B"] | None = None,
) -> Float[Tensor, "B M D"]:
    """Insert slots, such as an object of another scene.

    >>> insert(torch.zeros(1, 2, 1), torch.ones(1, 1), 1).flatten().tolist()
    [0.0, 1.0, 0.0]

    Args:
        slots: The scenes.
        new: The slots, [B, N, D], or [B, D] for one: `other.slots[:, 5]`.
        index: Number of the first of them after the insertion, from 0 to K; K when absent.

    Raises:
        ValueError: If the index is out of its range, or the new slots do not fit the scenes.
    """
    new = _check_new_slots(slots, new)
    batch_size, count, _ = slots.shape
    first = torch.as_tensor(count if index is None else index, device=slots.device)
    if first.min() < 0 or first.max() > count:
        raise ValueError(f"slots can be inserted at 0 to {count}, got {index}")
    first = first.expand(batch_size)[:, None]
    number = torch.arange(count + new.shape[1], device=slots.device)
    is_new = number < first + new.shape[1]
    behind = torch.where(is_new, count + number - first, number - new.shape[1])
    order = torch.where(number < first, number, behind)
    return take(torch.cat([slots, new.to(slots)], dim=1), order)


def replace(
    slots: Float[Tensor, "B K D"],
    index: Indices,
    new: Float[Tensor, "..."],
) -> Float[Tensor, "B K D"]:
    """Replace slots by others.

    Args:
        slots: The scenes.
        index: One slot, or several.
        new: As many new slots, [B, N, D] in the order of `index`, or [B, D] for one.

    Raises:
        ValueError: If a slot does not exist or is named twice, or the new slots do not fit.
    """
    indices, new = check_indices(slots, index), _check_new_slots(slots, new)
    if new.shape[1] != indices.shape[1]:
        raise ValueError(
            f"{indices.shape[1]} slots cannot be replaced by {new.shape[1]}: numbers must agree"
        )
    return slots.scatter(1, expand_to_channels(indices, slots), new.to(slots))


def swap(
    slots: Float[Tensor, "B K D"],
    index: Indices,
    other: Float[Tensor, "B L D"],
    other_index: Indices,
) -> tuple[Float[Tensor, "B K D"], Float[Tensor, "B L D"]]:
    """Exchange slots between two scenes.

    Args:
        slots: The scenes.
        index: Their slots: one, or several.
        other: As many other scenes.
        other_index: As many slots of those.

    Returns:
        Both, edited.

    Raises:
        ValueError: If a slot does not exist or is named twice, or the numbers differ.
    """
    mine, theirs = take(slots, index), take(other, other_index)
    return replace(slots, index, theirs), replace(other, other_index, mine)


def interpolate(
    slots: Float[Tensor, "B K D"],
    other: Float[Tensor, "B K D"],
    weight: float | Float[Tensor, " B"],
) -> Float[Tensor, "B K D"]:
    """Interpolate linearly between two scenes, slot by slot.

    Slots have no order of their own: first bring those of the other scene into the order of these,
    by `take(other, match(slots, other))`.

    Args:
        slots: The scene at weight 0.
        other: The scene at weight 1.
        weight: For all scenes, or for each. Outside of [0, 1] it extrapolates.

    Raises:
        ValueError: If the numbers of slots differ.
    """
    if slots.shape != other.shape:
        raise ValueError(
            f"both scenes must have the same slots, got {list(slots.shape)} and {list(other.shape)}"
        )
    weights = torch.as_tensor(weight, dtype=slots.dtype, device=slots.device)
    return torch.lerp(slots, other.to(slots), weights.reshape(-1, 1, 1))


def match(
    slots: Float[Tensor, "B K D"],
    other: Float[Tensor, "B L D"],
    *,
    masks: Float[Tensor, "B K H W"] | None = None,
    other_masks: Float[Tensor, "B L H W"] | None = None,
) -> Int[Tensor, "B K"]:
    """Match the slots of two scenes one to one (Hungarian matching).

    The sum over all pairs is maximized: of the cosines of the slots or, with masks, of their
    overlaps (IoU of soft masks).

    Args:
        slots: The scenes.
        other: The other scenes.
        masks: The scenes' masks, to match by position instead of by content.
        other_masks: The other scenes' masks, of the same size.

    Returns:
        For every slot the number of its partner in the other scene; -1 for slots without a partner,
        where the other scene has fewer slots.

    Raises:
        ValueError: If masks are given for only one of the scenes.
    """
    if (masks is None) != (other_masks is None):
        raise ValueError("matching by masks needs the masks of both scenes")
    if masks is not None and other_masks is not None:
        one, two = masks.flatten(2).float(), other_masks.flatten(2).float()
        shared = torch.minimum(one[:, :, None], two[:, None]).sum(dim=3)
        union = torch.maximum(one[:, :, None], two[:, None]).sum(dim=3)
        closeness = shared / union.clamp_min(1e-12)
    else:
        one, two = (F.normalize(each.float(), dim=2) for each in (slots, other))
        closeness = one @ two.transpose(1, 2)
    matched = torch.full(slots.shape[:2], -1)
    for partners, scores in zip(matched, closeness.detach().cpu().numpy(), strict=True):
        rows, columns = linear_sum_assignment(scores, maximize=True)
        partners[rows] = torch.from_numpy(columns)
    return matched.to(slots.device)


def pad(
    scenes: Sequence[Float[Tensor, "_ _ _"]],
) -> tuple[Float[Tensor, "C K D"], Bool[Tensor, "C K"]]:
    """Join scenes with different numbers of slots into one batch.

    Args:
        scenes: Batches of scenes, in their order in the result.

    Returns:
        Slots, padded with zeros, and `slots_mask`, True for those that exist: both are arguments
        of a pipeline.

    Raises:
        ValueError: If there is no scene, or the slots' widths differ.
    """
    if not scenes:
        raise ValueError("there is no scene to join: pass at least one")
    widths = sorted({scene.shape[2] for scene in scenes})
    if len(widths) > 1:
        raise ValueError(f"slots of one batch must have one width, got {widths}")
    count = max(scene.shape[1] for scene in scenes)
    slots = [F.pad(scene, (0, 0, 0, count - scene.shape[1])) for scene in scenes]
    exist = [torch.arange(count).expand(len(scene), -1) < scene.shape[1] for scene in scenes]
    return torch.cat(slots), torch.cat(exist).to(slots[0].device)


def _check_new_slots(slots: Tensor, new: Tensor) -> Tensor:
    """Check new slots, and return them as `[B, N, D]`."""
    new = new[:, None] if new.ndim == 2 else new
    batch_size, _, width = slots.shape
    if new.ndim != 3 or new.shape[0] != batch_size or new.shape[2] != width:
        raise ValueError(
            f"new slots must have shape [{batch_size}, N, {width}], got {list(new.shape)}"
        )
    return new
