"""The report of one evaluation: its scores, conditions and versions, as JSON and Markdown."""

import hashlib
import io
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from latentslots.evaluation.painted import PaintedReport
from latentslots.evaluation.probing import ProbeReport
from latentslots.evaluation.segmentation import SegmentationReport
from latentslots.evaluation.shifts import ShiftReport
from latentslots.files import exclusive, read_json, to_json, write_together
from latentslots.fingerprint import file_sha256
from latentslots.metrics.image_scores import ImageScores, scores_from_columns

REPORT_FORMAT = 2
"""Format of `report.json`; format 1 had one convention, no intervals and no single images."""

REPORT_FILE, MARKDOWN_FILE, IMAGES_FILE = "report.json", "report.md", "images.parquet"
PACKAGES = (
    "latentslots",
    "torch",
    "diffusers",
    "transformers",
    "datasets",
    "torchmetrics",
    "numpy",
    "scipy",
    "scikit-learn",
)
"""Packages whose versions a report records: scipy matches slots, the others compute or load."""
_COUNTED = {"miou_objects": "objects_in_miou", "mbo_objects": "objects_in_mbo"}


def versions() -> dict[str, Any]:
    """Versions of the packages that compute the numbers of a report."""
    return {
        "packages": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
    }


Reports = Mapping[str, SegmentationReport]
"""Scores of one method by convention."""


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """The numbers of an evaluation, and everything that is needed to reproduce them.

    Attributes:
        conditions: Everything that the numbers depend on: model, data, their hashes, sizes, seeds.
        segmentation: Scores by convention.
        baselines: Scores of other methods on the same images: by name, then by convention.
        probes: Scores of probes by convention.
        painted: What a classifier of real objects recognizes in painted images; `None` if that was
            not measured.
        shifts: Whether objects are painted where slots say; `None` if that was not measured.
        command: The command line.
        config: Configuration of every part of the model, by its name; empty if only masks were
            scored.
    """

    conditions: Mapping[str, Any]
    segmentation: Reports
    baselines: Mapping[str, Reports] = field(default_factory=dict)
    probes: Mapping[str, ProbeReport] = field(default_factory=dict)
    painted: PaintedReport | None = None
    shifts: ShiftReport | None = None
    command: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The content of `report.json`."""

        def scores(reports: Reports) -> dict[str, Any]:
            return {convention: report.to_dict() for convention, report in reports.items()}

        return {
            "format": REPORT_FORMAT,
            "command": self.command,
            "conditions": dict(self.conditions),
            "config": dict(self.config),
            **versions(),
            "segmentation": scores(self.segmentation),
            "baselines": {name: scores(reports) for name, reports in self.baselines.items()},
            "probes": {name: report.to_dict() for name, report in self.probes.items()},
            "painted": None if self.painted is None else self.painted.to_dict(),
            "shifts": None if self.shifts is None else self.shifts.to_dict(),
        }

    def to_markdown(self) -> str:
        """A table for each convention, and one for each kind of probe."""
        parts = []
        for convention, report in self.segmentation.items():
            others = {
                name: reports[convention]
                for name, reports in self.baselines.items()
                if convention in reports
            }
            parts.append(report.to_markdown(others))
        parts += [report.to_markdown() for report in self.probes.values()]
        parts += [one.to_markdown() for one in (self.painted, self.shifts) if one is not None]
        return "\n".join(parts)

    def write(self, folder: Path, others: Mapping[str, bytes] | None = None) -> None:
        """Write `report.json`, `report.md`, `images.parquet` and further files together.

        Args:
            folder: The folder, new or existing.
            others: Content of further files by name.

        Raises:
            ValueError: If another process is writing to the folder.
        """
        about = [f"- {name}: {value}" for name, value in self.conditions.items()]
        about += [f"- command: `{self.command}`"] if self.command else []
        markdown = "\n".join(["# Evaluation", "", *about, "", self.to_markdown()])
        images = _image_scores(self.segmentation)
        content = {**self.to_dict(), "images_sha256": hashlib.sha256(images).hexdigest()}
        files: dict[str, bytes | str] = {**(others or {})}
        files |= {IMAGES_FILE: images, MARKDOWN_FILE: markdown, REPORT_FILE: to_json(content)}
        with exclusive(folder):
            write_together(folder, files)


def _image_scores(reports: Reports) -> bytes:
    """The scores of single images as Parquet, one row for each image and convention."""
    tables = []
    for convention, report in reports.items():
        images = report.images
        columns: dict[str, Any] = {
            "image": np.arange(len(images)),
            "convention": [convention] * len(images),
        }
        if images.videos is not None:
            columns["video"] = images.videos
        values = images.values()
        for i, name in enumerate(images.names):
            columns[name] = pa.array(values[:, i], from_pandas=True)  # NaN becomes null
            if name in _COUNTED:
                columns[_COUNTED[name]] = images.counts[:, i]
        tables.append(pa.table(columns))
    buffer = io.BytesIO()
    pq.write_table(pa.concat_tables(tables), buffer)
    return buffer.getvalue()


def read_image_scores(
    path: Path, convention: str, *, report: Mapping[str, Any] | None = None
) -> ImageScores:
    """Read the scores of single images.

    Args:
        path: The file `images.parquet`.
        convention: The convention whose scores are read.
        report: Content of the report beside it; older ones do not name the file's hash.

    Raises:
        ValueError: If the file is missing, belongs to another report, or has no scores of this
            convention.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: it holds the scores of the single images")
    expected = (report or {}).get("images_sha256")
    if expected is not None and file_sha256(path) != expected:
        raise ValueError(f"{path} does not belong to the report beside it: evaluate again")
    table = pq.read_table(path, filters=[("convention", "=", convention)])
    if not table.num_rows:
        raise ValueError(f"{path} holds no scores of the convention {convention!r}")
    columns = {name: table[name].to_numpy() for name in table.column_names}
    counts = {name: columns[counted] for name, counted in _COUNTED.items() if counted in columns}
    return scores_from_columns(columns, counts, columns.get("video"))


def read_report(path: Path) -> dict[str, Any]:
    """Read `report.json`, or the folder that holds it.

    Raises:
        ValueError: If it is missing, is not a report, or has another format.
    """
    path = path / REPORT_FILE if path.is_dir() else path
    try:
        content = read_json(path)
    except OSError as error:
        raise ValueError(f"there is no report {path}") from error
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    for name in ("format", "conditions"):
        if not isinstance(content, dict) or name not in content:
            raise ValueError(f"{path} is not a report: the field {name!r} is missing")
    if content["format"] != REPORT_FORMAT:
        raise ValueError(
            f"{path} has format {content['format']}, and only format {REPORT_FORMAT} can be read: "
            "run `latentslots evaluate` again"
        )
    return content
