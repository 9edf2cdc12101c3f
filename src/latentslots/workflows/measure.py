"""Measure scenes that were painted into files."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from jaxtyping import Float
from PIL import Image
from torch import Generator, Tensor

from latentslots.concepts import ConceptLibrary
from latentslots.data.store.reader import dataset_fingerprint
from latentslots.data.transforms import to_pixel_values
from latentslots.editing import pad
from latentslots.evaluation.generation import (
    PATCH_SIZE,
    GenerationReport,
    Sampling,
    compare_with_real,
    compositional_consistency,
    paint,
)
from latentslots.evaluation.report.evaluation_report import versions
from latentslots.pipelines.lsd import LatentSlotDiffusionPipeline
from latentslots.workflows.generate import Scenes
from latentslots.workflows.provenance import model_hash, write_facts

REPORT_FORMAT = 1
"""Of the `report.json` of generated pictures."""

BATCH_SIZE = 32


def measure(
    pipe: LatentSlotDiffusionPipeline,
    scenes: Scenes,
    folder: Path,
    dataset: Dataset,
    features: Any,
    *,
    name: str,
    library: ConceptLibrary | None,
    sampling: Sampling,
    command: str = "",
) -> GenerationReport:
    """Write `report.json` and `report.md` beside the pictures of scenes.

    The former has the numbers, and what is needed to measure them again: hashes of model and
    images, versions, and what was typed.

    Args:
        pipe: What painted them.
        scenes: What they were painted from.
        folder: Where NAME.png of each lies, painted once.
        dataset: Real images: the first ones are the reference, the next as many the floor.
        features: From images in [0, 1] to features, see `load_features`.
        name: What the features are called.
        library: What the scenes were composed of, for their consistency.
        sampling: How they were painted.
        command: What was typed.

    Raises:
        ValueError: If there are fewer real images than scenes.
    """
    count = len(scenes.names)
    check_reference(dataset, count, resolution=pipe.resolution)
    images = torch.stack([_read(folder / f"{scene}.png") for scene in scenes.names])

    consistency = None
    if library is not None:
        consistency = compositional_consistency(
            pipe,
            scenes.slots,
            images,
            library.slots,
            slots_mask=scenes.slots_mask,
            seed=sampling.seed,
        )
    real = _real(pipe, dataset, 0, count)
    report = compare_with_real(
        features,
        images,
        real,
        _real(pipe, dataset, count, 2 * count) if len(dataset) >= 2 * count else None,
        reconstructions=_again(pipe, real, sampling),
        name=name,
        sampler=type(pipe.scheduler).__name__,
        sampling=sampling,
        consistency=consistency,
    )
    _write(report, folder, pipe=pipe, dataset=dataset, command=command)
    return report


def _write(
    report: GenerationReport,
    folder: Path,
    *,
    pipe: LatentSlotDiffusionPipeline,
    dataset: Dataset,
    command: str,
) -> None:
    """The numbers, and what they were measured of and with."""
    facts = {
        "format": REPORT_FORMAT,
        "command": command,
        "model_hash": model_hash(pipe),
        "data_hash": dataset_fingerprint(dataset),
        **report.to_dict(),
        **versions(),
    }
    write_facts(folder / "report.json", facts)
    (folder / "report.md").write_text(report.to_markdown(), encoding="utf-8")


def check_reference(dataset: Dataset, num_scenes: int, *, resolution: int) -> None:
    """Refuse what cannot be measured, before the minutes that painting takes.

    Raises:
        ValueError: If there are fewer real images than scenes, or only one scene, or patches do not
            fill the pictures.
    """
    if num_scenes < 2:
        raise ValueError(f"a distance needs two scenes or more, got {num_scenes}")
    if resolution % PATCH_SIZE:
        raise ValueError(
            f"--reference shuffles patches of {PATCH_SIZE} px, which do not fill pictures of "
            f"{resolution} px"
        )
    if len(dataset) < num_scenes:
        raise ValueError(
            f"{num_scenes} scenes need as many real images, but the data set has {len(dataset)}"
        )


def _again(
    pipe: LatentSlotDiffusionPipeline, images: Float[Tensor, "B 3 H W"], sampling: Sampling
) -> Float[Tensor, "B 3 H W"]:
    """Images painted from the slots that are found in them."""
    found = []
    for start in range(0, len(images), BATCH_SIZE):
        part = images[start : start + BATCH_SIZE] * 2 - 1
        generators = [Generator().manual_seed(sampling.seed + start + i) for i in range(len(part))]
        out = pipe.encode_pixel_values(part, generator=generators)
        exist = out.slots_mask
        found += [slots if exist is None else slots[exist[i]] for i, slots in enumerate(out.slots)]
    slots, mask = pad([scene[None].float().cpu() for scene in found])
    return paint(pipe, slots, mask, sampling=sampling, progress=False)


def _read(path: Path) -> Float[Tensor, "3 H W"]:
    with Image.open(path) as picture:
        return (to_pixel_values(picture) + 1) / 2


def _real(
    pipe: LatentSlotDiffusionPipeline, dataset: Dataset, start: int, stop: int
) -> Float[Tensor, "B 3 H W"]:
    rows = dataset.select(range(start, stop))
    return torch.cat([(pipe.preprocess(row["image"]) + 1) / 2 for row in rows])
