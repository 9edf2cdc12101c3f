"""Measure generated images against the real images of a data set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from jaxtyping import Float
from PIL import Image
from torch import Generator, Tensor

from latentslots.config.sampling import Sampling
from latentslots.data.store.reader import dataset_fingerprint, load_dataset
from latentslots.data.transforms import to_pixel_values
from latentslots.editing import pad
from latentslots.evaluation.features import load_features
from latentslots.evaluation.generation import (
    PATCH_SIZE,
    GenerationReport,
    compare_with_real,
    compositional_consistency,
)
from latentslots.evaluation.report.evaluation_report import versions
from latentslots.files import to_json, write_together
from latentslots.pipelines.lsd import LatentSlotDiffusionPipeline
from latentslots.pipelines.sampling import sample_images, use_sampling
from latentslots.workflows.compose import SceneBatch
from latentslots.workflows.provenance import model_hash

REPORT_FORMAT = 1
"""Format of the `report.json` of generated images."""

BATCH_SIZE = 32


@dataclass(frozen=True)
class Reference:
    """Real images, and the features by which generated images are compared with them.

    Attributes:
        dataset: Real images: the first ones are the reference; the distance of as many further
            images to them is the floor.
        features: Maps images in [0, 1] to features.
        name: Name of the features.
    """

    dataset: Dataset
    features: Any
    name: str


def load_reference(
    path: str, split: str, features: str, *, num_scenes: int, resolution: int
) -> Reference:
    """Load real images and features, and check that as many scenes can be measured against them.

    Args:
        path: The data set.
        split: Its split.
        features: See `load_features`.
        num_scenes: How many images are going to be generated.
        resolution: Their pixels per side.

    Raises:
        ValueError: If there are fewer real images than scenes, only one scene, or patches do not
            fill the images.
    """
    dataset = load_dataset(path, split=split)
    if num_scenes < 2:
        raise ValueError(f"a distance needs two scenes or more, got {num_scenes}")
    if resolution % PATCH_SIZE:
        raise ValueError(
            f"--reference shuffles patches of {PATCH_SIZE} px, which do not fill images of "
            f"{resolution} px"
        )
    if len(dataset) < num_scenes:
        raise ValueError(
            f"{num_scenes} scenes need as many real images, but the data set has {len(dataset)}"
        )
    return Reference(dataset, *load_features(features))


def measure(
    pipe: LatentSlotDiffusionPipeline,
    scenes: SceneBatch,
    folder: Path,
    reference: Reference,
    sampling: Sampling,
    *,
    command: str = "",
) -> GenerationReport:
    """Write `report.json` and `report.md` beside the generated images of scenes.

    `report.json` holds the scores, and what is needed to reproduce them: hashes of model and
    images, versions, and the command.

    Args:
        pipe: The pipeline that generated them.
        scenes: The scenes that they were generated from.
        folder: Folder that contains NAME.png of each scene, a single image.
        reference: Real images and features.
        sampling: How the images were sampled.
        command: The command line, for the report.
    """
    use_sampling(pipe, sampling)
    count, dataset = len(scenes.names), reference.dataset
    images = torch.stack([_read(folder / f"{name}.png") for name in scenes.names])
    consistency = None
    if scenes.library is not None:
        consistency = compositional_consistency(
            pipe,
            scenes.slots,
            images,
            scenes.library.slots,
            slots_mask=scenes.slots_mask,
            seed=sampling.seed,
        )
    real = _real_images(pipe, dataset, 0, count)
    others = _real_images(pipe, dataset, count, 2 * count) if len(dataset) >= 2 * count else None
    report = compare_with_real(
        reference.features,
        images,
        real,
        others,
        reconstructions=_reconstruct(pipe, real, sampling),
        name=reference.name,
        sampler=type(pipe.scheduler).__name__,
        sampling=sampling,
        consistency=consistency,
    )
    content = {
        "format": REPORT_FORMAT,
        "command": command,
        "model_hash": model_hash(pipe),
        "data_hash": dataset_fingerprint(dataset),
        **report.to_dict(),
        **versions(),
    }
    files = {"report.json": to_json(content), "report.md": report.to_markdown()}
    write_together(folder, files)
    return report


def _reconstruct(
    pipe: LatentSlotDiffusionPipeline, images: Float[Tensor, "B 3 H W"], sampling: Sampling
) -> Float[Tensor, "B 3 H W"]:
    """Encode images, and sample images from their slots."""
    scenes = []
    for start in range(0, len(images), BATCH_SIZE):
        pixel_values = images[start : start + BATCH_SIZE] * 2 - 1
        seeds = range(sampling.seed + start, sampling.seed + start + len(pixel_values))
        generators = [Generator().manual_seed(seed) for seed in seeds]
        out = pipe.encode_pixel_values(pixel_values, generator=generators)
        exist = out.slots_mask
        scenes += [slots if exist is None else slots[exist[i]] for i, slots in enumerate(out.slots)]
    slots, exist = pad([scene[None].float().cpu() for scene in scenes])
    return sample_images(pipe, slots, exist, sampling=sampling, progress=False)


def _read(path: Path) -> Float[Tensor, "3 H W"]:
    with Image.open(path) as image:
        return (to_pixel_values(image) + 1) / 2


def _real_images(
    pipe: LatentSlotDiffusionPipeline, dataset: Dataset, start: int, stop: int
) -> Float[Tensor, "B 3 H W"]:
    rows = dataset.select(range(start, stop))
    return torch.cat([(pipe.preprocess(row["image"]) + 1) / 2 for row in rows])
