"""An evaluation report as a self-contained page for the browser."""

from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from latentslots.evaluation.report.evaluation_report import EvaluationReport
from latentslots.evaluation.report.html_page import Page
from latentslots.files import read_json_lines
from latentslots.metrics.image_scores import METRICS
from latentslots.visualize import curve

PAGE_FILE = "index.html"
CURVES = ("validation/fg_ari", "validation/ari", "validation/miou_objects")


def report_page(
    report: EvaluationReport,
    figures: Mapping[str, Image.Image],
    *,
    metrics_path: Path | None = None,
) -> Page:
    """Build a page with figures, tables, and everything that is needed to reproduce the numbers.

    Args:
        report: The numbers.
        figures: Drawn examples, by caption.
        metrics_path: `metrics.jsonl` of the training run, for its curves.
    """
    page = Page(
        "Segmentation scores",
        f"{report.conditions.get('model', 'a method')} on {report.conditions.get('data', 'images')}"
        f", {report.conditions['num_images']} images.",
    )
    for caption, figure in figures.items():
        page.picture(figure, caption)
    for convention, own in report.segmentation.items():
        page.heading(f"Segmentation, convention {convention}")
        keys = [key for key in METRICS if getattr(own, key) is not None]
        rows = {"the model": [getattr(own, key) for key in keys]}
        for end, name in ((0, "  95 %, from"), (1, "  95 %, to")):
            rows[name] = [own.intervals.get(key, (float("nan"),) * 2)[end] for key in keys]
        for name, reports in report.baselines.items():
            if convention in reports:
                rows[name] = [getattr(reports[convention], key) for key in keys]
        page.table(["", *(METRICS[key] for key in keys)], rows, best="the model")
    for convention, probes in report.probes.items():
        page.heading(f"Attributes of objects, predicted from slots, convention {convention}")
        page.preformatted(probes.to_markdown())
    if report.painted is not None:
        page.heading("Objects recognized in painted images")
        page.preformatted(report.painted.to_markdown())
    if report.shifts is not None:
        page.heading("Slots against noisy images")
        page.preformatted(report.shifts.to_markdown())
    if metrics_path is not None and metrics_path.is_file():
        lines = read_json_lines(metrics_path)
        keys = [key for key in CURVES if any(key in line for line in lines)]
        if keys:
            page.heading("Training curves")
            page.picture(curve(lines, keys), "scores on the validation images during training")
    page.heading("Reproduce these numbers")
    if report.command:
        page.paragraph(f"`{report.command}`")
    content = report.to_dict()
    facts = {**content["conditions"], **content["packages"], "python": content["python"]}
    page.preformatted("\n".join(f"{name}: {value}" for name, value in facts.items()))
    return page
