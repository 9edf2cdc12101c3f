"""How well an object can be taken out of a picture, held against the picture without it.

Dimensions: B pairs, K slots, H W pixels.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from datasets import Dataset
from jaxtyping import Bool, Float
from torch import Tensor

from latentslots import editing
from latentslots.data.transforms import ResizeCenterCrop, to_ids, to_pixel_values
from latentslots.evaluation.edits.pairs import (
    FOUND,
    METHODS,
    away_from,
    covering_slot,
    existing,
    generators,
    outside_scores,
    rows_before,
    through_autoencoder,
)
from latentslots.pipelines.base import upsample_masks
from latentslots.pipelines.edit import paint_edit

STILL_THERE = 0.3


@dataclass(frozen=True, kw_only=True)
class RemovalReport:
    """Scores of one way to paint after an object's slot was taken out.

    Attributes:
        num_pairs: Pairs of a scene with and without an object.
        num_found: Objects among them that a slot covered before, with an IoU of 0.5 or more; only
            these are taken out and counted.
        psnr: Against the true picture without the object, outside of the object's mask and 3 px
            around it, in dB; mean over images.
        psnr_ceiling: The same for what the autoencoder makes of that true picture.
        psnr_untouched: The same for what it makes of the picture with the object, whose shadow is
            still there: about as near as the autoencoder can come without touching what is outside.
        ssim: As `psnr`: mean of the local similarity there.
        ssim_ceiling: As `psnr_ceiling`.
        success: Share of the objects found that no slot covers with an IoU of 0.3 or more after.
    """

    num_pairs: int
    num_found: int
    psnr: float
    psnr_ceiling: float
    psnr_untouched: float
    ssim: float
    ssim_ceiling: float
    success: float

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Pairs:
    """Scenes whose object a slot covers: before and after, and what is asked for."""

    before: Float[Tensor, "B 3 H W"]
    after: Float[Tensor, "B 3 H W"]
    mask: Bool[Tensor, "B H W"]
    seeds: list[int]

    def __getitem__(self, keep: Tensor) -> "_Pairs":
        seeds = [seed for seed, kept in zip(self.seeds, keep.tolist(), strict=True) if kept]
        return _Pairs(self.before[keep], self.after[keep], self.mask[keep], seeds)


@torch.no_grad()
def evaluate_removal(
    pipe: Any,
    dataset: Dataset,
    *,
    num_pairs: int = 200,
    seed: int = 0,
    num_inference_steps: int = 25,
    batch_size: int = 32,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, RemovalReport]:
    """Take objects out of scenes in six ways, and score each.

    Args:
        pipe: Finds, and paints.
        dataset: Pairs as `latentslots data make --edit-pairs` makes them; those where an object is
            removed count.
        num_pairs: At most so many of them, from the start.
        seed: Of slot noise and of the noise that is painted from, pair i of seed + i.
        num_inference_steps: Denoising steps.
        batch_size: Pairs at once.
        progress: Called with the number of pairs that were done.

    Returns:
        A report for `plain` sampling, `inversion`, `blending`, `both`, and the last two with the
        pictures' own pixels pasted around the edit.

    Raises:
        ValueError: If the data set has no such pairs, or no slot covers any object.
    """
    rows = rows_before(dataset, "removed", following=1)[:num_pairs]
    if not rows:
        raise ValueError("the data set has no pairs with a removed object: make --edit-pairs")
    sums: dict[str, list[Tensor]] = {name: [] for name in METHODS}
    for start in range(0, len(rows), batch_size):
        pairs = _load(dataset, rows[start : start + batch_size], seed + start, pipe.resolution)
        found = pipe.encode_pixel_values(pairs.before, generator=generators(pairs.seeds))
        slot, overlap = covering_slot(found.masks, pairs.mask)
        keep = overlap >= FOUND
        if keep.any():
            parts = (found.slots[keep], existing(found)[keep], found.masks[keep], slot[keep])
            for name, scores in _score(pipe, pairs[keep.cpu()], parts, num_inference_steps):
                sums[name].append(scores)
        progress(len(pairs.seeds))
    if not sums["plain"]:
        raise ValueError(f"no slot covers any of the {len(rows)} objects: nothing was removed")
    reports = {}
    for name, parts_of in sums.items():
        scores = torch.cat(parts_of)
        means = scores.mean(dim=0).tolist()
        names = [field.name for field in fields(RemovalReport)][2:]
        reports[name] = RemovalReport(
            num_pairs=len(rows), num_found=len(scores), **dict(zip(names, means, strict=True))
        )
    return reports


def _score(
    pipe: Any, pairs: _Pairs, parts: tuple[Tensor, ...], num_inference_steps: int
) -> Iterator[tuple[str, Tensor]]:
    """For each method the scores of every pair, in the order of the report."""
    slots, exist, masks, slot = parts
    size = (pairs.mask.shape[1], pairs.mask.shape[2])
    owned = upsample_masks(masks, size).argmax(dim=1) == slot[:, None, None]
    outside = away_from(pairs.mask)
    truth = (pairs.after + 1) / 2
    ceiling = outside_scores(through_autoencoder(pipe, pairs.after), truth, outside)
    untouched, _ = outside_scores(through_autoencoder(pipe, pairs.before), truth, outside)
    after_mask = editing.remove(exist[..., None].float(), slot)[..., 0] > 0
    for name, method in METHODS.items():
        painted = paint_edit(
            pipe,
            pairs.before,
            slots,
            editing.remove(slots, slot),
            owned,
            before_mask=exist,
            after_mask=after_mask,
            generator=generators(pairs.seeds),
            num_inference_steps=num_inference_steps,
            output_type="pt",
            **method,
        )
        again = pipe.encode_pixel_values(painted * 2 - 1, generator=generators(pairs.seeds))
        _, overlap = covering_slot(again.masks, pairs.mask)
        psnr, similarity = outside_scores(painted.float().cpu(), truth, outside)
        gone = (overlap < STILL_THERE).float()
        columns = [psnr, ceiling[0], untouched, similarity, ceiling[1], gone]
        yield name, torch.stack([column.cpu() for column in columns], dim=1)


def _load(dataset: Dataset, rows: list[int], first_seed: int, resolution: int) -> _Pairs:
    crop = ResizeCenterCrop(resolution)
    before, after, masks = [], [], []
    for row in rows:
        with_it, without = dataset[row], dataset[row + 1]
        picture, ids = crop(with_it["image"], with_it["segmentation"])
        assert ids is not None
        before.append(to_pixel_values(picture))
        after.append(to_pixel_values(crop(without["image"])[0]))
        masks.append(to_ids(ids) == with_it["edited_object"])
    seeds = list(range(first_seed, first_seed + len(rows)))
    return _Pairs(torch.stack(before), torch.stack(after), torch.stack(masks), seeds)
