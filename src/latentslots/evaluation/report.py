"""Reports as files: numbers for programs, a table and pictures for people."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image

from latentslots.data.transforms import ResizeCenterCrop, to_ids, to_pixel_values
from latentslots.evaluation.segmentation import SegmentationReport
from latentslots.visualize import grid, overlay, slot_strip, to_pil

REPORT_FORMAT = 1


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


def draw_examples(
    pipe: Any, dataset: Dataset, *, num_images: int = 8, seed: int = 0
) -> Image.Image:
    """Rows of image, true segmentation, found segmentation, and what every slot sees.

    Args:
        pipe: Finds slots and their masks.
        dataset: Has the columns `image` and, for the truth, `segmentation`.
        num_images: Rows, from the start of the data set.
        seed: Image i draws its slots' start from seed + i.
    """
    crop = ResizeCenterCrop(pipe.resolution)
    rows = []
    for index in range(min(num_images, len(dataset))):
        row = dataset[index]
        picture, truth = crop(row["image"], row.get("segmentation"))
        pixels = to_pixel_values(picture)
        generator = [torch.Generator().manual_seed(seed + index)]
        scene = pipe.encode_pixel_values(pixels[None], generator=generator)
        found = scene.segmentation(tuple(pixels.shape[-2:]))[0].cpu()
        strip = slot_strip(picture, scene.masks[0].float().cpu(), with_image=False)
        pictures = [overlay(picture, found), strip]
        if truth is not None:
            pictures.insert(0, overlay(picture, to_ids(truth)))
        rows.append([to_pil(picture), *pictures])
    first = "image, truth, found, slots" if len(rows[0]) == 4 else "image, found, slots"
    return grid(rows, captions=[first] + [""] * (len(rows) - 1))


def write_report(
    report: SegmentationReport,
    pipe: Any,
    dataset: Dataset,
    output_dir: Path,
    *,
    conditions: dict[str, Any],
    baselines: dict[str, SegmentationReport] | None = None,
) -> None:
    """Write `report.json`, `report.md` and `examples.png`.

    Args:
        report: The scores.
        pipe: The pipeline that was scored, to draw examples.
        dataset: What it was scored on.
        output_dir: Where the files go.
        conditions: What else one must know to repeat it, such as the model and the data set.
        baselines: Scores of other methods on the same images.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    packages = {name: version(name) for name in ("latentslots", "torch", "diffusers")}
    content = {
        "format": REPORT_FORMAT,
        "conditions": conditions,
        "packages": packages,
        "segmentation": report.to_dict(),
    }
    if baselines:
        content["baselines"] = {name: other.to_dict() for name, other in baselines.items()}
    text = json.dumps(content, indent=2) + "\n"
    (output_dir / "report.json").write_text(text, encoding="utf-8")
    about = "\n".join(f"- {name}: {value}" for name, value in conditions.items())
    markdown = f"# Segmentation\n\n{about}\n\n{report.to_markdown(baselines)}"
    (output_dir / "report.md").write_text(markdown, encoding="utf-8")
    seed = report.seed or 0
    draw_examples(pipe, dataset, seed=seed).save(output_dir / "examples.png")
