"""A report as one page that a browser opens, with nothing to fetch."""

import json
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from latentslots.evaluation.report.evaluation_report import EvaluationReport
from latentslots.evaluation.report.html_page import Page
from latentslots.metrics.image_scores import METRICS
from latentslots.visualize import curve

PAGE_FILE = "index.html"
CURVES = ("validation/fg_ari", "validation/ari", "validation/miou_objects")


def report_page(
    report: EvaluationReport,
    pictures: Mapping[str, Image.Image],
    *,
    metrics_path: Path | None = None,
) -> Page:
    """Tables, pictures, and what is needed to measure it again.

    Args:
        report: The numbers.
        pictures: By caption.
        metrics_path: `metrics.jsonl` of the run that trained the model, for its curves.
    """
    page = Page(
        "How well slots find objects",
        f"{report.conditions.get('model', 'a method')} on {report.conditions.get('data', 'images')}"
        f", {report.conditions['num_images']} images.",
    )
    for caption, picture in pictures.items():
        page.picture(picture, caption)
    for convention, own in report.segmentation.items():
        page.heading(f"Segmentation, convention {convention}")
        keys = [key for key in METRICS if getattr(own, key) is not None]
        rows = {"the model": [getattr(own, key) for key in keys]}
        for place, name in ((0, "  95 %, from"), (1, "  95 %, to")):
            rows[name] = [own.intervals.get(key, (float("nan"),) * 2)[place] for key in keys]
        for name, reports in report.baselines.items():
            rows[name] = [getattr(reports[convention], key) for key in keys]
        page.table(["", *(METRICS[key] for key in keys)], rows, best="the model")
    for convention, probes in report.probes.items():
        page.heading(f"What slots say about their objects, convention {convention}")
        page.preformatted(probes.to_markdown())
    if metrics_path is not None and metrics_path.is_file():
        lines = [json.loads(line) for line in metrics_path.read_text(encoding="utf-8").splitlines()]
        keys = [key for key in CURVES if any(key in line for line in lines)]
        if keys:
            page.heading("How it was learned")
            page.picture(curve(lines, keys), "scores on the validation images of the training")
    page.heading("How to measure it again")
    if report.command:
        page.paragraph(f"`{report.command}`")
    content = report.to_dict()
    facts = {**content["conditions"], **content["packages"], "python": content["python"]}
    page.preformatted("\n".join(f"{name}: {value}" for name, value in facts.items()))
    return page
