"""Evaluate edits against pairs of images before and after a true edit."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from datasets import Dataset
from tqdm.auto import tqdm

from latentslots.config.sampling import Sampling
from latentslots.data.store.reader import dataset_fingerprint
from latentslots.evaluation.edits.moves import evaluate_moves, move_rows, move_table
from latentslots.evaluation.edits.removal import evaluate_removal, removal_rows, removal_table
from latentslots.evaluation.edits.swaps import evaluate_swaps, swap_rows, swap_table
from latentslots.evaluation.report.evaluation_report import versions
from latentslots.files import to_json, write_together
from latentslots.pipelines.lsd import LatentSlotDiffusionPipeline
from latentslots.pipelines.sampling import use_sampling
from latentslots.pipelines.slot_edit import check_frames
from latentslots.workflows.provenance import model_hash

EditKind = Literal["removal", "swaps", "moves"]

REPORT_FORMAT = 1
"""Format of `edits.json`."""
REPORT_FILE, MARKDOWN_FILE = "edits.json", "edits.md"

_ROWS: dict[EditKind, Any] = {
    "removal": removal_rows,
    "swaps": swap_rows,
    "moves": move_rows,
}
_EVALUATE: dict[EditKind, Any] = {
    "removal": evaluate_removal,
    "swaps": evaluate_swaps,
    "moves": evaluate_moves,
}
_TABLES: dict[EditKind, Any] = {
    "removal": removal_table,
    "swaps": swap_table,
    "moves": move_table,
}


@dataclass(frozen=True, kw_only=True)
class EditEvaluation:
    """Scores of edits, and what they depend on.

    Attributes:
        conditions: Model, data, their hashes, sampling.
        reports: For each kind of edit, a report for each way to apply it.
        command: The command line.
    """

    conditions: dict[str, Any]
    reports: dict[EditKind, dict[str, Any]]
    command: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        edits = {
            kind: {name: report.to_dict() for name, report in reports.items()}
            for kind, reports in self.reports.items()
        }
        conditions = {"command": self.command, **self.conditions}
        return {"format": REPORT_FORMAT, **conditions, "edits": edits, **versions()}

    def to_markdown(self) -> str:
        """A table for each kind of edit."""
        return "\n".join(_TABLES[kind](reports) for kind, reports in self.reports.items())

    def write(self, folder: Path) -> None:
        """Write `edits.json` and `edits.md`."""
        files = {MARKDOWN_FILE: self.to_markdown(), REPORT_FILE: to_json(self.to_dict())}
        write_together(folder, files)


def run_edit_evaluation(
    pipe: LatentSlotDiffusionPipeline,
    dataset: Dataset,
    sampling: Sampling,
    *,
    edits: Sequence[EditKind] = (),
    num_pairs: int = 200,
    batch_size: int = 32,
    about: dict[str, Any] | None = None,
    command: str = "",
    progress: bool = True,
) -> EditEvaluation:
    """Apply edits to images whose true result is in the data set, and score them.

    Args:
        pipe: The pipeline; it keeps the sampler.
        dataset: Pairs as `latentslots data make --edit-pairs` makes them.
        sampling: How images are sampled.
        edits: `removal` of objects, `swaps` of parts, `moves` of objects; when empty, all that the
            data set has pairs of and, if the slots have frames, moves.
        num_pairs: At most this many pairs of each kind, from the start of the data set.
        batch_size: Pairs at once; changes scores by rounding only.
        about: Further conditions for the report: names of model and data.
        command: The command line, for the report.
        progress: Whether to show progress bars on stderr.

    Raises:
        ValueError: If a value is out of its range, the data set has no pairs of a kind of edit, or
            slots without frames are to be moved.
    """
    for name, value in (("num_pairs", num_pairs), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    use_sampling(pipe, sampling)
    counts = {kind: len(rows(dataset)) for kind, rows in _ROWS.items()}
    possible = [kind for kind, count in counts.items() if count]
    kinds = list(edits) or [kind for kind in possible if kind != "moves" or pipe.has_frames]
    if not kinds:
        raise ValueError(
            "the data set has no pairs of edits: make them by `latentslots data make --edit-pairs`"
        )
    if "moves" in kinds:
        check_frames(pipe)
    reports = {}
    for kind in kinds:
        total = min(num_pairs, counts[kind])
        with tqdm(total=total, disable=not progress, unit="pair", desc=kind) as bar:
            reports[kind] = _EVALUATE[kind](
                pipe,
                dataset,
                num_pairs=num_pairs,
                sampling=sampling,
                batch_size=batch_size,
                progress=bar.update,
            )
    conditions = {
        **(about or {}),
        "model_hash": model_hash(pipe),
        "data_hash": dataset_fingerprint(dataset),
        "num_pairs": num_pairs,
        "slots": pipe.num_slots,
        "merge_overlap": pipe.inference.merge_overlap,
        "merge_error": pipe.inference.merge_error,
        "masks": pipe.mask_source,
        **asdict(sampling),
        "sampler": type(pipe.scheduler).__name__,
    }
    return EditEvaluation(conditions=conditions, reports=reports, command=command)
