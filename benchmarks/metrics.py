"""Segmentation metrics: ours against a loop over images and objects in scikit-learn and numpy.

Both compute ARI, FG-ARI, mIoU and mBO under the convention `lsd`, on one thread, and must agree.

    python benchmarks/metrics.py [--json]
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.pairwise import cosine_distances
from torch import Tensor
from torch.nn import functional as F

from latentslots.metrics import SegmentationMetrics


def make_scenes(num_images: int, num_slots: int, size: int) -> tuple[Tensor, Tensor]:
    """Blobs with smooth outlines, and segmentations that resemble them.

    Returns:
        Predicted and true ids, both `[B, H, W]` int64; there are as many objects, including the
        background, as slots.
    """
    generator = torch.Generator().manual_seed(0)

    def upsample(coarse: Tensor) -> Tensor:
        return F.interpolate(coarse, size=(size, size), mode="bilinear").argmax(dim=1)

    truth = torch.randn(num_images, num_slots, 8, 8, generator=generator)
    truth[:, 0] += 1
    noisy = truth + 0.5 * torch.randn(truth.shape, generator=generator)
    order = torch.randperm(num_slots, generator=generator)
    return upsample(noisy[:, order]), upsample(truth)


def plain_loop(pred: Tensor, target: Tensor, num_slots: int) -> dict[str, float]:
    """The straightforward way: one image, one object, one pair of masks at a time."""
    scores: dict[str, list[float]] = {name: [] for name in ("ari", "fg_ari", "miou", "mbo")}
    for slots, objects in zip(pred.numpy(), target.numpy(), strict=True):
        foreground = objects > 0
        scores["ari"].append(adjusted_rand_score(objects.ravel(), slots.ravel()))
        scores["fg_ari"].append(adjusted_rand_score(objects[foreground], slots[foreground]))
        slot_masks = np.stack([slots == slot for slot in range(num_slots)])
        object_masks = np.stack([objects == i for i in np.unique(objects) if i > 0])
        distance = cosine_distances(
            object_masks.reshape(len(object_masks), -1), slot_masks.reshape(num_slots, -1)
        )
        for row, column in zip(*linear_sum_assignment(distance), strict=True):
            ious = [_iou(object_masks[row], mask) for mask in slot_masks]
            scores["miou"].append(ious[column])
            scores["mbo"].append(max(ious))
    return {name: float(np.mean(values)) for name, values in scores.items()}


def ours(pred: Tensor, target: Tensor, num_slots: int) -> dict[str, float]:
    """The same numbers from one table."""
    metrics = SegmentationMetrics(convention="lsd")
    metrics.update(pred, target, num_slots=num_slots)
    means = {name: float(value) for name, value in metrics.compute().items()}
    return {
        "ari": means["ari"],
        "fg_ari": means["fg_ari"],
        "miou": means["miou_objects"],
        "mbo": means["mbo_objects"],
    }


def measure(function: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest call, after one to warm up."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main() -> None:
    """Run both, compare their numbers, and print their times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-images", type=int, default=32)
    parser.add_argument("--num-slots", type=int, default=11)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)

    pred, target = make_scenes(args.num_images, args.num_slots, args.size)
    slow, fast = (function(pred, target, args.num_slots) for function in (plain_loop, ours))
    for name, value in slow.items():
        if abs(value - fast[name]) > 1e-9:
            raise SystemExit(f"{name} differs: {value} by the loop, {fast[name]} by ours")

    per_image = 1000 / args.num_images
    loop_ms = measure(lambda: plain_loop(pred, target, args.num_slots), 3) * per_image
    ours_ms = measure(lambda: ours(pred, target, args.num_slots), 20) * per_image
    result = {
        "num_images": args.num_images,
        "num_slots": args.num_slots,
        "size": args.size,
        "loop_ms_per_image": round(loop_ms, 3),
        "ours_ms_per_image": round(ours_ms, 4),
        "ratio": round(loop_ms / ours_ms, 1),
    }
    if args.json:
        print(json.dumps(result))
    else:
        print(f"{args.num_images} images of {args.size} px, {args.num_slots} slots, one thread")
        print(f"scikit-learn loop  {loop_ms:8.3f} ms per image")
        print(f"latentslots        {ours_ms:8.3f} ms per image")
        print(f"ratio              {loop_ms / ours_ms:8.1f}")


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


if __name__ == "__main__":
    main()
