"""What a slot model must beat on the same images: itself untrained, and color without learning.

Dimensions: H W pixels.
"""

import json
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from jaxtyping import Float64, Int64
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from latentslots.config.conventions import Convention, ScoringSize
from latentslots.evaluation.predictions import Predictions, predict, predict_with
from latentslots.evaluation.segmentation import SegmentationReport, evaluate_baseline, score
from latentslots.visualize import rgb_to_lab, to_uint8

POSITION_WEIGHTS = (0.0, 12.5, 25.0, 50.0, 100.0, 200.0)


def predict_baselines(
    pipe: Any,
    dataset: Dataset,
    *,
    tuning: Dataset | None = None,
    num_colors: int | None = None,
    resolution: int | None = None,
    scoring_resolution: ScoringSize | None = None,
    seed: int = 0,
    batch_size: int = 32,
    num_images: int | None = None,
    progress: bool = True,
) -> dict[str, Predictions]:
    """Segment with the same model untrained, k-means on color, and connected pieces of one color.

    Args:
        pipe: The pipeline to be compared.
        dataset: As in `evaluate`, like all that is not explained here.
        tuning: Other images with masks. When given, k-means on color and place is scored too, with
            as many clusters as slots (as in training and, where that is another number, as are
            looked for) and the weight that `tune_position_weight` finds on them.
        num_colors: Colors to tell apart, see `cluster_pixels`. By default as many as the pipeline
            had slots in training.
        resolution: Side of the images, in pixels. By default the one the model was trained at.
        scoring_resolution: As in `evaluate`.
        seed: Of the untrained weights and their slot noise, and of the first guess at the colors.
        batch_size: As in `evaluate`.
        num_images: As in `evaluate`.
        progress: Whether to show progress bars on stderr.
    """
    resolution = pipe.resolution if resolution is None else resolution
    num_colors = pipe.slot_encoder.config.num_slots if num_colors is None else num_colors
    common: dict[str, Any] = {
        "resolution": resolution,
        "scoring_resolution": scoring_resolution,
        "num_images": num_images,
        "progress": progress,
    }
    fresh = untrained(pipe, seed=seed)
    found = {"untrained": predict(fresh, dataset, seed=seed, batch_size=batch_size, **common)}
    # Of connected pieces nobody knows more than those that pixels have.
    groupings: dict[str, tuple[Any, int | None]] = {
        f"k-means, {num_colors} colors": (
            partial(cluster_pixels, num_clusters=num_colors),
            num_colors,
        ),
        f"connected, {num_colors} colors": (
            partial(connected_components, num_clusters=num_colors),
            None,
        ),
    }
    if tuning is not None:
        for number in sorted({pipe.slot_encoder.config.num_slots, pipe.num_slots}):
            weight = tune_position_weight(tuning, number, resolution=resolution, seed=seed)
            groupings[f"k-means, {number} colors and places, weight {weight:g}"] = (
                partial(cluster_pixels, num_clusters=number, position_weight=weight),
                number,
            )
    for name, (group, num_slots) in groupings.items():
        found[name] = predict_with(
            partial(group, seed=seed), dataset, num_slots=num_slots, **common
        )
    return found


def evaluate_baselines(
    pipe: Any, dataset: Dataset, *, convention: Convention = "iou", **options: Any
) -> dict[str, SegmentationReport]:
    """Score what `predict_baselines` finds.

    Args:
        pipe: The pipeline to be compared.
        dataset: As in `evaluate`.
        convention: How mIoU and mBO are computed.
        **options: Those of `predict_baselines`.
    """
    found = predict_baselines(pipe, dataset, **options)
    return {name: score(one, convention=convention) for name, one in found.items()}


def tune_position_weight(
    dataset: Dataset,
    num_clusters: int,
    *,
    resolution: int,
    num_images: int = 100,
    seed: int = 0,
) -> float:
    """The weight of place with which `cluster_pixels` scores best, of `POSITION_WEIGHTS`.

    Best is the highest sum of FG-ARI and mIoU: a higher weight gains the one and loses the other.

    Args:
        dataset: Images with masks, which are not those to be scored.
        num_clusters: See `cluster_pixels`.
        resolution: Side of the images, in pixels.
        num_images: So many of them, from the start.
        seed: See `cluster_pixels`.
    """

    def sum_of_scores(weight: float) -> float:
        segment = partial(
            cluster_pixels, num_clusters=num_clusters, position_weight=weight, seed=seed
        )
        report = evaluate_baseline(
            segment, dataset, resolution=resolution, num_images=num_images, progress=False
        )
        return report.fg_ari + report.miou_objects

    return max(POSITION_WEIGHTS, key=sum_of_scores)


def untrained(pipe: Any, *, seed: int = 0) -> Any:
    """The same pipeline with all that learned to find slots and their masks fresh.

    A pretrained transformer stays as it is. Masks are of the same kind. Slots are not merged, and
    as many as in training: untrained ones see the same, and all would become one.
    """
    learned = {"encoder", "slot_encoder", "patch_decoder", "decoder"}
    learned |= {"unet"} if pipe.mask_source == "cross-attention" else set()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = {
            name: _fresh(part)
            for name, part in pipe.components.items()
            if name in learned
            and part is not None
            and any(weights.requires_grad for weights in part.parameters())
        }
    found = type(pipe)(**{**pipe.components, **fresh}, resolution=pipe.resolution)
    if pipe.mask_source == "attention":
        found.use_attention_masks()
    return found


def _fresh(part: Any) -> Any:
    # As it is saved: in memory the denoiser's config also has what it tells its parent class.
    fresh = type(part).from_config(json.loads(part.to_json_string())).to(part.device)
    # diffusers warns of every change of type, also of one that changes nothing.
    return fresh if fresh.dtype == part.dtype else fresh.to(part.dtype)


def cluster_pixels(
    image: Image.Image | np.ndarray | Tensor,
    num_clusters: int,
    *,
    position_weight: float = 0.0,
    seed: int = 0,
) -> Int64[Tensor, "H W"]:
    """Group the pixels of one image by color, or by color and place, with k-means.

    Colors are compared in CIE L*a*b*, where a difference of 1 is just visible and black and white
    are 100 apart. Choose `num_clusters` as the number of colors to tell apart: NLVR shows three
    colors on gray, and with 4 clusters and no position FG-ARI is 0.556 on its 935 development
    images with two objects or more (README). Objects of one color stay one cluster then; a weight
    on position tells them apart, and breaks the background up.

    Args:
        image: A picture as `latentslots.visualize.to_pil` takes it.
        num_clusters: At most so many clusters. An image with fewer different pixels has fewer.
        position_weight: What the way across the image (its longer side) weighs, in the units of
            L*a*b*. 0 ignores the place.
        seed: Of the first guess at the clusters.

    Returns:
        Cluster of every pixel, from 0.
    """
    if num_clusters < 1:
        raise ValueError(f"num_clusters must be at least 1, got {num_clusters}")
    if position_weight < 0:
        raise ValueError(f"position_weight must be 0 or above, got {position_weight}")
    # Imported here, because only the baselines need it, and it takes a second.
    from sklearn.cluster import KMeans

    pixels = to_uint8(image)
    features = _features(pixels, position_weight)
    # Equal pixels are clustered as one with a weight: the same result, sooner on drawn images.
    points, where, weights = np.unique(features, axis=0, return_inverse=True, return_counts=True)
    kmeans = KMeans(min(num_clusters, len(points)), n_init=4, random_state=seed)
    labels = kmeans.fit(points, sample_weight=weights).labels_[where.reshape(-1)]
    return torch.from_numpy(labels.reshape(pixels.shape[:2])).long()


def cluster_features(
    image: Image.Image | np.ndarray | Tensor, encoder: Any, num_clusters: int, *, seed: int = 0
) -> Int64[Tensor, "H W"]:
    """Group the patches of one image by what a frozen transformer says of them, with k-means.

    Args:
        image: A picture as `latentslots.visualize.to_pil` takes it.
        encoder: A `DINOv2Encoder`.
        num_clusters: At most so many clusters.
        seed: Of the first guess at the clusters.

    Returns:
        Cluster of every pixel, from 0; the nearest patch's.
    """
    if num_clusters < 1:
        raise ValueError(f"num_clusters must be at least 1, got {num_clusters}")
    from sklearn.cluster import KMeans

    pixels = torch.from_numpy(to_uint8(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        features = encoder(pixels.to(encoder.device)).float().cpu()  # [1, C, h, w]
    patches = features[0].flatten(1).T.numpy()
    kmeans = KMeans(min(num_clusters, len(patches)), n_init=4, random_state=seed)
    labels = torch.from_numpy(kmeans.fit(patches).labels_).float()
    grid = labels.view(1, 1, *features.shape[-2:])
    return F.interpolate(grid, pixels.shape[-2:], mode="nearest-exact")[0, 0].long()


def connected_components(
    image: Image.Image | np.ndarray | Tensor,
    num_clusters: int,
    *,
    min_fraction: float = 0.001,
    seed: int = 0,
) -> Int64[Tensor, "H W"]:
    """Group the pixels of one image by color, then split every color into its connected pieces.

    Pixels are connected to their four neighbors. Pieces smaller than `min_fraction` of the image
    are noise and edges: each of their pixels joins the nearest piece that is large enough. If none
    is, all stay as they are. Where objects are flat and seldom touch, this is hard to beat: with 4
    colors FG-ARI is 0.942 on the NLVR images of `cluster_pixels`.

    Args:
        image: A picture as `latentslots.visualize.to_pil` takes it.
        num_clusters: At most so many colors, see `cluster_pixels`.
        min_fraction: Smallest piece, as a share of the image's pixels.
        seed: Of the first guess at the colors.

    Returns:
        Piece of every pixel, from 0; there can be many more pieces than colors.
    """
    if not 0 <= min_fraction <= 1:
        raise ValueError(f"min_fraction must be between 0 and 1, got {min_fraction}")
    colors = cluster_pixels(image, num_clusters, seed=seed).numpy()
    pieces = np.zeros_like(colors)
    num_pieces = 0
    for color in range(colors.max() + 1):
        labels, num_labels = ndimage.label(colors == color)
        pieces[labels > 0] = labels[labels > 0] + num_pieces - 1
        num_pieces += num_labels

    is_large = np.bincount(pieces.reshape(-1)) >= min_fraction * pieces.size
    if is_large.any():
        small = ~is_large[pieces]
        y, x = ndimage.distance_transform_edt(small, return_distances=False, return_indices=True)
        pieces = pieces[y, x]
    _, ids = np.unique(pieces, return_inverse=True)
    return torch.from_numpy(ids.reshape(colors.shape)).long()


def _features(pixels: np.ndarray, position_weight: float) -> Float64[np.ndarray, "P F"]:
    """Color of every pixel, and its place where that counts."""
    height, width = pixels.shape[:2]
    features = rgb_to_lab(pixels).reshape(height * width, 3)
    if position_weight == 0:
        return features
    place = np.indices((height, width)).reshape(2, -1).T * (position_weight / max(height, width))
    return np.concatenate([features, place], axis=1)
