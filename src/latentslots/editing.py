"""Editing scenes: pure functions on slots, which never change their input.

A scene is a set of slots, so an edit is a matter of leaving vectors out, adding them, or exchanging
them; the vectors that are not named come out bit for bit as they went in. Slots are numbered from
0. An index is a number or a list of numbers, the same for all scenes of a batch, or a tensor with
one number `[B]`, or several `[B, N]`, for each scene.

Dimensions: B batch, K slots, D slot channels, N slots that are taken out or put in, H W pixels.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

Indices = int | Sequence[int] | Int[Tensor, "..."]
BackgroundRule = Literal["area", "border", "spread"]

SMALLEST_BACKGROUND = 0.05
"""Share of the pixels below which the rule `spread` takes no slot for the background."""


def take(slots: Float[Tensor, "B K D"], index: Indices) -> Float[Tensor, "B N D"]:
    """Some of the slots, in the order of their numbers: `take(other, match(slots, other))`.

    Args:
        slots: The scenes.
        index: One slot, or several.

    Raises:
        ValueError: If there is no such slot.
    """
    indices = _indices(slots, index, unique=False)
    return slots.gather(1, _wide(indices, slots))


def remove(slots: Float[Tensor, "B K D"], index: Indices) -> Float[Tensor, "B N D"]:
    """Leave slots out; those after them move up.

    >>> remove(torch.arange(4.0).reshape(1, 4, 1), [3, 0]).flatten().tolist()
    [1.0, 2.0]

    Args:
        slots: The scenes.
        index: One slot, or several, in any order.

    Raises:
        ValueError: If there is no such slot, one is named twice, or none would be left.
    """
    indices = _indices(slots, index)
    batch_size, count = slots.shape[:2]
    if indices.shape[1] == count:
        raise ValueError(f"all {count} slots would be removed, and none be left")
    kept = torch.ones(batch_size, count, dtype=torch.bool, device=slots.device)
    kept.scatter_(1, indices, False)
    return slots[kept].unflatten(0, (batch_size, count - indices.shape[1]))


def insert(
    slots: Float[Tensor, "B K D"],
    new: Float[Tensor, "..."],
    index: int | Int[Tensor, " B"] | None = None,
) -> Float[Tensor, "B M D"]:
    """Add slots, such as an object of another scene.

    >>> insert(torch.zeros(1, 2, 1), torch.ones(1, 1), 1).flatten().tolist()
    [0.0, 1.0, 0.0]

    Args:
        slots: The scenes.
        new: What to add, [B, N, D], or [B, D] for one slot: `other.slots[:, 5]`.
        index: Number that the first of them gets, from 0 to K; at the end when absent.

    Raises:
        ValueError: If the place does not exist, or the new slots are for other scenes.
    """
    new = _new(slots, new)
    batch_size, count, _ = slots.shape
    place = torch.as_tensor(count if index is None else index, device=slots.device)
    if place.min() < 0 or place.max() > count:
        raise ValueError(f"a slot can be inserted at 0 to {count}, got {index}")
    place = place.expand(batch_size)[:, None]
    at = torch.arange(count + new.shape[1], device=slots.device)
    behind = torch.where(at < place + new.shape[1], count + at - place, at - new.shape[1])
    order = torch.where(at < place, at, behind)
    return take(torch.cat([slots, new.to(slots)], dim=1), order)


def replace(
    slots: Float[Tensor, "B K D"],
    index: Indices,
    new: Float[Tensor, "..."],
) -> Float[Tensor, "B K D"]:
    """Put other slots in the place of slots.

    Args:
        slots: The scenes.
        index: One slot, or several.
        new: As many new slots, [B, N, D] in the order of `index`, or [B, D] for one.

    Raises:
        ValueError: If there is no such slot, one is named twice, or the new slots do not fit.
    """
    indices, new = _indices(slots, index), _new(slots, new)
    if new.shape[1] != indices.shape[1]:
        raise ValueError(
            f"{indices.shape[1]} slots are to be replaced, but {new.shape[1]} were given"
        )
    return slots.scatter(1, _wide(indices, slots), new.to(slots))


def swap(
    slots: Float[Tensor, "B K D"],
    index: Indices,
    other: Float[Tensor, "B L D"],
    other_index: Indices,
) -> tuple[Float[Tensor, "B K D"], Float[Tensor, "B L D"]]:
    """Exchange slots between two scenes.

    Args:
        slots: The scenes.
        index: What they give away: one slot, or several.
        other: The other scenes, as many.
        other_index: What those give away, as many slots.

    Returns:
        Both, edited.

    Raises:
        ValueError: If there is no such slot, one is named twice, or the numbers differ.
    """
    mine, theirs = take(slots, index), take(other, other_index)
    return replace(slots, index, theirs), replace(other, other_index, mine)


def background(
    masks: Float[Tensor, "B K H W"], *, rule: BackgroundRule = "area"
) -> Int[Tensor, " B"]:
    """Which slot is the background, where nobody told the model what a background is.

    Args:
        masks: Soft masks that sum to 1 over K. A pixel belongs to the slot that took most of it.
        rule: `area`: the slot with most pixels. `border`: with most of the pixels along the
            image's edge. `spread`: whose pixels lie farthest apart (greatest variance of their
            positions, so least compact), among those with a twentieth of all pixels or more.

    Raises:
        ValueError: If there is no such rule.
    """
    if rule not in get_args(BackgroundRule):
        raise ValueError(f"rule must be area, border or spread, got {rule!r}")
    height, width = masks.shape[-2:]
    owned = F.one_hot(masks.argmax(dim=1), masks.shape[1]).movedim(-1, 1).float()
    if rule == "border":
        inner = F.pad(owned.new_ones(max(height - 2, 0), max(width - 2, 0)), (1, 1, 1, 1))
        owned = owned * (1 - inner)
    area = owned.sum(dim=(2, 3))
    if rule != "spread":
        return area.argmax(dim=1)
    variance = torch.zeros_like(area)
    for axis, size in ((2, height), (3, width)):
        place = torch.arange(size, device=masks.device) / size
        share = owned.sum(dim=5 - axis) / area.clamp_min(1)[..., None]
        mean = (share * place).sum(dim=2, keepdim=True)
        variance += (share * (place - mean) ** 2).sum(dim=2)
    large = area >= SMALLEST_BACKGROUND * height * width
    return variance.masked_fill(~large, -1).argmax(dim=1)


def swap_background(
    slots: Float[Tensor, "B K D"],
    masks: Float[Tensor, "B K H W"],
    other: Float[Tensor, "B L D"],
    other_masks: Float[Tensor, "B L Y X"],
    *,
    rule: BackgroundRule = "area",
) -> tuple[Float[Tensor, "B K D"], Float[Tensor, "B L D"]]:
    """Exchange the backgrounds of two scenes.

    Args:
        slots: The scenes.
        masks: Their masks.
        other: The other scenes, as many.
        other_masks: Their masks.
        rule: Which slot is the background, see `background`.

    Returns:
        Both, edited.
    """
    return swap(slots, background(masks, rule=rule), other, background(other_masks, rule=rule))


def interpolate(
    slots: Float[Tensor, "B K D"],
    other: Float[Tensor, "B K D"],
    weight: float | Float[Tensor, " B"],
) -> Float[Tensor, "B K D"]:
    """Slots on the straight way between two scenes, slot by slot.

    Slots have no order of their own: bring the other scene's into that of the first before, with
    `take(other, match(slots, other))`.

    Args:
        slots: Where the way starts, at weight 0.
        other: Where it ends, at weight 1.
        weight: How far along it, for all scenes or for each. Beyond [0, 1] the way goes on.

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
    """For every slot its partner in another scene, so that all pairs together are closest.

    One to one (Hungarian matching): by the cosine of the slots or, when masks are given, by their
    overlap (IoU of soft masks).

    Args:
        slots: The scenes.
        other: The other scenes.
        masks: The scenes' masks, to match by place instead of by content.
        other_masks: The other scenes' masks, of the same size.

    Returns:
        Numbers of slots of the other scene; -1 for a slot that has no partner, because there are
        more slots than the other scene has.

    Raises:
        ValueError: If masks are given for only one of the scenes.
    """
    if (masks is None) != (other_masks is None):
        raise ValueError("matching by masks needs those of both scenes")
    if masks is not None and other_masks is not None:
        one, two = masks.flatten(2).float(), other_masks.flatten(2).float()
        shared = torch.minimum(one[:, :, None], two[:, None]).sum(dim=3)
        union = torch.maximum(one[:, :, None], two[:, None]).sum(dim=3)
        closeness = shared / union.clamp_min(1e-12)
    else:
        one, two = (F.normalize(each.float(), dim=2) for each in (slots, other))
        closeness = one @ two.transpose(1, 2)
    found = torch.full(slots.shape[:2], -1)
    for partners, scores in zip(found, closeness.detach().cpu().numpy(), strict=True):
        rows, columns = linear_sum_assignment(scores, maximize=True)
        partners[rows] = torch.from_numpy(columns)
    return found.to(slots.device)


def owned_pixels(masks: Float[Tensor, "B K H W"], index: Indices) -> Bool[Tensor, "B H W"]:
    """The pixels of one or several slots: those in which no other slot has a larger mask.

    Args:
        masks: Soft masks that sum to 1 over K.
        index: One slot, or several.

    Raises:
        ValueError: If a slot does not exist.
    """
    indices = _indices(masks.flatten(2), index, unique=False)
    return (masks.argmax(dim=1)[:, None] == indices[:, :, None, None]).any(dim=1)


def select(
    masks: Float[Tensor, "B K H W"],
    *,
    at: tuple[int, int] | None = None,
    box: tuple[int, int, int, int] | None = None,
    region: Bool[Tensor, "H W"] | Bool[Tensor, "B H W"] | None = None,
) -> Int[Tensor, " B"]:
    """The slot that someone means who points at a picture; one of the three ways to point.

    Args:
        masks: Soft masks, at the size in whose pixels the place is given.
        at: The slot under a pixel (x, y), counted from 0 at the upper left.
        box: The slot whose pixels overlap most (IoU) with a box (left, top, right, bottom); right
            and bottom are the first pixels outside.
        region: The slot whose pixels overlap most (IoU) with these.

    Raises:
        ValueError: If not exactly one place is given, it lies outside the picture, or it is empty.
    """
    if sum(place is not None for place in (at, box, region)) != 1:
        raise ValueError("give one of at, box and region")
    height, width = masks.shape[-2:]
    if at is not None:
        x, y = at
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(f"pixel {x},{y} lies outside the image of {width} x {height} pixels")
        return masks[:, :, y, x].argmax(dim=1)
    if box is not None:
        left, top, right, bottom = box
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise ValueError(
                f"box {box} is empty or lies outside the image of {width} x {height} pixels"
            )
        region = torch.zeros(height, width, dtype=torch.bool)
        region[top:bottom, left:right] = True
    assert region is not None
    if region.shape[-2:] != (height, width):
        raise ValueError(
            f"the region must have {width} x {height} pixels, as the masks, "
            f"got {region.shape[-1]} x {region.shape[-2]}"
        )
    if not region.flatten(-2).any(dim=-1).all():
        raise ValueError("the region is empty")
    wanted = region.to(masks.device).expand(len(masks), height, width)[:, None]
    owned = F.one_hot(masks.argmax(dim=1), masks.shape[1]).movedim(-1, 1).bool()
    shared, union = ((owned & wanted).sum(dim=(2, 3)), (owned | wanted).sum(dim=(2, 3)))
    return (shared / union).argmax(dim=1)


def pad(
    scenes: Sequence[Float[Tensor, "_ _ _"]],
) -> tuple[Float[Tensor, "C K D"], Bool[Tensor, "C K"]]:
    """Join scenes with different numbers of slots into one batch.

    Args:
        scenes: Batches of scenes, in the order that they get.

    Returns:
        Slots, with zeros where a scene has no more, and `slots_mask`, True for those that exist:
        what a pipeline takes.

    Raises:
        ValueError: If there is no scene, or the slots' widths differ.
    """
    if not scenes:
        raise ValueError("there is no scene to join")
    widths = sorted({scene.shape[2] for scene in scenes})
    if len(widths) > 1:
        raise ValueError(f"slots of one batch must have one width, got {widths}")
    most = max(scene.shape[1] for scene in scenes)
    slots = [F.pad(scene, (0, 0, 0, most - scene.shape[1])) for scene in scenes]
    exist = [torch.arange(most).expand(len(scene), -1) < scene.shape[1] for scene in scenes]
    return torch.cat(slots), torch.cat(exist).to(slots[0].device)


def _indices(slots: Tensor, index: Indices, *, unique: bool = True) -> Tensor:
    """Checked numbers of slots, `[B, N]`."""
    batch_size, count = slots.shape[:2]
    if isinstance(index, Tensor):
        if index.ndim not in (1, 2) or index.shape[0] != batch_size:
            raise ValueError(
                f"an index for each scene must have shape [{batch_size}] or [{batch_size}, N], "
                f"got {list(index.shape)}"
            )
        indices = index.reshape(batch_size, -1).to(slots.device)
    else:
        row = [index] if isinstance(index, int) else list(index)
        indices = torch.tensor(row, dtype=torch.long, device=slots.device).expand(batch_size, -1)
    for one in indices.unique().tolist():
        if not 0 <= one < count:
            raise ValueError(f"there is no slot {one}: the scene has slots 0 to {count - 1}")
    ordered = indices.sort(dim=1).values
    if unique and (ordered[:, 1:] == ordered[:, :-1]).any():
        twice = (ordered[:, 1:] == ordered[:, :-1]).any(dim=1).nonzero()[0, 0]
        raise ValueError(f"a slot is named twice in {indices[twice].tolist()}")
    return indices


def _wide(indices: Int[Tensor, "B N"], slots: Float[Tensor, "B K D"]) -> Int[Tensor, "B N D"]:
    """Numbers of slots, for all of their channels."""
    return indices[..., None].expand(-1, -1, slots.shape[2])


def _new(slots: Tensor, new: Tensor) -> Tensor:
    """New slots as `[B, N, D]`."""
    new = new[:, None] if new.ndim == 2 else new
    batch_size, _, width = slots.shape
    if new.ndim != 3 or new.shape[0] != batch_size or new.shape[2] != width:
        raise ValueError(
            f"new slots must have shape [{batch_size}, N, {width}], got {list(new.shape)}"
        )
    return new
