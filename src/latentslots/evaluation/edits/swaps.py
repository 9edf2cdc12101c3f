"""How well a part of one figure is put in the place of another's, held against the true picture.

Dimensions: B pairs, K slots, H W pixels.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True, kw_only=True)
class SwapReport:
    """Scores of one way to paint after a part was put in the place of another.

    Attributes:
        num_pairs: Pairs of a figure, before and after.
        num_found: Those where a slot covered the part, and another figure's slot the part that
            takes its place, both with an IoU of 0.5 or more; only these are swapped and counted.
        psnr: Against the true picture after the swap, outside of both parts and 3 px around them,
            in dB; mean over images.
        psnr_ceiling: The same for what the autoencoder makes of that true picture.
        placed: Share of the parts found that a slot covers after the swap where the new part truly
            is, with an IoU of 0.5 or more.
        colored: Share whose mean color there is nearer to the new part's than to the old one's.
        success: Share of which both are true.
    """

    num_pairs: int
    num_found: int
    psnr: float
    psnr_ceiling: float
    placed: float
    colored: float
    success: float

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Swaps:
    """Figures before and after, who gives the new part, and where parts are."""

    before: Float[Tensor, "B 3 H W"]
    after: Float[Tensor, "B 3 H W"]
    giver: Float[Tensor, "B 3 H W"]
    old_part: Bool[Tensor, "B H W"]
    new_part: Bool[Tensor, "B H W"]
    given_part: Bool[Tensor, "B H W"]

    def __getitem__(self, keep: Tensor) -> "_Swaps":
        return _Swaps(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))


@torch.no_grad()
def evaluate_swaps(
    pipe: Any,
    dataset: Dataset,
    *,
    num_pairs: int = 200,
    seed: int = 0,
    num_inference_steps: int = 25,
    batch_size: int = 32,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, SwapReport]:
    """Put parts of figures in the place of others' in six ways, and score each.

    Args:
        pipe: Finds, and paints.
        dataset: Pairs as `latentslots data make parts --edit-pairs` makes them. Those count where
            a part is replaced by that of the next figure.
        num_pairs: At most so many of them, from the start.
        seed: Of slot noise and of the noise that is painted from, pair i of seed + i.
        num_inference_steps: Denoising steps.
        batch_size: Pairs at once.
        progress: Called with the number of pairs that were done.

    Returns:
        A report for `plain` sampling, `inversion`, `blending`, `both`, and the last two with the
        pictures' own pixels pasted around the edit.

    Raises:
        ValueError: If the data set has no such pairs, or slots cover no part.
    """
    rows = rows_before(dataset, "replaced", following=2)[:num_pairs]
    if not rows:
        raise ValueError("the data set has no pairs with a replaced part: make parts --edit-pairs")
    sums: dict[str, list[Tensor]] = {name: [] for name in METHODS}
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        swaps = _load(dataset, part, pipe.resolution)
        seeds = list(range(seed + start, seed + start + len(part)))
        found = _Found.of(pipe, swaps, seeds)
        if found.keep.any():
            for name, scores in _score(pipe, swaps, found, seeds, num_inference_steps).items():
                sums[name].append(scores)
        progress(len(part))
    if not sums["plain"]:
        raise ValueError(f"slots cover none of the {len(rows)} parts: nothing was swapped")
    reports = {}
    for name, parts_of in sums.items():
        scores = torch.cat(parts_of)
        psnr, ceiling, placed, colored, success = scores.mean(dim=0).tolist()
        reports[name] = SwapReport(
            num_pairs=len(rows),
            num_found=len(scores),
            psnr=psnr,
            psnr_ceiling=ceiling,
            placed=placed,
            colored=colored,
            success=success,
        )
    return reports


@dataclass(frozen=True)
class _Found:
    """Slots of the figures, with the new part in the place of the old one.

    Attributes:
        keep: The pairs where both parts have a slot; all others are left out of the rest.
        slots: Before.
        exist: Which of them exist.
        swapped: After.
        changed: Where the old part's slot and the new one's are.
    """

    keep: Bool[Tensor, " P"]
    slots: Float[Tensor, "B K D"]
    exist: Bool[Tensor, "B K"]
    swapped: Float[Tensor, "B K D"]
    changed: Bool[Tensor, "B H W"]

    @classmethod
    def of(cls, pipe: Any, swaps: _Swaps, seeds: list[int]) -> "_Found":
        """Encode figures and givers, and swap."""
        mine = pipe.encode_pixel_values(swaps.before, generator=generators(seeds))
        theirs = pipe.encode_pixel_values(swaps.giver, generator=generators(seeds))
        old, overlap = covering_slot(mine.masks, swaps.old_part)
        new, other_overlap = covering_slot(theirs.masks, swaps.given_part)
        keep = (overlap >= FOUND) & (other_overlap >= FOUND)
        size = (swaps.before.shape[2], swaps.before.shape[3])
        owned = upsample_masks(mine.masks, size).argmax(dim=1) == old[:, None, None]
        owned |= upsample_masks(theirs.masks, size).argmax(dim=1) == new[:, None, None]
        given = editing.take(theirs.slots, new[:, None])
        swapped = editing.replace(mine.slots, old[:, None], given)
        return cls(keep, mine.slots[keep], existing(mine)[keep], swapped[keep], owned[keep])


def _score(
    pipe: Any, swaps: _Swaps, found: _Found, seeds: list[int], num_inference_steps: int
) -> dict[str, Float[Tensor, "B 5"]]:
    """For each method the scores of every pair, in the order of the report."""
    kept = found.keep.cpu()
    swaps = swaps[kept]
    seeds = [seed for seed, keep in zip(seeds, kept.tolist(), strict=True) if keep]
    outside = away_from(swaps.old_part | swaps.new_part)
    truth = (swaps.after + 1) / 2
    ceiling, _ = outside_scores(through_autoencoder(pipe, swaps.after), truth, outside)
    wanted = _mean_color(truth, swaps.new_part)
    unwanted = _mean_color((swaps.before + 1) / 2, swaps.old_part)
    scores = {}
    for name, method in METHODS.items():
        painted = paint_edit(
            pipe,
            swaps.before,
            found.slots,
            found.swapped,
            found.changed,
            before_mask=found.exist,
            after_mask=found.exist,
            generator=generators(seeds),
            num_inference_steps=num_inference_steps,
            output_type="pt",
            **method,
        )
        again = pipe.encode_pixel_values(painted * 2 - 1, generator=generators(seeds))
        _, overlap = covering_slot(again.masks, swaps.new_part)
        painted = painted.float().cpu()
        psnr, _ = outside_scores(painted, truth, outside)
        color = _mean_color(painted, swaps.new_part)
        placed = overlap.cpu() >= FOUND
        colored = (color - wanted).norm(dim=1) < (color - unwanted).norm(dim=1)
        columns = [psnr, ceiling, placed, colored, placed & colored]
        scores[name] = torch.stack([column.float() for column in columns], dim=1)
    return scores


def _mean_color(
    images: Float[Tensor, "B 3 H W"], masks: Bool[Tensor, "B H W"]
) -> Float[Tensor, "B 3"]:
    weight = masks[:, None].float()
    return (images * weight).sum(dim=(2, 3)) / weight.sum(dim=(2, 3)).clamp(min=1)


def _load(dataset: Dataset, rows: list[int], resolution: int) -> _Swaps:
    crop = ResizeCenterCrop(resolution)
    columns: list[list[Tensor]] = [[], [], [], [], [], []]
    for row in rows:
        number = dataset[row]["edited_object"]
        loaded = [dataset[i] for i in (row, row + 1, row + 2)]
        for i, one in enumerate(loaded):
            picture, ids = crop(one["image"], one["segmentation"])
            assert ids is not None
            columns[i].append(to_pixel_values(picture))
            columns[3 + i].append(to_ids(ids) == number)
    return _Swaps(*(torch.stack(column) for column in columns))
