"""How well objects are moved, measured by where their own pixels are found again.

Dimensions: B images, N objects of an image, K slots, H W pixels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from datasets import Dataset
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

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
    take_scenes,
    through_autoencoder,
)
from latentslots.pipelines.sampling import use_sampling
from latentslots.pipelines.slot_edit import SlotEdit, check_frames

DISTANCE = 12
"""Pixels by which an object is moved, up, down, to the left or to the right."""
SMALLEST_AREA = 0.005
"""Share of the image that an object covers at least."""
EXACT = 1.5
"""Largest distance in pixels between where an object was to be and where it is."""
KEPT = 1.0
"""Largest loss of PSNR around the object, in dB, compared with the autoencoder."""


@dataclass(frozen=True, kw_only=True)
class MoveReport:
    """Scores of one way to sample an image after the slot of an object was moved.

    Attributes:
        num_images: Images with an object that can move by 12 px without leaving the image or
            touching another one.
        num_found: Images whose object is covered by a slot, with an IoU of 0.5 or more; only these
            are edited and scored.
        psnr: Against the image itself, outside of the object's old and new place and 3 px around
            them, in dB; mean over images.
        psnr_ceiling: The same for the image, encoded and decoded by the autoencoder.
        placed: Share of the edited images in which the object is where it was to be, within 1.5 px:
            its pixels fit there best, of all places up to 16 px away.
        kept: Share of the edited images whose `psnr` is at most 1 dB below the autoencoder's.
        success: Share for which both are true.
    """

    num_images: int
    num_found: int
    psnr: float
    psnr_ceiling: float
    placed: float
    kept: float
    success: float

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Moves:
    """Images, an object of each, and its way: pixels down and to the right."""

    images: Float[Tensor, "B 3 H W"]
    mask: Bool[Tensor, "B H W"]
    way: Int[Tensor, "B 2"]

    def __getitem__(self, keep: Tensor) -> "Moves":
        return Moves(self.images[keep], self.mask[keep], self.way[keep])


def move_rows(dataset: Dataset) -> list[int]:
    """Rows of the images in which objects may be moved: all with a segmentation."""
    return list(range(len(dataset))) if "segmentation" in dataset.column_names else []


@torch.no_grad()
def evaluate_moves(
    pipe: Any,
    dataset: Dataset,
    *,
    num_pairs: int = 200,
    sampling: Sampling | None = None,
    batch_size: int = 32,
    progress: Callable[[int], None] = lambda _: None,
) -> dict[str, MoveReport]:
    """Move an object of every image in six ways, and score each.

    Args:
        pipe: The pipeline, whose slots have frames; it keeps the sampler.
        dataset: Images with segmentations.
        num_pairs: At most this many of them, from the start of the data set.
        sampling: How images are sampled; by default as `Sampling()`. Image i draws slot noise and
            starting noise from `seed` + i.
        batch_size: Images at once.
        progress: Called with the number of images done since the last call.

    Returns:
        A report for each way of `METHODS`.

    Raises:
        ValueError: If slots have no frames, images have no segmentations, no object has room to
            move, or no slot covers one.
    """
    sampling = sampling or Sampling()
    use_sampling(pipe, sampling)
    rows = move_rows(dataset)[:num_pairs]
    if not rows:
        raise ValueError("objects can be moved in images with segmentations only")
    scores: dict[str, list[Tensor]] = {name: [] for name in METHODS}
    num_images = 0
    for start in range(0, len(rows), batch_size):
        moves, kept_rows = load_moves(dataset, rows[start : start + batch_size], pipe.resolution)
        num_images += len(kept_rows)
        if moves is not None:
            seeds = [sampling.seed + row for row in kept_rows]
            for name, columns in _score(pipe, moves, seeds, sampling):
                scores[name].append(columns)
        progress(len(rows[start : start + batch_size]))
    if not scores["plain"]:
        raise ValueError(f"no slot covers an object that can move in {len(rows)} images")
    reports = {}
    for name, parts in scores.items():
        psnr, ceiling, placed, kept, success = torch.cat(parts).mean(dim=0).tolist()
        reports[name] = MoveReport(
            num_images=num_images,
            num_found=sum(map(len, parts)),
            psnr=psnr,
            psnr_ceiling=ceiling,
            placed=placed,
            kept=kept,
            success=success,
        )
    return reports


def move_table(reports: Mapping[str, MoveReport]) -> str:
    """The reports of `evaluate_moves` as a table in Markdown."""
    first = next(iter(reports.values()))
    lines = [
        f"{first.num_images} images with an object that can move by {DISTANCE} px; a slot covers "
        f"{first.num_found} of these objects",
        "",
        "| | PSNR outside (dB) | in its place | the rest kept | both |",
        "|---|---|---|---|---|",
    ]
    for name, report in reports.items():
        shares = f"{report.placed:.3f} | {report.kept:.3f} | {report.success:.3f}"
        lines.append(f"| {name} | {report.psnr:.1f} | {shares} |")
    lines.append(f"| autoencoder | {first.psnr_ceiling:.1f} | | | |")
    return "\n".join(lines) + "\n"


def _score(
    pipe: Any, moves: Moves, seeds: list[int], sampling: Sampling
) -> Iterator[tuple[str, Float[Tensor, "B 5"]]]:
    """For each method the scores of the images whose object is found, in the report's order."""
    scenes = pipe.encode_pixel_values(moves.images, generator=generators(seeds))
    check_frames(scenes)
    slot, overlap = covering_slot(scenes.masks, moves.mask)
    keep = (overlap >= COVERED).cpu()
    if not keep.any():
        return
    moves, slot = moves[keep], slot[keep.to(slot.device)]
    seeds = [seed for seed, kept in zip(seeds, keep.tolist(), strict=True) if kept]
    size = (moves.mask.shape[1], moves.mask.shape[2])
    shift = 2 * moves.way.flip(1) / torch.tensor([size[1], size[0]])
    scenes = take_scenes(scenes, keep.to(scenes.slots.device))
    edit = SlotEdit.of(scenes, move=[(slot, shift.to(scenes.slots))], size=size)
    outside = away_from(moves.mask | shift_masks(moves.mask, moves.way))
    truth = (moves.images + 1) / 2
    decoded = through_autoencoder(pipe, moves.images)
    ceiling, _ = outside_scores(decoded, truth, outside)
    for name, images in edit_in_all_ways(pipe, truth, edit, seeds, sampling):
        painted = images.float().cpu()
        psnr, _ = outside_scores(painted, truth, outside)
        missed = (find_pixels(decoded, moves.mask, painted) - moves.way).float().norm(dim=1)
        placed, kept = missed <= EXACT, psnr >= ceiling - KEPT
        columns = [psnr, ceiling, placed, kept, placed & kept]
        yield name, torch.stack([column.float() for column in columns], dim=1)


def find_pixels(
    source: Float[Tensor, "B 3 H W"],
    mask: Bool[Tensor, "B H W"],
    target: Float[Tensor, "B 3 H W"],
    *,
    reach: int = 16,
) -> Int[Tensor, "B 2"]:
    """Find where the pixels of a region lie in another image.

    Args:
        source: The images of the regions.
        mask: The regions.
        target: The images to search.
        reach: Largest distance, up, down, to the left and to the right.

    Returns:
        The shift (down, right) at which the squared difference is least. Pixels that leave the
        image count as entirely different.
    """
    height, width = mask.shape[1:]
    padded = F.pad(target, (reach, reach, reach, reach), value=2.0)
    weight = mask[:, None].float()
    best = torch.full((len(mask),), torch.inf)
    found = torch.zeros(len(mask), 2, dtype=torch.long)
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            top, left = reach + down, reach + right
            window = padded[:, :, top : top + height, left : left + width]
            error = ((window - source).square() * weight).sum(dim=(1, 2, 3))
            better = error < best
            best[better] = error[better]
            found[better] = torch.tensor([down, right])
    return found


def shift_masks(mask: Bool[Tensor, "B H W"], way: Int[Tensor, "B 2"]) -> Bool[Tensor, "B H W"]:
    """Shift each mask by its way (down, right); what leaves the image is gone."""
    shifted = torch.zeros_like(mask)
    for one, other, step in zip(mask, shifted, way.tolist(), strict=True):
        pixels = one.nonzero() + torch.tensor(step)
        inside = ((pixels >= 0) & (pixels < torch.tensor(one.shape))).all(dim=1)
        other[tuple(pixels[inside].T)] = True
    return shifted


def load_moves(
    dataset: Dataset, rows: Sequence[int], resolution: int
) -> tuple[Moves | None, list[int]]:
    """Load the images with an object that has room to move, and their rows."""
    crop = ResizeCenterCrop(resolution)
    images, masks, ways, kept = [], [], [], []
    for row in rows:
        sample = dataset[row]
        image, ids = crop(sample["image"], sample["segmentation"])
        assert ids is not None
        choice = _object_with_room(to_ids(ids))
        if choice is None:
            continue
        images.append(to_pixel_values(image))
        masks.append(choice[0])
        ways.append(choice[1])
        kept.append(row)
    if not kept:
        return None, []
    return Moves(torch.stack(images), torch.stack(masks), torch.stack(ways)), kept


def _object_with_room(
    ids: Int[Tensor, "H W"],
) -> tuple[Bool[Tensor, "H W"], Int[Tensor, " 2"]] | None:
    """The largest object that can move, and its way; away from the nearest edges first."""
    numbers, areas = torch.unique(ids[ids > 0], return_counts=True)
    for number in numbers[areas.argsort(descending=True, stable=True)]:
        mask = ids == number
        if mask.float().mean() < SMALLEST_AREA:
            break
        free = (ids == 0) | mask
        center = mask.nonzero().float().mean(dim=0) - torch.tensor(mask.shape) / 2
        ways = torch.tensor([(DISTANCE, 0), (-DISTANCE, 0), (0, DISTANCE), (0, -DISTANCE)])
        for way in ways[(ways * center).sum(dim=1).argsort(stable=True)]:
            shifted = shift_masks(mask[None], way[None])[0]
            if shifted.sum() == mask.sum() and free[shifted].all():
                return mask, way
    return None
