"""Scores of a pipeline's segmentations on a data set, and of any other segmentations.

Dimensions: B batch, K slots, H W pixels.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from datasets import Dataset
from jaxtyping import Bool, Float, Int, Integer
from PIL import Image
from torch import Tensor, distributed
from tqdm.auto import tqdm

from latentslots.data.transforms import ResizeCenterCrop, to_ids, to_pixel_values
from latentslots.metrics import Convention, SegmentationMetrics

_METRICS = {
    "fg_ari": "FG-ARI",
    "ari": "ARI",
    "miou_objects": "mIoU, mean over objects",
    "mbo_objects": "mBO, mean over objects",
    "miou_images": "mIoU, mean over images",
    "mbo_images": "mBO, mean over images",
}


@runtime_checkable
class SegmentedSlots(Protocol):
    """What `evaluate` reads of a `SlotOutput`."""

    @property
    def slots(self) -> Tensor:
        """Slots, `[B, K, D]`."""

    def segmentation(self, size: tuple[int, int]) -> Tensor:
        """Slot index of every pixel, `[B, H, W]`, at a height and width."""


@runtime_checkable
class SegmentationPipeline(Protocol):
    """What `evaluate` uses of a pipeline."""

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
class SegmentationReport:
    """Segmentation scores, with everything one must know to compare them.

    Attributes:
        convention: How mIoU and mBO are computed, see `latentslots.metrics.overlap`.
        resolution: Side of the images that the model saw, in pixels; `None` where there was no
            model.
        scoring_resolution: Shortest side of the segmentations that were compared, in pixels; `None`
            where they had several sizes.
        seed: Image i drew its slot noise with seed + i; `None` where there was no model.
        num_images: Images that were scored.
        num_images_without_objects: Images among them without a foreground pixel. They count for
            ARI; for the other means they are left out, except for FG-ARI under `lsd`, where each
            scores 1.
        fg_ari: Adjusted Rand index of the foreground pixels.
        ari: Adjusted Rand index of all pixels.
        miou_objects: IoU of objects and the slots they are matched to, mean over all objects.
        mbo_objects: IoU of objects and their best slots, mean over all objects.
        miou_images: As `miou_objects`, but the mean over the images' means.
        mbo_images: As `mbo_objects`, but the mean over the images' means.
    """

    convention: Convention
    resolution: int | None
    scoring_resolution: int | None
    seed: int | None
    num_images: int
    num_images_without_objects: int
    fg_ari: float
    ari: float
    miou_objects: float
    mbo_objects: float
    miou_images: float
    mbo_images: float

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON: a score that no image had, NaN here, is `None` there."""
        return {name: None if value != value else value for name, value in asdict(self).items()}

    def to_markdown(self, baselines: "dict[str, SegmentationReport] | None" = None) -> str:
        """The scores as a table, and below it one line that says how they were computed.

        Args:
            baselines: Scores of other methods on the same images; a column each.
        """
        reports = {"score": self, **(baselines or {})}
        rows = [
            f"| {name} | {' | '.join(f'{getattr(r, key):.4f}' for r in reports.values())} |"
            for key, name in _METRICS.items()
        ]
        head = [f"| metric | {' | '.join(reports)} |", "|---" * (len(reports) + 1) + "|"]
        conditions = [f"convention `{self.convention}`"]
        if self.resolution is not None:
            conditions.append(f"images at {self.resolution} px")
        scored = "several sizes" if self.scoring_resolution is None else self.scoring_resolution
        conditions.append(f"masks scored at {scored}" + (" px" if self.scoring_resolution else ""))
        if self.seed is not None:
            conditions.append(f"seed {self.seed}")
        conditions.append(
            f"{self.num_images} images, {self.num_images_without_objects} of them without objects"
        )
        note = "; ".join(conditions)
        return "\n".join([*head, *rows, "", f"{note}.", ""])


def evaluate(
    pipe: SegmentationPipeline,
    dataset: Dataset,
    *,
    convention: Convention = "iou",
    resolution: int | None = None,
    scoring_resolution: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
    num_images: int | None = None,
    progress: bool = True,
) -> SegmentationReport:
    """Score a pipeline's segmentations of a data set against the truth.

    Images and true segmentations are resized to the shortest side and cropped to the middle square,
    both alike. Image i draws its slot noise with seed + i, so the batch size changes no number.
    Where `torch.distributed` runs, every process must call this; they share the images, and all
    get the report of all images.

    Args:
        pipe: Finds slots and their masks.
        dataset: Has the columns `image` and `segmentation` (ids, 0 for the background), and may
            have `ignore`, a mask of pixels (not 0) that do not count.
        convention: How mIoU and mBO are computed, see `latentslots.metrics.overlap`.
        resolution: Side of the images, in pixels. By default the one the model was trained at.
        scoring_resolution: Side at which masks are compared, in pixels. By default `resolution`.
        seed: Of the slot noise.
        batch_size: Images to encode at once.
        num_images: At most so many images, from the start of the data set. By default all.
        progress: Whether to show a progress bar on stderr.
    """
    dataset = _select_columns(dataset)
    resolution = pipe.resolution if resolution is None else resolution
    scoring_resolution = resolution if scoring_resolution is None else scoring_resolution
    total = _count(dataset, num_images)

    metrics = SegmentationMetrics(convention=convention)
    rank, num_processes = _process()
    if num_processes > 1:
        metrics.to(pipe.device)  # processes with GPUs add up what is on the GPUs
    indices = range(rank, total, num_processes)
    with tqdm(total=len(indices), disable=not progress or rank > 0, unit="image") as bar:
        for start in range(0, len(indices), batch_size):
            batch = indices[start : start + batch_size]
            examples = [_load(dataset, i, resolution, scoring_resolution) for i in batch]
            generators = [torch.Generator().manual_seed(seed + i) for i in batch]
            _score(metrics, pipe, examples, generators)
            bar.update(len(batch))
    return _report(metrics, resolution=resolution, scoring_resolution=scoring_resolution, seed=seed)


def evaluate_baseline(
    segment: Callable[[Tensor], Tensor],
    dataset: Dataset,
    *,
    resolution: int,
    convention: Convention = "iou",
    num_images: int | None = None,
    progress: bool = True,
) -> SegmentationReport:
    """Score a method without slots on the same images, and the same pixels, as `evaluate`.

    Args:
        segment: Maps an image, `[3, H, W]` in [-1, 1], to the id of every pixel's segment,
            `[H, W]` from 0.
        dataset: As in `evaluate`.
        resolution: Side of the images and of the masks that are compared, in pixels.
        convention: How mIoU and mBO are computed, see `latentslots.metrics.overlap`.
        num_images: At most so many images, from the start of the data set. By default all.
        progress: Whether to show a progress bar on stderr.
    """
    dataset = _select_columns(dataset)
    metrics = SegmentationMetrics(convention=convention)
    for index in tqdm(range(_count(dataset, num_images)), disable=not progress, unit="image"):
        example = _load(dataset, index, resolution, resolution)
        pred = segment(example.pixel_values)
        metrics.update(pred[None], example.segmentation[None], valid=example.valid[None])
    return _report(metrics, resolution=resolution, scoring_resolution=resolution, seed=None)


def evaluate_predictions(
    segmentations: Iterable[Integer[Tensor, "_ _"]],
    targets: Iterable[Integer[Tensor, "_ _"]],
    *,
    convention: Convention = "iou",
) -> SegmentationReport:
    """Score segmentations that something other than a pipeline made, such as a baseline.

    Args:
        segmentations: Cluster or slot id of every pixel, one image after the other. Batched
            tensors `[N, H, W]` will do.
        targets: Object id of every pixel, 0 for the background, each of the size of its prediction.
        convention: How mIoU and mBO are computed, see `latentslots.metrics.overlap`.

    Example:
        >>> target = torch.tensor([[[0, 0, 1], [0, 2, 2]]])
        >>> evaluate_predictions(2 - target, target).fg_ari
        1.0
    """
    metrics = SegmentationMetrics(convention=convention)
    sides = set()
    for pred, target in zip(segmentations, targets, strict=True):
        metrics.update(pred[None], target[None])
        sides.add(min(target.shape))
    if not sides:
        raise ValueError("there is no image to score: segmentations is empty")
    side = sides.pop() if len(sides) == 1 else None
    return _report(metrics, resolution=None, scoring_resolution=side, seed=None)


def _report(
    metrics: SegmentationMetrics,
    *,
    resolution: int | None,
    scoring_resolution: int | None,
    seed: int | None,
) -> SegmentationReport:
    scores: dict[str, Any] = {name: value.item() for name, value in metrics.compute().items()}
    return SegmentationReport(
        convention=metrics.convention,
        resolution=resolution,
        scoring_resolution=scoring_resolution,
        seed=seed,
        **scores,
    )


@dataclass(frozen=True)
class _Example:
    pixel_values: Float[Tensor, "3 H W"]
    segmentation: Int[Tensor, "h w"]
    valid: Bool[Tensor, "h w"]


def _load(dataset: Dataset, index: int, resolution: int, scoring_resolution: int) -> _Example:
    row = dataset[index]
    picture, truth = row["image"], row["segmentation"]
    if truth is None:
        raise ValueError(
            "a data set without masks has no segmentation metrics: the column 'segmentation' is "
            f"empty at image {index}"
        )
    image, _ = ResizeCenterCrop(resolution)(picture)
    segmentation = _crop_ids(picture, truth, scoring_resolution)
    valid = torch.ones_like(segmentation, dtype=torch.bool)
    if row.get("ignore") is not None:
        valid = _crop_ids(picture, row["ignore"], scoring_resolution) == 0
    return _Example(to_pixel_values(image), segmentation, valid)


def _score(
    metrics: SegmentationMetrics,
    pipe: SegmentationPipeline,
    examples: list[_Example],
    generators: list[torch.Generator],
) -> None:
    """Segment a batch and add its scores."""
    pixel_values = torch.stack([example.pixel_values for example in examples])
    target = torch.stack([example.segmentation for example in examples])
    valid = torch.stack([example.valid for example in examples])
    with torch.no_grad():
        output = pipe.encode_pixel_values(pixel_values, generator=generators)
        pred = output.segmentation((target.shape[1], target.shape[2])).cpu()
    metrics.update(pred, target, num_slots=output.slots.shape[1], valid=valid)


def _crop_ids(picture: Image.Image, ids: Image.Image, resolution: int) -> Int[Tensor, "h w"]:
    _, cropped = ResizeCenterCrop(resolution)(picture, ids)
    assert cropped is not None
    return to_ids(cropped)


def _select_columns(dataset: Dataset) -> Dataset:
    """Keep what is scored, so that nothing else is decoded."""
    columns = set(dataset.column_names)
    if not columns >= {"image", "segmentation"}:
        raise ValueError(
            "a data set without masks has no segmentation metrics: the columns 'image' and "
            f"'segmentation' are needed, but there are only {sorted(columns)}"
        )
    return dataset.select_columns(sorted(columns & {"image", "segmentation", "ignore"}))


def _count(dataset: Dataset, num_images: int | None) -> int:
    """How many images are scored."""
    total = len(dataset) if num_images is None else min(num_images, len(dataset))
    if total < 1:
        raise ValueError(
            f"there is no image to score: the data set has {len(dataset)}, and num_images is "
            f"{num_images}; both must be at least 1"
        )
    return total


def _process() -> tuple[int, int]:
    """Rank of this process, and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
