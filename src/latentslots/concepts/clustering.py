"""Collecting the slots of a data set, and clustering them.

Dimensions: M slots in the library, D slot channels, G side of the stored masks, B images, H W
pixels.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from datasets import Dataset
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from latentslots.pipelines.base import SlotPipeline
from latentslots.pipelines.slot_output import SlotOutput

Metric = Literal["cosine", "euclidean"]

MASK_SIZE = 16
AUTO_RANGE = (4, 6, 8, 12, 16, 24, 32, 48)
"""Numbers of concepts that `auto` chooses from."""
SILHOUETTE_SAMPLE = 2000
BATCH_SIZE = 64


class Members(NamedTuple):
    """Slots of a data set, with their masks, the rows of their images, and their indices there."""

    slots: Float[Tensor, "M D"]
    masks: Float[Tensor, "M G G"]
    image: Int[Tensor, " M"]
    number: Int[Tensor, " M"]


def collect_slots(
    pipe: SlotPipeline, dataset: Dataset, *, min_area: float, seed: int, progress: bool
) -> Members:
    """Encode all images, and return the slots that own enough pixels.

    Args:
        pipe: The pipeline.
        dataset: Has the column `image`.
        min_area: Share of its image's pixels that a slot must own.
        seed: Image i draws its slot noise from seed + i.
        progress: Whether to show a progress bar on stderr.

    Raises:
        ValueError: If the data set is empty.
    """
    parts: list[tuple[Tensor, ...]] = []
    with tqdm(total=len(dataset), disable=not progress, unit="image") as bar:
        for start in range(0, len(dataset), BATCH_SIZE):
            rows = range(start, min(start + BATCH_SIZE, len(dataset)))
            _, scenes = encode_rows(pipe, dataset, rows, seed)
            masks = scenes.masks.float().cpu()
            areas = F.one_hot(masks.argmax(dim=1), masks.shape[1]).float().mean(dim=(1, 2))
            large = areas >= min_area
            if scenes.slots_mask is not None:
                large &= scenes.slots_mask.cpu()
            row, number = large.nonzero(as_tuple=True)
            small = F.adaptive_avg_pool2d(masks, MASK_SIZE)
            slots = scenes.slots.float().cpu()
            parts.append((slots[row, number], small[row, number], torch.tensor(rows)[row], number))
            bar.update(len(rows))
    if not parts:
        raise ValueError("the data set is empty, so there are no slots to collect")
    return Members(*(torch.cat(column) for column in zip(*parts, strict=True)))


def encode_rows(
    pipe: SlotPipeline, dataset: Dataset, rows: Sequence[int], seed: int
) -> tuple[Float[Tensor, "B 3 H W"], SlotOutput]:
    """Encode images, each with slot noise of its own seed; returns pixel values and scenes."""
    images = dataset.select_columns(["image"])
    pixel_values = pipe.preprocess([images[row]["image"] for row in rows])
    generators = [Generator().manual_seed(seed + row) for row in rows]
    return pixel_values, pipe.encode_pixel_values(pixel_values, generator=generators)


def cluster(points: Float[Tensor, "M D"], number: int, seed: int) -> Int[Tensor, " M"]:
    """Cluster points by k-means in small batches; cluster 0 is the largest."""
    # Imported here, because composing from a saved library does not need it.
    from sklearn.cluster import MiniBatchKMeans

    means = MiniBatchKMeans(number, random_state=seed, n_init=3, batch_size=1024)
    labels = torch.from_numpy(means.fit_predict(points.numpy())).long()
    used, labels, counts = labels.unique(return_inverse=True, return_counts=True)
    rank = torch.empty_like(used)
    rank[counts.argsort(descending=True, stable=True)] = torch.arange(len(used))
    return rank[labels]


def silhouette(
    points: Float[Tensor, "M D"], labels: Int[Tensor, " M"], metric: Metric, seed: int
) -> float:
    """The mean silhouette of clusters (Rousseeuw, 1987), over at most 2,000 random points."""
    from sklearn.metrics import silhouette_score

    rows = torch.randperm(len(points), generator=Generator().manual_seed(seed))
    rows = rows[:SILHOUETTE_SAMPLE]
    if len(labels[rows].unique()) < 2:
        return -1.0
    return float(silhouette_score(points[rows].numpy(), labels[rows].numpy(), metric=metric))
