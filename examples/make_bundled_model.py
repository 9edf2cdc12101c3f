"""Make the model and the scenes that ship with the package, out of a run of `lsd-scenes-64`.

latentslots data make scenes data/scenes
latentslots train lsd-scenes-64 --output-dir runs/scenes
python examples/make_bundled_model.py runs/scenes data/scenes
"""

import argparse
import json
import shutil
from pathlib import Path

import torch

from latentslots.bundled import ASSETS, seal
from latentslots.data import StoreWriter, load_dataset
from latentslots.data.store.manifest import read_manifest
from latentslots.pipelines import LatentSlotDiffusionPipeline

NUM_SCENES = 128
LOGS = Path(__file__).parents[1] / "docs" / "logs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run folder of lsd-scenes-64")
    parser.add_argument("data", help="the scenes, of whose validation split some are kept")
    options = parser.parse_args()

    model = _empty(ASSETS / "lsd-scenes-64")
    pipe = LatentSlotDiffusionPipeline.from_pretrained(options.run, dtype=torch.float16)
    pipe.save_pretrained(model)
    shutil.copy(options.run / "train_config.json", model)
    seal(model)

    scenes = _empty(ASSETS / "scenes")
    manifest = read_manifest(options.data)
    with StoreWriter(
        scenes, "validation", name="scenes", license=manifest.license, segmentation=True
    ) as writer:
        for row in load_dataset(options.data, split="validation").select(range(NUM_SCENES)):
            writer.add(row["image"], segmentation=row["segmentation"])
    seal(scenes)

    LOGS.mkdir(parents=True, exist_ok=True)
    environment = json.loads((options.run / "environment.json").read_text())
    made_with = {
        name: environment[name] for name in ("python", "device", "num_threads", "packages")
    }
    rows = map(json.loads, (options.run / "metrics.jsonl").read_text().splitlines())
    last = max(int(path.name.removeprefix("step_")) for path in (options.run / "state").iterdir())
    rows = (row for row in rows if row["step"] <= last)  # what came after it is not in the model
    kept = [json.dumps(made_with) + "\n"]
    kept += [json.dumps(row) + "\n" for row in rows if "validation/loss" in row or is_round(row)]
    (LOGS / "lsd-scenes-64.jsonl").write_text("".join(kept))


def is_round(row: dict[str, float]) -> bool:
    """Whether a row of the log is one of those to keep: every fiftieth."""
    return "loss" in row and row["step"] % 50 == 0


def _empty(folder: Path) -> Path:
    if folder.exists():
        shutil.rmtree(folder)
    return folder


if __name__ == "__main__":
    main()
