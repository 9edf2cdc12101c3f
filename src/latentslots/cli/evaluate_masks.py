"""`latentslots evaluate-masks PRED GT`."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from latentslots.config.conventions import CONVENTIONS, Convention


@dataclass(frozen=True, kw_only=True)
class EvaluateMasks:
    """Score segmentations of any method: folders of images, or arrays."""

    pred: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PRED")]
    """A folder of PNG or .npy files, or one .npy or .npz file: ids of segments, or soft masks."""
    truth: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TRUTH")]
    """The true ids, in one of these formats; 0 is the background. Files are paired by name, rows of
    arrays by index."""
    convention: tuple[Convention, ...] = CONVENTIONS
    """How mIoU and mBO are computed, one or several; see `latentslots evaluate`."""
    ignore_id: int | None = None
    """True id of pixels that do not count, such as 255 in PASCAL VOC."""
    output_dir: str = ""
    """Also write report.json, report.md, index.html, images.parquet and figures of the first, the
    worst and the best images here."""
    json: bool = False
    """Print report.json instead of tables."""


def run(arguments: list[str]) -> None:
    """Parse, score, and print the report to stdout."""
    options = tyro.cli(EvaluateMasks, prog="latentslots evaluate-masks", args=arguments)
    if not options.convention:
        raise ValueError(f"--convention needs at least one of {', '.join(CONVENTIONS)}")

    out = Path(options.output_dir) if options.output_dir else None
    if out is not None and out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; the report needs a folder")

    from latentslots.workflows.evaluate import score_masks, write_mask_scores

    report = score_masks(
        options.pred,
        options.truth,
        conventions=options.convention,
        ignore_id=options.ignore_id,
        command=shlex.join(["latentslots", "evaluate-masks", *arguments]),
    )
    if out is not None:
        write_mask_scores(report, options.pred, options.truth, out)
    print(json.dumps(report.to_dict()) if options.json else report.to_markdown())
