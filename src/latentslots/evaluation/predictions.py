"""Predictions of a method on a data set: its segmentations beside the ground truth, and its slots.

A segmentation is stored as a small table of the pixels that objects and slots share. Every score is
a function of these tables and slots, so one inference pass serves all conventions, probes and
intervals.

Dimensions: I images, N rows of a table (row 0 is the background), K slots, D slot channels,
H W pixels of an image, h w of its ground truth.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from datasets import Dataset
from jaxtyping import Bool, Float, Int64, Integer
from torch import Tensor
from tqdm.auto import tqdm

from latentslots.config.conventions import ScoringSize
from latentslots.data.transforms import resize_ids
from latentslots.evaluation.labeled_images import LabeledImage, LabeledImages
from latentslots.evaluation.processes import own_process, own_share
from latentslots.metrics import PixelTable, tabulate
from latentslots.metrics.accumulate import TABLE_PADDING, PaddedCat


@runtime_checkable
class SegmentedSlots(Protocol):
    """The part of a `SlotOutput` that `predict` reads."""

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
    """The part of a pipeline that `predict` uses."""

    @property
    def resolution(self) -> int:
        """Side, in pixels, of the images that the model was trained on."""

    @property
    def device(self) -> torch.device:
        """The device on which the model runs."""

    def encode_pixel_values(
        self, pixel_values: Tensor, *, generator: list[torch.Generator]
    ) -> SegmentedSlots:
        """Encode images in [-1, 1] as slots, with one generator of slot noise per image."""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Pixels that objects and slots share, image by image, and the slots.

    Attributes:
        table: The pixels; images in the order of the data set. A column with the slot id -1 is not
            a slot; a column with another id is one, even without pixels.
        slots: Slots of every image; `None` where the method has none.
        videos: Number of the video of every image; `None` where each stands alone.
        resolution: Side of the encoded images, in pixels; `None` without a model.
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
    """The predicted and the true segmentation of an image.

    Attributes:
        pred: Segment of every pixel, from 0.
        target: Object id of every pixel, 0 for the background.
        valid: Pixels that count; `None` for all.
        num_slots: Number of segments, including those without pixels; `None` for the segments that
            own a pixel.
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
    """Segment a data set with a pipeline, and count the pixels that slots share with objects.

    Arguments are those of `latentslots.evaluation.evaluate`. Where `torch.distributed` runs, every
    process must call this; they share the images, and all return the predictions of all images.
    """
    resolution = pipe.resolution if resolution is None else resolution
    images = LabeledImages(
        dataset,
        resolution=resolution,
        scoring_resolution=scoring_resolution,
        num_images=num_images,
    )
    rank, num_processes = own_process()
    collected = PaddedCat({**TABLE_PADDING, "sides": 0, "slots": 0})
    if num_processes > 1:
        collected = collected.to(pipe.device)  # NCCL gathers from GPUs only
    share = own_share(len(images))
    if not share:
        collected.update(**_columns(_EMPTY_TABLE), slots=torch.zeros(0, 0, 0))
    with tqdm(total=len(share), disable=not progress or rank > 0, unit="image") as bar:
        for start in range(share.start, share.stop, batch_size):
            indices = range(start, min(start + batch_size, share.stop))
            batch = [images[i] for i in indices]
            generators = [torch.Generator().manual_seed(seed + i) for i in indices]
            pixel_values = torch.stack([image.pixel_values for image in batch])
            with torch.no_grad():
                output = pipe.encode_pixel_values(pixel_values, generator=generators)
            slots = output.slots.float().cpu()
            for i, (image, table) in enumerate(zip(batch, _tables(output, batch), strict=True)):
                collected.update(**_columns(table, image.segmentation), slots=slots[i : i + 1])
            bar.update(len(batch))
    with collected.sync_context():
        predictions = _predictions(collected)
    return replace(predictions, videos=images.videos, resolution=resolution, seed=seed)


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
        dataset: See `predict`.
        resolution: Side of the images, in pixels.
        scoring_resolution: See `predict`; each pixel gets the segment of the nearest one.
        num_slots: See `SegmentationPair`.
        num_images: At most this many images, from the start of the data set. By default all.
        progress: Whether to show a progress bar on stderr.
    """
    images = LabeledImages(
        dataset,
        resolution=resolution,
        scoring_resolution=scoring_resolution,
        num_images=num_images,
    )

    def pairs() -> Iterator[SegmentationPair]:
        for index in tqdm(range(len(images)), disable=not progress, unit="image"):
            image = images[index]
            target = image.segmentation
            pred = resize_ids(segment(image.pixel_values), (target.shape[0], target.shape[1]))
            yield SegmentationPair(pred, target, image.valid, num_slots)

    return replace(predictions_from_pairs(pairs()), videos=images.videos, resolution=resolution)


def predictions_from_pairs(pairs: Iterator[SegmentationPair]) -> Predictions:
    """Count the pixels that segments share with objects, in segmentations of any origin.

    Raises:
        ValueError: If there are none.
    """
    collected = PaddedCat({**TABLE_PADDING, "sides": 0})
    for pred, target, valid, num_slots in pairs:
        valid = None if valid is None else valid[None]
        table = tabulate(pred[None], target[None], num_slots=num_slots, valid=valid)
        collected.update(**_columns(table, target))
    if not collected.update_called:
        raise ValueError("there is no image to score: segmentations is empty")
    return _predictions(collected)


def _tables(output: SegmentedSlots, images: list[LabeledImage]) -> Iterator[PixelTable]:
    """The table of each image of a batch, whose ground truths may differ in size."""
    num_slots = output.slots.shape[1]
    sizes = [(image.segmentation.shape[0], image.segmentation.shape[1]) for image in images]
    segmentations = {size: output.segmentation(size).cpu() for size in set(sizes)}
    for i, (image, size) in enumerate(zip(images, sizes, strict=True)):
        table = tabulate(
            segmentations[size][i][None],
            image.segmentation[None],
            num_slots=num_slots,
            valid=image.valid[None],
        )
        if output.slots_mask is not None:
            exists = output.slots_mask[i].cpu()
            table = table._replace(slot_ids=torch.where(exists, table.slot_ids, -1))
        yield table


_EMPTY_TABLE = PixelTable(
    torch.zeros(0, 0, 0, dtype=torch.int64),
    torch.zeros(0, 0, dtype=torch.int64),
    torch.zeros(0, 0, dtype=torch.int64),
)


def _columns(table: PixelTable, target: Tensor | None = None) -> dict[str, Tensor]:
    """Return the table of an image and the shortest side of its ground truth, as columns."""
    sides = torch.tensor([] if target is None else [min(target.shape)], dtype=torch.int64)
    return {**table._asdict(), "sides": sides}


def _predictions(collected: PaddedCat) -> Predictions:
    columns = collected.concatenated()
    sides = sorted(set(columns["sides"].tolist()))
    return Predictions(
        table=PixelTable(
            columns["counts"].int(), columns["object_ids"].long(), columns["slot_ids"].long()
        ),
        slots=columns.get("slots"),
        scoring_resolution=sides[0] if len(sides) == 1 else None,
    )
