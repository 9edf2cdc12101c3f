"""Segmentation metrics by their definitions, one pixel, pair or permutation at a time.

Nothing here is shared with the package: no contingency table, no solver of assignments for the
conventions `iou` and `with-background`, and pairs of whole masks for the official one.
"""

from itertools import combinations, permutations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F


def random_scenes(
    num_images: int, *, size: int = 16, num_objects: int = 4, num_slots: int = 5, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Segmentations of blobs, and others that partly agree with them.

    Returns:
        Predicted ids below `num_slots`, and true ids up to `num_objects`; both `[B, H, W]` int64.
    """
    generator = torch.Generator().manual_seed(seed)
    num_regions = max(num_objects + 1, num_slots)
    coarse = torch.randn(num_images, num_regions, 5, 5, generator=generator)
    noise = torch.randn(coarse.shape, generator=generator)
    target, pred = (
        F.interpolate(scores, size=(size, size), mode="bilinear").argmax(dim=1)
        for scores in (coarse[:, : num_objects + 1], (coarse + noise).flip(1)[:, -num_slots:])
    )
    return pred, target


def count_pairs(pred: Tensor, target: Tensor, ignore_background: bool) -> float:
    """ARI of one image, counting every pair of pixels."""
    pixels = list(zip(pred.flatten().tolist(), target.flatten().tolist(), strict=True))
    if ignore_background:
        pixels = [(slot, region) for slot, region in pixels if region > 0]
    together = in_pred = in_target = total = 0
    for (slot, region), (other_slot, other_region) in combinations(pixels, 2):
        total += 1
        in_pred += slot == other_slot
        in_target += region == other_region
        together += slot == other_slot and region == other_region
    if total == 0:
        return 1.0
    expected = in_pred * in_target / total
    best = (in_pred + in_target) / 2
    return 1.0 if best == expected else (together - expected) / (best - expected)


def overlap_by_hand(pred: Tensor, target: Tensor, with_background: bool) -> tuple[float, float]:
    """mIoU and mBO of one image, matched by trying every assignment."""
    slots = sorted(set(pred.flatten().tolist()))
    regions = sorted(set(target.flatten().tolist()) - (set() if with_background else {0}))
    iou = {
        (region, slot): _iou_by_pixels(pred, target, slot, region)
        for region in regions
        for slot in slots
    }
    # An object can be without a slot.
    choices = [*slots, *(-1 for _ in regions)]
    best = max(
        sum(iou.get(pair, 0.0) for pair in zip(regions, chosen, strict=True))
        for chosen in set(permutations(choices, len(regions)))
    )
    objects = [region for region in regions if region > 0]
    best_overlap = [max(iou[region, slot] for slot in slots) for region in objects]
    return best / len(regions), float(np.mean(best_overlap))


def official_lsd(
    pred: Tensor, target: Tensor, visible: Tensor, num_slots: int
) -> tuple[list[list[float]], list[list[float]], list[list[int]]]:
    """The protocol of the official LSD evaluation, step by step, in our own words.

    Every mask, the background's among them, is compared to every slot by cosine distance; what is
    not a visible object costs 10,000; objects that the assignment leaves without a slot are left
    out of both means.

    Returns:
        Per image the matched IoUs and the best IoUs, and all triples (image, object, slot).
    """
    matched, best, triples = [], [], []
    num_ids = visible.shape[1] + 1
    for image in range(len(pred)):
        slots = np.stack([(pred[image] == k).numpy().ravel() for k in range(num_slots)])
        masks = np.stack([(target[image] == n).numpy().ravel() for n in range(num_ids)])
        cost = np.full((num_ids, num_slots), 10_000.0)
        for n in range(1, num_ids):
            if visible[image, n - 1]:
                cost[n] = [_cosine_distance(masks[n], slot) for slot in slots]
        matched.append([])
        best.append([])
        for n, k in zip(*linear_sum_assignment(cost), strict=True):
            if n == 0 or not visible[image, n - 1]:
                continue
            ious = [(masks[n] & slot).sum() / (masks[n] | slot).sum() for slot in slots]
            matched[-1].append(float(ious[k]))
            best[-1].append(float(max(ious)))
            triples.append([image, int(n), int(k)])
    return matched, best, triples


def _iou_by_pixels(pred: Tensor, target: Tensor, slot: int, region: int) -> float:
    both = either = 0
    for a, b in zip(pred.flatten().tolist(), target.flatten().tolist(), strict=True):
        both += a == slot and b == region
        either += a == slot or b == region
    return both / either


def _cosine_distance(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(float), b.astype(float)
    return 1 - a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-8)
