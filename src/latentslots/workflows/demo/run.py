"""`latentslots demo`: what the bundled model finds in scenes, and what can be done with it."""

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
"""Of k-means, with as many clusters as the bundled model had slots in training and as it looks for:
the weight of place that `latentslots evaluate bundled --data data/scenes --baselines --tune-split
train` finds."""
TITLE = "Objects, found without labels"
"""Of the page; a demo is known by it."""
COLUMNS = ("", "FG-ARI", "ARI", "mIoU", "mBO")
SCORES = ("fg_ari", "ari", "miou_objects", "mbo_objects")


def run_demo(
    output_dir: Path, *, train_minutes: float | None = None, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Segment, measure, reconstruct, remove and swap objects, and write `index.html`.

    Args:
        output_dir: Where the page goes; a demo that is there already is replaced.
        train_minutes: Also train a fresh model for so long, on other pictures.
        seed: Of the slots' start, of what is painted, and of the fresh model.

    Returns:
        Scores by row of the table.

    Raises:
        ValueError: If what ships with the package is missing or damaged, `train_minutes` is not
            positive, or the folder holds something other than a demo.
    """
    if train_minutes is not None and not train_minutes > 0:
        raise ValueError(f"--train must be more than 0 minutes, got {train_minutes:g}")
    pipe = LatentSlotDiffusionPipeline.from_pretrained("bundled")
    to_device(pipe)
    pipe.set_progress_bar_config(disable=True)
    scenes = load_dataset("bundled", split="validation")
    _clear(output_dir)
    # So that a demo that was interrupted is known as one.
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
        "This model has seen thousands of pictures and not one label. It takes a picture apart "
        "into slots, one for each thing in it, and paints pictures from any set of slots.",
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
    """Make room, but only where an earlier demo was."""
    if not output_dir.exists():
        return
    if not output_dir.is_dir() or not _is_demo(output_dir):
        raise ValueError(f"{output_dir} exists and is no earlier demo; name another --output-dir")
    shutil.rmtree(output_dir)


def _is_demo(folder: Path) -> bool:
    """Whether there is nothing but what a demo writes, its page among it; or nothing at all."""
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
        f"A slot is a short vector. {num_slots} of them start from noise and compete for the "
        "places of a picture: what one explains, the others leave alone (slot attention); those "
        "that find the same become one. Two "
        "painters then have to paint the picture from the slots and nothing else: a simple one, "
        "whose masks are shown above, and a diffusion model, whose pictures are. All of it is "
        "trained together, by how well the picture is painted. Nobody says what an object is; but "
        "one slot for each thing is the shortest way to say what is there. What it paints is in "
        "its place, in its color and shaded; of shapes slots know little, so a cube may become a "
        "ball."
    )


def _show_scores(page: Page, reports: dict[str, SegmentationReport], num_images: int) -> None:
    page.heading("How well it finds objects")
    table = {name: _row(report) for name, report in reports.items()}
    page.table(COLUMNS, table, best=next(iter(table)))
    page.paragraph(
        f"Scores on {num_images} scenes that the model never saw; 1 is perfect. FG-ARI tells how "
        "well objects are told apart from each other, ARI counts the background too, mIoU is the "
        "overlap of every object with its slot (convention `iou`, mean over objects), mBO that "
        "with its best slot. The last rows cluster pixels by k-means on Lab color and position, "
        "without learning, with as many clusters as the model had slots in training and as it "
        "looks for; the weight of position is the best on training scenes. Plain colors suit "
        "it, but it cuts the background up, which ARI shows."
    )
