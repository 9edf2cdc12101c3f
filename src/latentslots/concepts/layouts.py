"""Ways to draw members of a library for a new scene.

Dimensions: M slots in the library, K slots of the scene, G side of the stored masks.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

Layout = Literal["layout", "independent", "per-image"]

MAX_OVERLAP = 0.1
"""Largest overlap of two members of a scene, as a share of the smaller mask."""
SMALLEST_FIT = 0.3
"""IoU of a mask with the best other member, below which the image's own slot is used."""
GOOD_FIT = 0.8
"""A concept fits a mask if its best IoU with it is this share of the best IoU of any concept."""


def independent(
    concept: Int[Tensor, " M"],
    num_slots: int,
    allowed: Bool[Tensor, " M"],
    generator: Generator | None,
) -> Int[Tensor, " K"]:
    """Draw one member each of different concepts, regardless of their positions.

    Args:
        concept: The concept of each member.
        num_slots: Slots of the scene.
        allowed: Members that may be drawn, all or none of a concept.
        generator: The source of the draws.
    """
    usable = concept[allowed].unique()
    concepts = usable[torch.randperm(len(usable), generator=generator)[:num_slots]]
    return torch.stack([_draw(concept == c, generator) for c in concepts])


def per_image(
    image: Int[Tensor, " M"], num_slots: int, generator: Generator | None
) -> Int[Tensor, " K"]:
    """Select slot i from image b + i, for a random image b (Wu et al., 2023, arXiv:2305.11281).

    Args:
        image: The image of each member.
        num_slots: Slots of the scene.
        generator: The source of the draw.
    """
    counts = image.bincount()
    images = (counts >= num_slots).nonzero()[:, 0]
    start = int(torch.randint(len(images), (), generator=generator))
    first = counts.cumsum(0) - counts
    chosen = images[(start + torch.arange(num_slots)) % len(images)]
    return first[chosen] + torch.arange(num_slots)


def in_layout(
    masks: Float[Tensor, "M G G"],
    concept: Int[Tensor, " M"],
    image: Int[Tensor, " M"],
    num_slots: int,
    allowed: Bool[Tensor, " M"],
    generator: Generator | None,
) -> Int[Tensor, " K"]:
    """Draw members whose masks fit those of one random image's slots; the background comes first.

    Args:
        masks: The mask of each member.
        concept: The concept of each member.
        image: The image of each member.
        num_slots: Slots of the scene, at most.
        allowed: Members that objects may be. If not all are, an object that none of them fits is
            left out, where the image's own slot is used otherwise.
        generator: The source of the draws.
    """
    row = _draw(image.bincount() >= num_slots, generator)
    own = (image == row).nonzero()[:, 0]
    areas = masks.sum(dim=(1, 2))
    own = own[areas[own].argsort(descending=True)][:num_slots]
    others = image != row
    free, chosen = others & allowed, []
    for slot in own[1:]:
        member = _best_fit(masks, concept, masks[slot], free, generator)
        if member is None and not allowed.all():
            continue
        if member is None:  # nothing else fits there
            member = slot
        shared = torch.minimum(masks, masks[member]).sum(dim=(1, 2))
        free = free & (shared <= MAX_OVERLAP * torch.minimum(areas, areas[member]))
        chosen.append(member)
    # The largest slot is the background. It is drawn last, to fit the space around the objects.
    objects = masks[torch.stack(chosen)].sum(dim=0) if chosen else torch.zeros(())
    space = (1 - objects).clamp(min=0).expand_as(masks[0])
    background = _best_fit(masks, concept, space, others, generator)
    return torch.stack([own[0] if background is None else background, *chosen])


def _best_fit(
    masks: Float[Tensor, "M G G"],
    concept: Int[Tensor, " M"],
    mask: Float[Tensor, "G G"],
    allowed: Bool[Tensor, " M"],
    generator: Generator | None,
) -> Int[Tensor, ""] | None:
    """Draw a concept among those that fit a mask well, and return its best-fitting member."""
    shared = torch.minimum(masks, mask).sum(dim=(1, 2))
    iou = shared / torch.maximum(masks, mask).sum(dim=(1, 2))
    iou = iou.masked_fill(~allowed, 0)
    num_concepts = int(concept.max()) + 1
    best = torch.stack([iou.where(concept == c, 0).max() for c in range(num_concepts)])
    if best.max() < SMALLEST_FIT:
        return None
    fitting = best >= GOOD_FIT * best.max()
    shares = concept.bincount() / len(concept)
    drawn = torch.multinomial(shares * fitting, 1, generator=generator)[0]
    return iou.where(concept == drawn, 0).argmax()


def _draw(allowed: Bool[Tensor, " N"], generator: Generator | None) -> Int[Tensor, ""]:
    """Draw the index of a True element."""
    numbers = allowed.nonzero()[:, 0]
    return numbers[torch.randint(len(numbers), (), generator=generator)]
