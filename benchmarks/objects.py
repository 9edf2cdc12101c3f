"""Which method finds objects: the same backbone, images and steps for all (docs/comparison.md).

latentslots data make scenes data/scenes
latentslots data make scenes-textured data/scenes-textured
python benchmarks/objects.py

Every run leaves a small log; those that have one are not made again, a run that was stopped goes
on, and what is there becomes the page's table and figure.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
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
"""Sets of images, and slots to look for."""
SEEDS = {"scenes": (0, 1, 2), "scenes-textured": (0,), "nlvr": (0,)}
DOCS = Path(__file__).parents[1] / "docs"


def configuration(method: str, data: str, seed: int, steps: int) -> TrainConfig:
    """A method's recipe, with the same slots, batch, schedule and steps as all others.

    What a recipe does over time is made shorter, too: SLATE's temperature falls over a quarter of
    the steps, as in its recipe; LSD's patch decoder stays plain for a third of them, 1,000 of 3,000
    (in its recipe 1,500 of 12,000). No method looks for more slots than in training, or merges any.
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
    """Train, or go on, and score the images."""
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
    """What a run's minutes are worth: a GPU's name, or threads of a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"{threads} CPU core{'s' * (threads > 1)}"


def references(data: str, pipe: Any, dinov2: DINOv2Encoder | None) -> dict[str, Any]:
    """The scores of what does not learn on these images."""
    images = images_of(data, "validation")
    found = evaluate_baselines(pipe, images, tuning=images_of(data, "train"))
    rows = {name: scores_of(report) for name, report in found.items()}
    if dinov2 is not None:
        group = partial(cluster_features, encoder=dinov2, num_clusters=DATA[data])
        report = evaluate_baseline(group, images, resolution=pipe.resolution)
        rows["k-means, DINOv2 features"] = scores_of(report)
    return rows


def images_of(data: str, split: str) -> Dataset:
    """Those of NLVR that show one object or none are not scored, as is usual."""
    images = load_dataset(f"data/{data}", split=split)
    return with_objects(images, 2) if data == "nlvr" and split == "validation" else images


def scores_of(report: Any) -> dict[str, float]:
    return {name: round(getattr(report, name), 4) for name in SCORES}


def plan(only: list[str]) -> Iterator[tuple[str, str, int]]:
    """The runs, the first seed of all before the others of any."""
    for seed in range(3):
        for data in DATA:
            for method in METHODS:
                wanted = not only or f"{data}-{method}-{seed}" in only
                if seed in SEEDS[data] and wanted:
                    yield method, data, seed


def table(logs: Path) -> str:
    """What the logs say, as Markdown.

    Raises:
        ValueError: If some runs took more steps than others.
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
            values = [spread([one["scores"][key] for one in runs]) for key in SCORES]
            minutes = statistics.mean(pace(one["curve"]) * one["steps"] for one in runs)
            machines = ", ".join(sorted({one.get("on", "1 CPU core") for one in runs}))
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
    """Minutes of a step: the median between validations; a stop, or other work, counts little."""
    rows = list(pairwise(curve))
    each = [(b["seconds"] - a["seconds"]) / (b["step"] - a["step"]) / 60 for a, b in rows]
    return statistics.median(each)


def curves_table(named: dict[str, str], logs: Path, *, title: str) -> str:
    """What the logs of a script's runs say, as Markdown: the curve of FG-ARI, and the last scores.

    Args:
        named: Names of the runs, by the stems of their logs; those without a log are left out.
        logs: Their folder.
        title: What the names are.

    Raises:
        ValueError: If some took more steps than others.
    """
    paths = {key: logs / f"{key}.json" for key in named}
    found = {key: json.loads(path.read_text()) for key, path in paths.items() if path.is_file()}
    check_budget(logs, list(found.values()))
    if not found:
        return ""
    steps = " / ".join(f"{point['step']:,}" for point in next(iter(found.values()))["curve"])
    head = [title, f"FG-ARI at {steps}", *SCORES.values(), "minutes", "on"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for key, one in found.items():
        curve = " / ".join(f"{point['fg_ari']:.2f}" for point in one["curve"])
        scores = [f"{one['scores'][name]:.3f}" for name in SCORES]
        minutes = f"{one['curve'][-1]['seconds'] / 60:.0f}"
        cells = [named[key], curve, *scores, minutes, one.get("on", "1 CPU core")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def check_budget(logs: Path, found: list[dict[str, Any]]) -> None:
    """Refuse logs of runs that took more steps than others."""
    budgets = {one["steps"] for one in found}
    if len(budgets) > 1:
        raise ValueError(f"{logs} holds runs of {sorted(budgets)} steps: one budget for all")


def put_table(text: str, page: Path) -> None:
    """In place of the one that this script put there before."""
    begin = f"<!-- the table of benchmarks/{Path(sys.argv[0]).name} -->"
    end = "<!-- end of the table -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    after = rest.split(end, 1)[1]
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def spread(values: list[float]) -> str:
    """The mean, and the deviation of several seeds."""
    mean = f"{statistics.mean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def runs_of(logs: Path, data: str, method: str) -> list[Path]:
    return [
        path for seed in SEEDS[data] if (path := logs / f"{data}-{method}-{seed}.json").is_file()
    ]


def draw(logs: Path, out: Path) -> None:
    """Learning curves: FG-ARI and mIoU over steps and over minutes."""
    mpl.rcParams["svg.hashsalt"] = "latentslots"
    made = [data for data in DATA if any(runs_of(logs, data, method) for method in METHODS)]
    if not made:
        return
    figure = Figure(figsize=(11, 3.2 * len(made)), layout="constrained")
    axes = figure.subplots(len(made), 3, squeeze=False)
    panels = [("fg_ari", "steps"), ("miou_objects", "steps"), ("fg_ari", "minutes")]
    for row, data in zip(axes, made, strict=True):
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
    """Refuse, before anything is trained, what would have no effect.

    Raises:
        ValueError: Says what.
    """
    if options.steps < 1:
        raise ValueError(f"--steps must be at least 1, got {options.steps}")
    if options.dinov2 and not any((method, seed) == ("lsd", 0) for method, _, seed in runs):
        raise ValueError("--dinov2 is used beside a run of lsd with seed 0, and there is none here")
    for method, data, seed in runs:
        log = options.logs / f"{data}-{method}-{seed}.json"
        steps = json.loads(log.read_text())["steps"] if log.is_file() else options.steps
        if steps != options.steps:
            raise ValueError(
                f"{log} is of {steps} steps, not {options.steps}: name another folder with --logs"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3_000, help="optimizer steps of every run")
    names = [f"{data}-{method}-{seed}" for method, data, seed in plan([])]
    parser.add_argument(
        "--only", nargs="+", choices=names, help="runs, such as scenes-slate-0", metavar="RUN"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/objects"), help="run folders")
    parser.add_argument("--logs", type=Path, default=DOCS / "logs" / "objects", help="results")
    parser.add_argument(
        "--dinov2",
        default="",
        help="a DINOv2, a local folder or a hub id: rows without seeds are made anew, with it",
    )
    parser.add_argument("--no-train", action="store_true", help="table and figure alone")
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
