"""Making scenes: one renderer for all scenes, compared with a new one for every scene.

Both sample, render, label and encode the same scenes, image and segmentation, on one core.

    python benchmarks/scenes.py [--size 64] [--json]
"""

import argparse
import json
import os
import time

os.environ["LP_NUM_THREADS"] = "0"  # Mesa's software renderer starts no threads

from latentslots.data.scenes.layout import KINDS
from latentslots.data.scenes.make import SceneOptions, make_rows
from latentslots.data.scenes.renderer import SceneRenderer


def kept(options: SceneOptions, num: int) -> float:
    """Scenes per second with one renderer for all."""
    with SceneRenderer(options.size) as renderer:
        list(make_rows(0, options, renderer))
        start = time.perf_counter()
        for seed in range(num):
            list(make_rows(seed, options, renderer))
        return num / (time.perf_counter() - start)


def new_each(options: SceneOptions, num: int) -> float:
    """Scenes per second with a renderer per scene."""
    start = time.perf_counter()
    for seed in range(num):
        with SceneRenderer(options.size) as renderer:
            list(make_rows(seed, options, renderer))
    return num / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=64, help="pixels per side")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    rows = {}
    for kind in KINDS:
        options = SceneOptions(kind=kind, size=arguments.size)
        rows[kind] = {"kept": kept(options, 300), "new": new_each(options, 5)}
    if arguments.json:
        print(json.dumps(rows))
        return
    for kind, row in rows.items():
        ratio = row["kept"] / row["new"]
        print(
            f"{kind}: {row['kept']:.1f} frames/s with a renderer kept open, "
            f"{row['new']:.1f} with a new one per scene: {ratio:.0f} times"
        )


if __name__ == "__main__":
    main()
