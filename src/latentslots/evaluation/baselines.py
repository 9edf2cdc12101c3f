"""Baselines of a slot model: the same model untrained, and clusters of colors.

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
    """Predict with the untrained model, k-means on color, and connected pieces of one color.

    Args:
        pipe: The pipeline that the baselines are compared to.
        dataset: See `evaluate`.
        tuning: Other images with masks. When given, k-means on color and position is a baseline as
            well, with one cluster per slot (the number in training and, if it differs, the number
            at inference) and the weight that `tune_position_weight` selects on these images.
        num_colors: Number of colors, see `cluster_pixels`. By default the number of slots in
            training.
        resolution: Side of the images, in pixels. By default the one the model was trained at.
        scoring_resolution: See `evaluate`.
        seed: Seed of the untrained weights and their slot noise, and of the initial clusters.
        batch_size: See `evaluate`.
        num_images: See `evaluate`.
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
    predictions = {"untrained": predict(fresh, dataset, seed=seed, batch_size=batch_size, **common)}
    # The number of connected pieces depends on the image; all of them own pixels.
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
        predictions[name] = predict_with(
            partial(group, seed=seed), dataset, num_slots=num_slots, **common
        )
    return predictions


def evaluate_baselines(
    pipe: Any, dataset: Dataset, *, convention: Convention = "iou", **options: Any
) -> dict[str, SegmentationReport]:
    """Scores of the predictions of `predict_baselines`.

    Args:
        pipe: The pipeline that the baselines are compared to.
        dataset: See `evaluate`.
        convention: How mIoU and mBO are computed.
        **options: Options of `predict_baselines`.
    """
    predictions = predict_baselines(pipe, dataset, **options)
    return {name: score(one, convention=convention) for name, one in predictions.items()}


def tune_position_weight(
    dataset: Dataset,
    num_clusters: int,
    *,
    resolution: int,
    num_images: int = 100,
    seed: int = 0,
) -> float:
    """Select the best weight of position for `cluster_pixels` among `POSITION_WEIGHTS`.

    Best is the highest sum of FG-ARI and mIoU, because a higher weight raises FG-ARI and lowers
    mIoU.

    Args:
        dataset: Images with masks, other than those that are scored.
        num_clusters: See `cluster_pixels`.
        resolution: Side of the images, in pixels.
        num_images: At most this many of them, from the start of the data set.
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
    """Return a pipeline with initial weights in all trained parts that slots and masks depend on.

    A pretrained transformer keeps its weights, and masks keep their source. Slots are as many as in
    training and are not merged, because the masks of untrained slots are almost equal.
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
    initial = type(pipe)(**{**pipe.components, **fresh}, resolution=pipe.resolution)
    if pipe.mask_source == "attention":
        initial.use_attention_masks()
    return initial


def _fresh(part: Any) -> Any:
    # The config as saved, because that of the denoiser in memory also has the arguments of its
    # parent class.
    fresh = type(part).from_config(json.loads(part.to_json_string())).to(part.device)
    # diffusers warns at every cast, even to the same type.
    return fresh if fresh.dtype == part.dtype else fresh.to(part.dtype)


def cluster_pixels(
    image: Image.Image | np.ndarray | Tensor,
    num_clusters: int,
    *,
    position_weight: float = 0.0,
    seed: int = 0,
) -> Int64[Tensor, "H W"]:
    """Cluster the pixels of an image by color, or by color and position, with k-means.

    Colors are compared in CIE L*a*b*, where a difference of 1 is just visible and black and white
    are 100 apart. Choose `num_clusters` as the number of colors: NLVR shows three colors on gray,
    and with 4 clusters and no position FG-ARI is 0.556 on its 935 development images with two
    objects or more (README). Objects of one color are then one cluster; a weight on position
    separates them, and splits the background.

    Args:
        image: An image, as `latentslots.visualize.to_pil` accepts it.
        num_clusters: At most this many clusters. An image with fewer distinct pixels has fewer.
        position_weight: Distance between the ends of the longer side of the image, in the units of
            L*a*b*. 0 ignores positions.
        seed: Seed of the initial clusters.

    Returns:
        Cluster of every pixel, from 0.
    """
    if num_clusters < 1:
        raise ValueError(f"num_clusters must be at least 1, got {num_clusters}")
    if position_weight < 0:
        raise ValueError(f"position_weight must be 0 or above, got {position_weight}")
    # Imported here: only the baselines need it, and it takes a second.
    from sklearn.cluster import KMeans

    pixels = to_uint8(image)
    features = _features(pixels, position_weight)
    # Equal pixels are clustered as one with a weight: the same result, faster on drawn images.
    points, where, weights = np.unique(features, axis=0, return_inverse=True, return_counts=True)
    kmeans = KMeans(min(num_clusters, len(points)), n_init=4, random_state=seed)
    labels = kmeans.fit(points, sample_weight=weights).labels_[where.reshape(-1)]
    return torch.from_numpy(labels.reshape(pixels.shape[:2])).long()


def cluster_features(
    image: Image.Image | np.ndarray | Tensor, encoder: Any, num_clusters: int, *, seed: int = 0
) -> Int64[Tensor, "H W"]:
    """Cluster the patches of an image by their features from a frozen transformer, with k-means.

    Args:
        image: An image, as `latentslots.visualize.to_pil` accepts it.
        encoder: A `DINOv2Encoder`.
        num_clusters: At most this many clusters.
        seed: Seed of the initial clusters.

    Returns:
        Cluster of every pixel, from 0: that of the nearest patch.
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
    """Cluster the pixels of an image by color, then split every color into connected pieces.

    Pixels are connected to their four neighbors. Pieces smaller than `min_fraction` of the image
    are noise and edges: each of their pixels joins the nearest piece that is large enough, if there
    is one. Where objects are flat and rarely touch, this baseline is strong: with 4 colors, FG-ARI
    is 0.942 on the NLVR images of `cluster_pixels`.

    Args:
        image: An image, as `latentslots.visualize.to_pil` accepts it.
        num_clusters: At most this many colors, see `cluster_pixels`.
        min_fraction: Size of the smallest piece, as a share of the image's pixels.
        seed: Seed of the initial colors.

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
    """Color of every pixel, and its position if that has a weight."""
    height, width = pixels.shape[:2]
    features = rgb_to_lab(pixels).reshape(height * width, 3)
    if position_weight == 0:
        return features
    position = np.indices((height, width)).reshape(2, -1).T
    return np.concatenate([features, position * (position_weight / max(height, width))], axis=1)
