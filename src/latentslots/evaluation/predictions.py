"""What a method finds in the images of a data set, beside what is there.

A small table for each image, and its slots: every score is a function of them, so that a data set
is looked at once for all conventions, for probes and for intervals.

Dimensions: I images, N rows of a table (row 0 is the background), K slots, D slot channels,
H W pixels of an image, h w of its truth.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from datasets import Dataset
from jaxtyping import Bool, Float, Int, Int64, Integer
from PIL import Image
from torch import Tensor, distributed
from torch.nn import functional as F
from tqdm.auto import tqdm

from latentslots.data.transforms import ResizeCenterCrop, resize_ids, to_ids, to_pixel_values
from latentslots.metrics import PixelTable, tabulate

ScoringSize = int | Literal["native"]


@runtime_checkable
class SegmentedSlots(Protocol):
    """What `predict` reads of a `SlotOutput`."""

    @property
    def slots(self) -> Tensor:
        """Slots, `[B, K, D]`."""

    @property
    def slots_mask(self) -> Tensor | None:
        """True for the slots that exist, `[B, K]`; `None` where all do."""

    def segmentation(self, size: tuple[int, int]) -> Tensor:
        """Slot index of every pixel, `[B, H, W]`, at a height and width."""


@runtime_checkable
class SegmentationPipeline(Protocol):
    """What `predict` uses of a pipeline."""

    @property
    def resolution(self) -> int:
        """Side, in pixels, of the images that the model was trained on."""

    @property
    def device(self) -> torch.device:
        """Where the model runs."""

    def encode_pixel_values(
        self, pixel_values: Tensor, *, generator: list[torch.Generator]
    ) -> SegmentedSlots:
        """Find the slots of images in [-1, 1], with one generator of slot noise per image."""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Pixels that objects and slots share, image by image, and the slots.

    Attributes:
        table: The pixels; images in the order of the data set. A column whose slot id is -1 is no
            slot; one of another id is, even without pixels.
        slots: Every image's slots; `None` where the method has none.
        videos: Number of the video that every image is of; `None` where each stands alone.
        resolution: Side of the images that the model saw, in pixels; `None` without a model.
        scoring_resolution: Shortest side of the segmentations, in pixels; `None` where they had
            several sizes.
        seed: Image i drew its slot noise with seed + i; `None` where nothing was drawn.
    """

    table: PixelTable
    slots: Float[Tensor, "I K D"] | None = None
    videos: Int64[Tensor, " I"] | None = None
    resolution: int | None = None
    scoring_resolution: int | None = None
    seed: int | None = None

    def __len__(self) -> int:
        return len(self.table.counts)


class SegmentationPair(NamedTuple):
    """What was found in one image, and what is there.

    Attributes:
        pred: Segment of every pixel, from 0.
        target: Object id of every pixel, 0 for the background.
        valid: Pixels that count; `None` for all.
        num_slots: How many slots there are, also where some own no pixel; `None` where nobody
            knows more than the segments that pixels have.
    """

    pred: Integer[Tensor, "h w"]
    target: Integer[Tensor, "h w"]
    valid: Bool[Tensor, "h w"] | None = None
    num_slots: int | None = None


def predict(
    pipe: SegmentationPipeline,
    dataset: Dataset,
    *,
    resolution: int | None = None,
    scoring_resolution: ScoringSize | None = None,
    seed: int = 0,
    batch_size: int = 32,
    num_images: int | None = None,
    progress: bool = True,
) -> Predictions:
    """Segment a data set with a pipeline, and count what its slots share with the objects.

    Arguments are those of `latentslots.evaluation.evaluate`. Where `torch.distributed` runs, every
    process must call this; they share the images, and all get the predictions of all images.
    """
    total = count_images(dataset, num_images)
    videos = _videos(dataset, total)
    dataset = labeled(dataset)
    resolution = pipe.resolution if resolution is None else resolution
    size: ScoringSize = resolution if scoring_resolution is None else scoring_resolution
    rank, num_processes = own_process()
    indices = range(rank, total, num_processes)
    tables: list[PixelTable] = []
    slots: list[Tensor] = []
    sides: set[int] = set()
    with tqdm(total=len(indices), disable=not progress or rank > 0, unit="image") as bar:
        for start in range(0, len(indices), batch_size):
            batch = indices[start : start + batch_size]
            examples = [_load(dataset, i, resolution, size) for i in batch]
            generators = [torch.Generator().manual_seed(seed + i) for i in batch]
            pixel_values = torch.stack([example.pixel_values for example in examples])
            with torch.no_grad():
                output = pipe.encode_pixel_values(pixel_values, generator=generators)
            tables += _tabulate(output, examples)
            slots.append(output.slots.float().cpu())
            sides |= {min(example.segmentation.shape) for example in examples}
            bar.update(len(batch))
    if num_processes > 1:
        tables, slots, sides = _gather(tables, slots, sides)
    return Predictions(
        table=_join(tables),
        slots=torch.cat(_same_number(slots)),
        videos=videos,
        resolution=resolution,
        scoring_resolution=sides.pop() if len(sides) == 1 else None,
        seed=seed,
    )


def predict_with(
    segment: Callable[[Tensor], Tensor],
    dataset: Dataset,
    *,
    resolution: int,
    scoring_resolution: ScoringSize | None = None,
    num_slots: int | None = None,
    num_images: int | None = None,
    progress: bool = True,
) -> Predictions:
    """Segment a data set with a method that has no slots.

    Args:
        segment: Maps an image, `[3, H, W]` in [-1, 1], to the id of every pixel's segment,
            `[H, W]` from 0.
        dataset: As in `predict`.
        resolution: Side of the images, in pixels.
        scoring_resolution: As in `predict`; segments are brought to it by the nearest pixel.
        num_slots: See `SegmentationPair`.
        num_images: At most so many images, from the start of the data set. By default all.
        progress: Whether to show a progress bar on stderr.
    """
    total = count_images(dataset, num_images)
    videos = _videos(dataset, total)
    dataset = labeled(dataset)
    size: ScoringSize = resolution if scoring_resolution is None else scoring_resolution

    def pairs() -> Iterator[SegmentationPair]:
        for index in tqdm(range(total), disable=not progress, unit="image"):
            example = _load(dataset, index, resolution, size)
            target = example.segmentation
            pred = resize_ids(segment(example.pixel_values), (target.shape[0], target.shape[1]))
            yield SegmentationPair(pred, target, example.valid, num_slots)

    return replace(predictions_of_pairs(pairs()), videos=videos, resolution=resolution)


def predictions_of_pairs(images: Iterator[SegmentationPair]) -> Predictions:
    """Take segmentations that something made elsewhere.

    Raises:
        ValueError: If there are none.
    """
    tables, sides = [], set()
    for pred, target, valid, num_slots in images:
        counted = None if valid is None else valid[None]
        table = tabulate(pred[None], target[None], num_slots=num_slots, valid=counted)
        if num_slots is None:
            owns = table.counts.sum(dim=1) > 0
            table = table._replace(slot_ids=torch.where(owns, table.slot_ids, -1))
        tables.append(table)
        sides.add(min(target.shape))
    if not tables:
        raise ValueError("there is no image to score: segmentations is empty")
    return Predictions(
        table=_join(tables), scoring_resolution=sides.pop() if len(sides) == 1 else None
    )


def _videos(dataset: Dataset, num_images: int) -> Int64[Tensor, " I"] | None:
    """Number of the video of every image; `None` where there are none, or of one image each."""
    if "video" not in dataset.column_names:
        return None
    names = dataset.select_columns(["video"]).select(range(num_images))["video"]
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return None if len(number) == num_images else torch.tensor([number[name] for name in names])


def labeled(dataset: Dataset) -> Dataset:
    """Keep the columns that are scored, so that nothing else is decoded."""
    columns = set(dataset.column_names)
    if not columns >= {"image", "segmentation"}:
        raise ValueError(
            "a data set without masks has no segmentation metrics: the columns 'image' and "
            f"'segmentation' are needed, but there are only {sorted(columns)}"
        )
    return dataset.select_columns(sorted(columns & {"image", "segmentation", "ignore"}))


def with_objects(dataset: Dataset, min_objects: int) -> Dataset:
    """The images that show at least so many objects; ids other than 0 are counted.

    Raises:
        ValueError: If the data set has no segmentations, or no image shows as many.
    """
    if "segmentation" not in dataset.column_names:
        raise ValueError(
            f"counting objects needs a column 'segmentation', there is {dataset.column_names}"
        )
    masks = dataset.select_columns(["segmentation"])

    def count(row: dict[str, Any]) -> int:
        ids = np.unique(to_ids(row["segmentation"]).numpy())
        return int((ids != 0).sum())

    keep = [index for index, row in enumerate(masks) if count(row) >= min_objects]
    if not keep:
        raise ValueError(f"no image has {min_objects} objects or more")
    return dataset.select(keep)


def count_images(dataset: Dataset, num_images: int | None) -> int:
    """How many images are scored.

    Raises:
        ValueError: If there would be none.
    """
    total = len(dataset) if num_images is None else min(num_images, len(dataset))
    if total < 1:
        raise ValueError(
            f"there is no image to score: the data set has {len(dataset)}, and num_images is "
            f"{num_images}; both must be at least 1"
        )
    return total


@dataclass(frozen=True)
class _Example:
    pixel_values: Float[Tensor, "3 H W"]
    segmentation: Int[Tensor, "h w"]
    valid: Bool[Tensor, "h w"]


def _load(dataset: Dataset, index: int, resolution: int, size: ScoringSize) -> _Example:
    row = dataset[index]
    picture, truth = row["image"], row["segmentation"]
    if truth is None:
        raise ValueError(
            "a data set without masks has no segmentation metrics: the column 'segmentation' is "
            f"empty at image {index}"
        )
    image, _ = ResizeCenterCrop(resolution)(picture)
    side = min(truth.size) if size == "native" else size
    segmentation = _crop_ids(picture, truth, side)
    valid = torch.ones_like(segmentation, dtype=torch.bool)
    if row.get("ignore") is not None:
        valid = _crop_ids(picture, row["ignore"], side) == 0
    return _Example(to_pixel_values(image), segmentation, valid)


def _crop_ids(picture: Image.Image, ids: Image.Image, side: int) -> Int[Tensor, "h w"]:
    _, cropped = ResizeCenterCrop(side)(picture, ids)
    assert cropped is not None
    return to_ids(cropped)


def _tabulate(output: SegmentedSlots, examples: list[_Example]) -> list[PixelTable]:
    """The tables of a batch, whose truths may differ in size."""
    num_slots = output.slots.shape[1]
    sizes = [(len(e.segmentation), e.segmentation.shape[1]) for e in examples]
    found = {size: output.segmentation(size).cpu() for size in set(sizes)}
    tables = []
    for size in found:  # one of them, but for images that are scored at their own size
        images = [i for i, other in enumerate(sizes) if other == size]
        table = tabulate(
            found[size][images],
            torch.stack([examples[i].segmentation for i in images]),
            num_slots=num_slots,
            valid=torch.stack([examples[i].valid for i in images]),
        )
        if output.slots_mask is not None:
            exists = output.slots_mask[images].cpu()
            table = table._replace(slot_ids=torch.where(exists, table.slot_ids, -1))
        tables += [
            (i, PixelTable(*(values[row : row + 1] for values in table)))
            for row, i in enumerate(images)
        ]
    return [table for _, table in sorted(tables, key=lambda entry: entry[0])]


def _same_number(slots: list[Tensor]) -> list[Tensor]:
    """Slots of several batches, padded with slots that do not exist."""
    most = max(part.shape[1] for part in slots)
    return [F.pad(part, (0, 0, 0, most - part.shape[1])) for part in slots]


def _join(tables: list[PixelTable]) -> PixelTable:
    """One table for all images, padded where some have fewer objects or slots."""
    rows = max(table.counts.shape[1] for table in tables)
    columns = max(table.counts.shape[2] for table in tables)

    def grow(values: Tensor, size: int, fill: int) -> Int64[Tensor, "_ _"]:
        return F.pad(values, (0, size - values.shape[1]), value=fill)

    counts = [
        F.pad(
            table.counts, (0, columns - table.counts.shape[2], 0, rows - table.counts.shape[1])
        ).int()
        for table in tables
    ]
    return PixelTable(
        torch.cat(counts).cpu(),
        torch.cat([grow(table.object_ids, rows, -1) for table in tables]).cpu(),
        torch.cat([grow(table.slot_ids, columns, -1) for table in tables]).cpu(),
    )


def own_process() -> tuple[int, int]:
    """Rank of this process, and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def all_processes(value: bool) -> bool:
    """Whether something holds in every process; all must ask."""
    if own_process()[1] == 1:
        return value
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return all(values)


def _gather(
    tables: list[PixelTable], slots: list[Tensor], sides: set[int]
) -> tuple[list[PixelTable], list[Tensor], set[int]]:
    """The predictions of all processes, image by image in the order of the data set."""
    mine = (_join(tables), torch.cat(_same_number(slots)), sides) if tables else None
    shares: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(shares, mine)
    shares = [share for share in shares if share is not None]
    all_tables, all_slots, all_sides = zip(*shares, strict=True)
    # Process r has seen the images r, r + processes, ...: dealing them out restores the order.
    total = sum(len(part) for part in all_slots)
    order = [(i % len(shares), i // len(shares)) for i in range(total)]
    ordered = [
        PixelTable(*(values[i : i + 1] for values in all_tables[share])) for share, i in order
    ]
    return ordered, [all_slots[share][i : i + 1] for share, i in order], set().union(*all_sides)
