"""Comparison of methods with the same backbone, images and number of steps (docs/comparison.md).

    latentslots data make scenes data/scenes
    latentslots data make scenes-textured data/scenes-textured
    python benchmarks/objects.py

The page lists the commands for NLVR. Each run writes a small log; runs with a log are skipped,
interrupted ones are resumed, and the logs make the table and the figure of the page.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from datasets import Dataset
from matplotlib.figure import Figure

from latentslots.config import LSDConfig, SlateConfig, TrainConfig
from latentslots.data import load_dataset
from latentslots.device import to_device
from latentslots.evaluation import evaluate
from latentslots.evaluation.baselines import cluster_features, evaluate_baselines
from latentslots.evaluation.labeled_images import with_objects
from latentslots.evaluation.segmentation import evaluate_baseline
from latentslots.models.dinov2_encoder import DINOv2Encoder
from latentslots.pipelines import load_pipeline
from latentslots.recipes import recipe
from latentslots.training import train

SCORES = {"fg_ari": "FG-ARI", "ari": "ARI", "miou_objects": "mIoU", "mbo_objects": "mBO"}
METHODS = {
    "lsd": "LSD",
    "lsd-registers": "LSD, 4 registers",
    "slot-attention": "Slot Attention",
    "slate": "SLATE",
}
DATA = {"scenes": 7, "scenes-textured": 7, "nlvr": 9}
"""Slots per image, by data set."""
SEEDS = {"scenes": (0, 1, 2), "scenes-textured": (0,), "nlvr": (0,)}
DOCS = Path(__file__).parents[1] / "docs"


def configuration(method: str, data: str, seed: int, steps: int) -> TrainConfig:
    """Return a method's recipe with the slots, batch, learning-rate schedule and steps of all.

    Schedules within a recipe are shortened: SLATE's temperature falls over a quarter of the steps,
    as in its recipe; LSD's patch decoder has one color per slot for a third of them, 1,000 of 3,000
    (in its recipe 1,500 of 12,000). No method infers more slots than in training, or merges any.
    """
    names = {"slot-attention": "slot-attention-64", "slate": "slate-64"}
    config = recipe(names.get(method, "lsd-scenes-64"))
    common = {"num_slots": DATA[data], "num_inference_slots": 0, "merge_overlap": 0.0}
    chosen = replace(config.method, **common)
    if isinstance(chosen, LSDConfig):
        registers = 4 if method == "lsd-registers" else 0
        chosen = replace(chosen, patch_plain_steps=steps // 3, num_registers=registers)
    elif isinstance(chosen, SlateConfig):
        chosen = replace(chosen, dvae=replace(chosen.dvae, temperature_steps=steps // 4))
    return replace(
        config,
        method=chosen,
        data=replace(config.data, path=f"data/{data}"),
        max_train_steps=steps,
        seed=seed,
        validation_steps=max(steps // 10, 1),
        checkpointing_steps=max(steps // 10, 1),
        preview_steps=steps,
    )


def run(config: TrainConfig, images: Dataset, folder: Path) -> dict[str, Any]:
    """Train a model, or resume its training, and score it on images."""
    train(config, folder, resume=(folder / "state").is_dir())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    curve = [
        {
            "step": row["step"],
            "seconds": row["seconds"],
            **{name: row[f"validation/{name}"] for name in SCORES},
        }
        for row in rows
        if "validation/fg_ari" in row
    ]
    scores = scores_of(evaluate(to_device(load_pipeline(folder)), images))
    return {"steps": config.max_train_steps, "on": machine(), "curve": curve, "scores": scores}


def machine() -> str:
    """Name the hardware of a run: the GPU, or the number of CPU threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"{threads} CPU core{'s' * (threads > 1)}"


def references(data: str, pipe: Any, dinov2: DINOv2Encoder | None) -> dict[str, Any]:
    """Return the scores of baselines that do not learn, by name."""
    images = images_of(data, "validation")
    reports = evaluate_baselines(pipe, images, tuning=images_of(data, "train"))
    rows = {name: scores_of(report) for name, report in reports.items()}
    if dinov2 is not None:
        group = partial(cluster_features, encoder=dinov2, num_clusters=DATA[data])
        report = evaluate_baseline(group, images, resolution=pipe.resolution)
        rows["k-means, DINOv2 features"] = scores_of(report)
    return rows


def images_of(data: str, split: str) -> Dataset:
    """Load a split; validation images of NLVR with one object or none are excluded, as usual."""
    images = load_dataset(f"data/{data}", split=split)
    return with_objects(images, 2) if data == "nlvr" and split == "validation" else images


def scores_of(report: Any) -> dict[str, float]:
    return {name: round(getattr(report, name), 4) for name in SCORES}


def plan(only: list[str]) -> Iterator[tuple[str, str, int]]:
    """Iterate over the runs: the first seed of all methods, then the other seeds."""
    for seed in range(3):
        for data in DATA:
            for method in METHODS:
                chosen = not only or f"{data}-{method}-{seed}" in only
                if seed in SEEDS[data] and chosen:
                    yield method, data, seed


def table(logs: Path) -> str:
    """Summarize the logs as a Markdown table.

    Raises:
        ValueError: If runs differ in their number of steps.
    """
    all_logs = [path for data in DATA for method in METHODS for path in runs_of(logs, data, method)]
    check_budget(logs, [json.loads(path.read_text()) for path in all_logs])
    head = ["images", "method", "seeds", *SCORES.values(), "minutes", "on"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for data in DATA:
        for method, name in METHODS.items():
            runs = [json.loads(path.read_text()) for path in runs_of(logs, data, method)]
            if not runs:
                lines.append(f"| {data} | {name} | not run yet | | | | | | |")
                continue
            values = [spread([log["scores"][key] for log in runs]) for key in SCORES]
            minutes = statistics.mean(pace(log["curve"]) * log["steps"] for log in runs)
            machines = ", ".join(sorted({log.get("on", "1 CPU core") for log in runs}))
            cells = [data, name, f"{len(runs)}", *values, f"{minutes:.0f}", machines]
            lines.append(f"| {' | '.join(cells)} |")
        path = logs / f"{data}-references.json"
        rows = json.loads(path.read_text()) if path.is_file() else {}
        for name, scores in rows.items():
            values = [spread([scores[key]]) for key in SCORES]
            lines.append(f"| {data} | {name} | - | {' | '.join(values)} | - | |")
        if rows and not any("DINOv2" in name for name in rows):
            lines.append(f"| {data} | k-means, DINOv2 features | no local folder | | | | | | |")
    return "\n".join(lines)


def pace(curve: list[dict[str, float]]) -> float:
    """Minutes per step: the median between validations, robust to pauses and other work."""
    minutes = [
        (after["seconds"] - before["seconds"]) / (after["step"] - before["step"]) / 60
        for before, after in pairwise(curve)
    ]
    return statistics.median(minutes)


def curves_table(
    named: dict[str, str],
    logs: Path,
    *,
    title: str,
    more: Callable[[dict[str, Any]], dict[str, str]] = lambda _: {},
) -> str:
    """Summarize the logs of a script's runs as a Markdown table: FG-ARI over steps, final scores.

    Args:
        named: Names of the runs, by the stems of their logs; runs without a log are omitted.
        logs: The folder of the logs.
        title: Header of the column of names.
        more: Further columns of a run's log, after the scores: cells by header.

    Raises:
        ValueError: If runs differ in their number of steps.
    """
    paths = {key: logs / f"{key}.json" for key in named}
    runs = {key: json.loads(path.read_text()) for key, path in paths.items() if path.is_file()}
    check_budget(logs, list(runs.values()))
    if not runs:
        return ""
    steps = " / ".join(f"{point['step']:,}" for point in next(iter(runs.values()))["curve"])
    added = more(next(iter(runs.values())))
    head = [title, f"FG-ARI at {steps}", *SCORES.values(), *added, "minutes", "on"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for key, log in runs.items():
        curve = " / ".join(f"{point['fg_ari']:.2f}" for point in log["curve"])
        scores = [f"{log['scores'][name]:.3f}" for name in SCORES]
        minutes = f"{log['curve'][-1]['seconds'] / 60:.0f}"
        scores += more(log).values()
        cells = [named[key], curve, *scores, minutes, log.get("on", "1 CPU core")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def check_budget(logs: Path, runs: list[dict[str, Any]]) -> None:
    """Refuse logs of runs that differ in their number of steps."""
    budgets = {log["steps"] for log in runs}
    if len(budgets) > 1:
        raise ValueError(
            f"{logs} contains runs of {sorted(budgets)} steps: all must have the same number"
        )


def put_table(text: str, page: Path) -> None:
    """Replace the table that this script wrote into a page before."""
    begin = f"<!-- the table of benchmarks/{Path(sys.argv[0]).name} -->"
    end = "<!-- end of the table -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    after = rest.split(end, 1)[1]
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def spread(values: list[float]) -> str:
    """Format the mean and, for several seeds, the standard deviation."""
    mean = f"{statistics.mean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def runs_of(logs: Path, data: str, method: str) -> list[Path]:
    return [
        path for seed in SEEDS[data] if (path := logs / f"{data}-{method}-{seed}.json").is_file()
    ]


def draw(logs: Path, out: Path) -> None:
    """Draw learning curves: FG-ARI and mIoU over steps, and FG-ARI over minutes."""
    mpl.rcParams["svg.hashsalt"] = "latentslots"
    drawn = [data for data in DATA if any(runs_of(logs, data, method) for method in METHODS)]
    if not drawn:
        return
    figure = Figure(figsize=(11, 3.2 * len(drawn)), layout="constrained")
    axes = figure.subplots(len(drawn), 3, squeeze=False)
    panels = [("fg_ari", "steps"), ("miou_objects", "steps"), ("fg_ari", "minutes")]
    for row, data in zip(axes, drawn, strict=True):
        for axis, (score, over) in zip(row, panels, strict=True):
            for color, (method, name) in enumerate(METHODS.items()):
                for number, path in enumerate(runs_of(logs, data, method)):
                    curve = json.loads(path.read_text())["curve"]
                    scale = pace(curve) if over == "minutes" else 1
                    axis.plot(
                        [point["step"] * scale for point in curve],
                        [point[score] for point in curve],
                        color=f"C{color}",
                        alpha=1 if number == 0 else 0.5,
                        label=name if number == 0 else None,
                    )
            axis.set(xlabel=over, ylabel=SCORES[score], title=data, ylim=(-0.05, 1))
            axis.grid(alpha=0.3)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=9)
    figure.savefig(out, dpi=80)


def check(options: argparse.Namespace, runs: list[tuple[str, str, int]]) -> None:
    """Refuse options that would have no effect, before anything is trained.

    Raises:
        ValueError: If there is one.
    """
    if options.steps < 1:
        raise ValueError(f"--steps must be at least 1, got {options.steps}")
    if options.dinov2 and not any((method, seed) == ("lsd", 0) for method, _, seed in runs):
        raise ValueError("--dinov2 needs a run of lsd with seed 0 among those of --only")
    for method, data, seed in runs:
        log = options.logs / f"{data}-{method}-{seed}.json"
        steps = json.loads(log.read_text())["steps"] if log.is_file() else options.steps
        if steps != options.steps:
            raise ValueError(
                f"{log} has {steps} steps, not {options.steps}: name another folder with --logs"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3_000, help="optimizer steps of every run")
    names = [f"{data}-{method}-{seed}" for method, data, seed in plan([])]
    parser.add_argument(
        "--only", nargs="+", choices=names, help="some runs, such as scenes-slate-0", metavar="RUN"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/objects"), help="run folders")
    parser.add_argument("--logs", type=Path, default=DOCS / "logs" / "objects", help="results")
    parser.add_argument(
        "--dinov2",
        default="",
        help="folder or hub id of a DINOv2, whose features are clustered as a further baseline; "
        "the baselines are computed again",
    )
    parser.add_argument("--no-train", action="store_true", help="only rewrite table and figure")
    options = parser.parse_args()
    runs = [] if options.no_train else list(plan(options.only or []))
    try:
        check(options, runs)
        dinov2 = DINOv2Encoder.from_vit(options.dinov2) if options.dinov2 else None
    except ValueError as error:
        parser.error(str(error))
    options.logs.mkdir(parents=True, exist_ok=True)
    for method, data, seed in runs:
        log = options.logs / f"{data}-{method}-{seed}.json"
        folder = options.runs / log.stem
        if not log.is_file():
            config = configuration(method, data, seed, options.steps)
            result = run(config, images_of(data, "validation"), folder)
            log.write_text(json.dumps(result, indent=1) + "\n")
        against = options.logs / f"{data}-references.json"
        if method == "lsd" and seed == 0 and (dinov2 or not against.is_file()):
            rows = references(data, load_pipeline(folder), dinov2)
            against.write_text(json.dumps(rows, indent=1) + "\n")
    text = table(options.logs)
    print(text)
    put_table(text, DOCS / "comparison.md")
    draw(options.logs, DOCS / "images" / "comparison.png")


if __name__ == "__main__":
    main()
