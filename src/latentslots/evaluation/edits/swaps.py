"""How well a part of one figure replaces that of another, measured against the true image.

Dimensions: B pairs, K slots, H W pixels.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True, kw_only=True)
class SwapReport:
    """Scores of one way to sample an image after a part was replaced by another figure's.

    Attributes:
        num_pairs: Pairs of a figure, before and after.
        num_found: Pairs where both parts, the replaced one and the other figure's, are covered by a
            slot, with an IoU of 0.5 or more; only these are edited and scored.
        psnr: Against the true image after the swap, outside of both parts and 3 px around them,
            in dB; mean over images.
        psnr_ceiling: The same for that true image, encoded and decoded by the autoencoder.
        placed: Share of the edited pairs where a slot covers the new part's true place in the
            edited image, with an IoU of 0.5 or more.
        colored: Share of the edited pairs whose mean color at that place is closer to that of the
            new part than to that of the old one.
        success: Share of the edited pairs for which both are true.
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
    """Figures before and after, the figures that the new part is taken from, and masks of parts."""

    before: Float[Tensor, "B 3 H W"]
    after: Float[Tensor, "B 3 H W"]
    source: Float[Tensor, "B 3 H W"]
    old_part: Bool[Tensor, "B H W"]
    new_part: Bool[Tensor, "B H W"]
    source_part: Bool[Tensor, "B H W"]

    def __getitem__(self, keep: Tensor) -> "_Swaps":
        return _Swaps(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))


def swap_rows(dataset: Dataset) -> list[int]:
    """Rows of the figures before a part is replaced; the result and the source follow each.

    Empty for data sets without figures, in which no other image contains the replacement.
    """
    if "pose" not in dataset.features.get("attributes", ()):  # only parts of figures have one
        return []
    return rows_before(dataset, "replaced", following=2)


@torch.no_grad()
def evaluate_swaps(
    pipe: Any,
    dataset: Dataset,
    *,
    num_pairs: int = 200,
    sampling: Sampling | None = None,
    batch_size: int = 32,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, SwapReport]:
    """Replace parts of figures by those of others in six ways, and score each.

    Args:
        pipe: The pipeline; it keeps the sampler.
        dataset: Pairs as `latentslots data make parts --edit-pairs` makes them; those in
            which a part is replaced by that of the next figure are used.
        num_pairs: At most this many of them, from the start of the data set.
        sampling: How images are sampled; by default as `Sampling()`. Pair i draws slot noise and
            starting noise from `seed` + i.
        batch_size: Pairs at once.
        progress: Called with the number of pairs done since the last call.

    Returns:
        A report for `plain` sampling, `inversion`, `blending`, `both`, and the last two with the
        image's own pixels pasted around the edit.

    Raises:
        ValueError: If the data set has no such pairs, or no pair of parts is covered by slots.
    """
    sampling = sampling or Sampling()
    use_sampling(pipe, sampling)
    rows = swap_rows(dataset)[:num_pairs]
    if not rows:
        raise ValueError(
            "the data set has no pairs with a replaced part: make them by `latentslots data make "
            "parts --edit-pairs`"
        )
    scores: dict[str, list[Tensor]] = {name: [] for name in METHODS}
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        swaps = _load(dataset, part, pipe.resolution)
        seeds = list(range(sampling.seed + start, sampling.seed + start + len(part)))
        edit, keep = _swap(pipe, swaps, seeds)
        if edit is not None:
            kept_seeds = [seeds[i] for i in keep.nonzero()[:, 0].tolist()]
            for name, columns in _score(pipe, swaps[keep], edit, kept_seeds, sampling):
                scores[name].append(columns)
        progress(len(part))
    if not scores["plain"]:
        raise ValueError(f"slots cover none of the {len(rows)} parts: nothing was swapped")
    reports = {}
    for name, parts in scores.items():
        psnr, ceiling, placed, colored, success = torch.cat(parts).mean(dim=0).tolist()
        reports[name] = SwapReport(
            num_pairs=len(rows),
            num_found=sum(map(len, parts)),
            psnr=psnr,
            psnr_ceiling=ceiling,
            placed=placed,
            colored=colored,
            success=success,
        )
    return reports


def swap_table(reports: Mapping[str, SwapReport]) -> str:
    """The reports of `evaluate_swaps` as a table in Markdown."""
    first = next(iter(reports.values()))
    lines = [
        f"{first.num_pairs} pairs with a replaced part; slots cover both parts in "
        f"{first.num_found}",
        "",
        "| | PSNR outside (dB) | in its place | in its color | both |",
        "|---|---|---|---|---|",
    ]
    for name, report in reports.items():
        shares = f"{report.placed:.3f} | {report.colored:.3f} | {report.success:.3f}"
        lines.append(f"| {name} | {report.psnr:.1f} | {shares} |")
    lines.append(f"| autoencoder | {first.psnr_ceiling:.1f} | | | |")
    return "\n".join(lines) + "\n"


def _swap(pipe: Any, swaps: _Swaps, seeds: list[int]) -> tuple[SlotEdit | None, Bool[Tensor, " B"]]:
    """The edit of the pairs whose parts are both covered by slots, and which pairs these are."""
    scenes = pipe.encode_pixel_values(swaps.before, generator=generators(seeds))
    sources = pipe.encode_pixel_values(swaps.source, generator=generators(seeds))
    old, overlap = covering_slot(scenes.masks, swaps.old_part)
    new, other_overlap = covering_slot(sources.masks, swaps.source_part)
    keep = (overlap >= COVERED) & (other_overlap >= COVERED)
    if not keep.any():
        return None, keep.cpu()
    scenes, sources = take_scenes(scenes, keep), take_scenes(sources, keep)
    size = (swaps.before.shape[2], swaps.before.shape[3])
    edit = SlotEdit.of(scenes, replace=[(old[keep], sources, new[keep])], size=size)
    return edit, keep.cpu()


def _score(
    pipe: Any, swaps: _Swaps, edit: SlotEdit, seeds: list[int], sampling: Sampling
) -> Iterator[tuple[str, Float[Tensor, "B 5"]]]:
    """For each method the scores of every pair, in the order of the report."""
    outside = away_from(swaps.old_part | swaps.new_part)
    truth = (swaps.after + 1) / 2
    ceiling, _ = outside_scores(through_autoencoder(pipe, swaps.after), truth, outside)
    new_color = _mean_color(truth, swaps.new_part)
    old_color = _mean_color((swaps.before + 1) / 2, swaps.old_part)
    for name, images in edit_in_all_ways(pipe, (swaps.before + 1) / 2, edit, seeds, sampling):
        scenes = pipe.encode_pixel_values(images * 2 - 1, generator=generators(seeds))
        _, overlap = covering_slot(scenes.masks, swaps.new_part)
        images = images.float().cpu()
        psnr, _ = outside_scores(images, truth, outside)
        color = _mean_color(images, swaps.new_part)
        placed = overlap.cpu() >= COVERED
        colored = (color - new_color).norm(dim=1) < (color - old_color).norm(dim=1)
        columns = [psnr, ceiling, placed, colored, placed & colored]
        yield name, torch.stack([column.float() for column in columns], dim=1)


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
        for i, sample in enumerate(dataset[k] for k in (row, row + 1, row + 2)):
            image, ids = crop(sample["image"], sample["segmentation"])
            assert ids is not None
            columns[i].append(to_pixel_values(image))
            columns[3 + i].append(to_ids(ids) == number)
    return _Swaps(*(torch.stack(column) for column in columns))
