"""`latentslots demo`: a page about what the bundled model does."""

import shutil
from functools import partial
from pathlib import Path

from latentslots.data.store.reader import load_dataset
from latentslots.device import to_device
from latentslots.evaluation.baselines import cluster_pixels, untrained
from latentslots.evaluation.report.html_page import Page
from latentslots.evaluation.segmentation import SegmentationReport, evaluate, evaluate_baseline
from latentslots.pipelines import LatentSlotDiffusionPipeline
from latentslots.workflows.demo.gallery import Gallery, show_concepts
from latentslots.workflows.demo.training import CREDIT, train_fresh_model

CLUSTERINGS = {7: 25.0, 11: 100.0}
"""Clusters of the k-means baselines, as many as the bundled model has slots in training and at
inference, and for each the weight of position that `latentslots evaluate bundled --data data/scenes
--baselines --tune-split train` chooses."""
TITLE = "Objects, found without labels"
"""Title of the page, by which an earlier demo is recognized."""
COLUMNS = ("", "FG-ARI", "ARI", "mIoU", "mBO")
SCORES = ("fg_ari", "ari", "miou_objects", "mbo_objects")


def run_demo(
    output_dir: Path, *, train_minutes: float | None = None, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Segment, evaluate, reconstruct, edit and compose scenes, and write `index.html`.

    Args:
        output_dir: The folder of the page; an earlier demo there is replaced.
        train_minutes: Also train a new model for this many minutes, on other images.
        seed: Seed of slot noise, of the noise that sampling starts from, and of the new model.

    Returns:
        Scores by row of the table.

    Raises:
        ValueError: If the bundled model or images are missing or damaged, `train_minutes` is not
            positive, or the folder holds something other than a demo.
    """
    if train_minutes is not None and not train_minutes > 0:
        raise ValueError(f"--train must be more than 0 minutes, got {train_minutes:g}")
    pipe = LatentSlotDiffusionPipeline.from_pretrained("bundled")
    to_device(pipe)
    pipe.set_progress_bar_config(disable=True)
    scenes = load_dataset("bundled", split="validation")
    _clear(output_dir)
    # With this page, an interrupted demo is recognized as one, and replaced by the next.
    Page(TITLE, "This page is being made.").save(output_dir / "index.html")

    reports = {
        "the bundled model": evaluate(pipe, scenes, seed=seed),
        "untrained": evaluate(untrained(pipe, seed=seed), scenes, seed=seed),
    }
    for number, weight in CLUSTERINGS.items():
        group = partial(cluster_pixels, num_clusters=number, position_weight=weight)
        reports[f"{number} clusters of color and place"] = evaluate_baseline(
            group, scenes, resolution=pipe.resolution
        )
    page = Page(
        TITLE,
        "This model was trained on thousands of images without any label. It splits an image into "
        "slots, one for each object, and generates an image from any set of slots.",
    )
    Gallery.of(pipe, scenes, seed=seed).show(page)
    show_concepts(page, pipe, scenes, seed=seed)
    _explain(page, pipe.num_slots)
    _show_scores(page, reports, len(scenes))
    if train_minutes is not None:
        fresh = train_fresh_model(output_dir, page, minutes=train_minutes, seed=seed)
        page.table(COLUMNS, {name: _row(report) for name, report in fresh.items()})
        reports |= fresh
    page.footer(
        "Latent Slot Diffusion (Jiang, Deng, Singh and Ahn, NeurIPS 2023), as latentslots "
        "implements it; recipe lsd-scenes-64. The scenes were drawn by MuJoCo (CC0). "
        + (CREDIT if train_minutes is not None else "")
    )
    page.save(output_dir / "index.html")
    return {name: dict(zip(SCORES, _row(report), strict=True)) for name, report in reports.items()}


def _clear(output_dir: Path) -> None:
    """Remove an earlier demo, and nothing else."""
    if not output_dir.exists():
        return
    if not output_dir.is_dir() or not _is_demo(output_dir):
        raise ValueError(f"{output_dir} exists and is no earlier demo; name another --output-dir")
    shutil.rmtree(output_dir)


def _is_demo(folder: Path) -> bool:
    """Whether a folder is empty, or holds a demo's page and nothing that a demo does not write."""
    names, page = {path.name for path in folder.iterdir()}, folder / "index.html"
    if not names:
        return True
    return (
        names <= {"run", "latents", page.name}
        and page.is_file()
        and TITLE in page.read_text(encoding="utf-8", errors="replace")
    )


def _row(report: SegmentationReport) -> list[float]:
    return [getattr(report, name) for name in SCORES]


def _explain(page: Page, num_slots: int) -> None:
    page.heading("How it works")
    page.paragraph(
        f"A slot is a short vector. {num_slots} slots start from noise and compete for the pixels "
        "of an image: what one slot explains, the others leave alone (slot attention). Slots with "
        "the same mask are merged. Two decoders reconstruct the image from the slots and nothing "
        "else: a simple one, which predicts the masks shown above, and a diffusion model, which "
        "generates the images. All parts are trained together, by the error of the reconstruction. "
        "There is no definition of an object, but one slot for each object describes an image in "
        "the fewest numbers. Generated objects have the right place, color and shading; slots hold "
        "little about shapes, so a cube may become a ball."
    )


def _show_scores(page: Page, reports: dict[str, SegmentationReport], num_images: int) -> None:
    page.heading("How well it finds objects")
    table = {name: _row(report) for name, report in reports.items()}
    page.table(COLUMNS, table, best=next(iter(table)))
    page.paragraph(
        f"Scores on {num_images} scenes that the model was not trained on; 1 is perfect. FG-ARI "
        "measures how well objects are separated from each other, ARI counts the background too, "
        "mIoU is the overlap of every object with its slot (convention `iou`, mean over objects), "
        "mBO that with its best slot. The last rows cluster pixels by k-means on Lab color and "
        "position, without learning, with as many clusters as the model has slots in training and "
        "at inference; the weight of position is the best on training scenes. Plain colors suit "
        "k-means, but it splits the background, as ARI shows."
    )
