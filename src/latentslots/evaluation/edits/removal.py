"""How well objects are removed from images, measured against true images without them.

Dimensions: B pairs, K slots, H W pixels.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from datasets import Dataset
from jaxtyping import Bool, Float
from torch import Tensor

from latentslots.config.sampling import Sampling
from latentslots.data.transforms import ResizeCenterCrop, to_ids, to_pixel_values
from latentslots.evaluation.edits.pairs import (
    COVERED,
    METHODS,
    away_from,
    covering_slot,
    edit_in_all_ways,
    generators,
    outside_scores,
    rows_before,
    take_scenes,
    through_autoencoder,
)
from latentslots.pipelines.sampling import use_sampling
from latentslots.pipelines.slot_edit import SlotEdit

STILL_THERE = 0.3
"""IoU from which a slot covers an object that should have been removed."""


@dataclass(frozen=True, kw_only=True)
class RemovalReport:
    """Scores of one way to sample an image after the slot of an object was removed.

    Attributes:
        num_pairs: Pairs of a scene with and without an object.
        num_found: Pairs whose object is covered by a slot, with an IoU of 0.5 or more; only these
            are edited and scored.
        psnr: Against the true image without the object, outside of the object's mask and 3 px
            around it, in dB; mean over images.
        psnr_ceiling: The same for that true image, encoded and decoded by the autoencoder.
        psnr_untouched: The same for the image with the object, encoded and decoded: about the best
            value if the object's shadow remains.
        ssim: SSIM against the true image over the same pixels; mean over images.
        ssim_ceiling: The same for the true image, encoded and decoded by the autoencoder.
        success: Share of the edited objects that no slot covers with an IoU of 0.3 or more in the
            edited image.
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
    """Images before and after, and the masks of the removed objects."""

    before: Float[Tensor, "B 3 H W"]
    after: Float[Tensor, "B 3 H W"]
    mask: Bool[Tensor, "B H W"]
    seeds: list[int]

    def __getitem__(self, keep: Tensor) -> "_Pairs":
        seeds = [seed for seed, kept in zip(self.seeds, keep.tolist(), strict=True) if kept]
        return _Pairs(self.before[keep], self.after[keep], self.mask[keep], seeds)


def removal_rows(dataset: Dataset) -> list[int]:
    """Rows of the images before an object is removed; the image without it follows each."""
    return rows_before(dataset, "removed", following=1)


@torch.no_grad()
def evaluate_removal(
    pipe: Any,
    dataset: Dataset,
    *,
    num_pairs: int = 200,
    sampling: Sampling | None = None,
    batch_size: int = 32,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, RemovalReport]:
    """Remove objects from images in six ways, and score each.

    Args:
        pipe: The pipeline; it keeps the sampler.
        dataset: Pairs as `latentslots data make --edit-pairs` makes them; those with a removed
            object are used.
        num_pairs: At most this many of them, from the start of the data set.
        sampling: How images are sampled; by default as `Sampling()`. Pair i draws slot noise and
            starting noise from `seed` + i.
        batch_size: Pairs at once.
        progress: Called with the number of pairs done since the last call.

    Returns:
        A report for `plain` sampling, `inversion`, `blending`, `both`, and the last two with the
        image's own pixels pasted around the edit.

    Raises:
        ValueError: If the data set has no such pairs, or no slot covers any object.
    """
    sampling = sampling or Sampling()
    use_sampling(pipe, sampling)
    rows = removal_rows(dataset)[:num_pairs]
    if not rows:
        raise ValueError(
            "the data set has no pairs with a removed object: make them by `latentslots data make "
            "--edit-pairs`"
        )
    scores: dict[str, list[Tensor]] = {name: [] for name in METHODS}
    for start in range(0, len(rows), batch_size):
        pairs = _load(
            dataset, rows[start : start + batch_size], sampling.seed + start, pipe.resolution
        )
        scenes = pipe.encode_pixel_values(pairs.before, generator=generators(pairs.seeds))
        slot, overlap = covering_slot(scenes.masks, pairs.mask)
        keep = overlap >= COVERED
        if keep.any():
            size = (pairs.mask.shape[1], pairs.mask.shape[2])
            edit = SlotEdit.of(take_scenes(scenes, keep), remove=slot[keep], size=size)
            for name, columns in _score(pipe, pairs[keep.cpu()], edit, sampling):
                scores[name].append(columns)
        progress(len(pairs.seeds))
    if not scores["plain"]:
        raise ValueError(f"no slot covers any of the {len(rows)} objects: nothing was removed")
    names = [field.name for field in fields(RemovalReport)][2:]
    reports = {}
    for name, parts in scores.items():
        means = dict(zip(names, torch.cat(parts).mean(dim=0).tolist(), strict=True))
        num_found = sum(map(len, parts))
        reports[name] = RemovalReport(num_pairs=len(rows), num_found=num_found, **means)
    return reports


def removal_table(reports: Mapping[str, RemovalReport]) -> str:
    """The reports of `evaluate_removal` as a table in Markdown."""
    first = next(iter(reports.values()))
    lines = [
        f"{first.num_pairs} pairs with a removed object; a slot covers {first.num_found} of these "
        "objects",
        "",
        "| | PSNR outside (dB) | SSIM outside | gone |",
        "|---|---|---|---|",
    ]
    for name, report in reports.items():
        lines.append(f"| {name} | {report.psnr:.1f} | {report.ssim:.3f} | {report.success:.3f} |")
    lines += [
        f"| autoencoder, object still there | {first.psnr_untouched:.1f} | | |",
        f"| autoencoder, object gone | {first.psnr_ceiling:.1f} | {first.ssim_ceiling:.3f} | |",
    ]
    return "\n".join(lines) + "\n"


def _score(
    pipe: Any, pairs: _Pairs, edit: SlotEdit, sampling: Sampling
) -> Iterator[tuple[str, Float[Tensor, "B 6"]]]:
    """For each method the scores of every pair, in the order of the report."""
    outside = away_from(pairs.mask)
    truth = (pairs.after + 1) / 2
    ceiling = outside_scores(through_autoencoder(pipe, pairs.after), truth, outside)
    untouched, _ = outside_scores(through_autoencoder(pipe, pairs.before), truth, outside)
    for name, images in edit_in_all_ways(pipe, (pairs.before + 1) / 2, edit, pairs.seeds, sampling):
        scenes = pipe.encode_pixel_values(images * 2 - 1, generator=generators(pairs.seeds))
        _, overlap = covering_slot(scenes.masks, pairs.mask)
        psnr, ssim = outside_scores(images.float().cpu(), truth, outside)
        gone = (overlap < STILL_THERE).float()
        columns = [psnr, ceiling[0], untouched, ssim, ceiling[1], gone]
        yield name, torch.stack([column.cpu() for column in columns], dim=1)


def _load(dataset: Dataset, rows: list[int], first_seed: int, resolution: int) -> _Pairs:
    crop = ResizeCenterCrop(resolution)
    before, after, masks = [], [], []
    for row in rows:
        with_object, without_object = dataset[row], dataset[row + 1]
        image, ids = crop(with_object["image"], with_object["segmentation"])
        assert ids is not None
        before.append(to_pixel_values(image))
        after.append(to_pixel_values(crop(without_object["image"])[0]))
        masks.append(to_ids(ids) == with_object["edited_object"])
    seeds = list(range(first_seed, first_seed + len(rows)))
    return _Pairs(torch.stack(before), torch.stack(after), torch.stack(masks), seeds)
