"""A model is trained and validated on what each importer writes from a small source."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from latentslots.cli.main import main
from latentslots.config import TrainConfig
from latentslots.data import load_dataset, split_names
from latentslots.evaluation import evaluate
from latentslots.pipelines import load_pipeline
from tests.data import test_clevr, test_clevrtex, test_dumps, test_movi, test_multi_object, test_voc
from tests.training.runs import rows, run, with_changes

DATA, ASSETS = (Path(__file__).parents[1] / name for name in ("data", "assets"))
COCO = DATA / "coco"


def movi(folder: Path) -> Path:
    return test_movi.shards(folder)


def clevrtex(folder: Path) -> Path:
    for number in range(20):
        test_clevrtex.write_scene(folder, number)
    return folder


def faces(folder: Path) -> Path:
    folder.mkdir()
    for number in range(4):
        Image.fromarray(test_clevr.pixels(number)).save(folder / f"{number:05d}.png")
    return folder


def few_records(kind: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        folder.mkdir()
        return test_multi_object.stream(folder / "records", kind, 4)

    return write


FEW = ["--num-train", "2", "--num-validation", "2", "--num-test", "0"]
SOURCES: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "movi-e": (movi, []),
    "clevr-with-masks": (few_records("clevr-with-masks"), ["--crop", *FEW]),
    "multi-dsprites-colored-on-colored": (
        few_records("multi-dsprites-colored-on-colored"),
        [*FEW],
    ),
    "objects-room": (few_records("objects-room"), [*FEW]),
    "tetrominoes": (few_records("tetrominoes"), [*FEW]),
    "arrays": (lambda _: DATA / "kandinsky" / "kandinsky.npz", []),
    "folder": (
        lambda _: ASSETS / "nuclei" / "images",
        ["--masks", str(ASSETS / "nuclei" / "masks")],
    ),
    "coco": (
        lambda _: COCO / "fruits",
        ["--annotations", str(COCO / "fruits" / "trainval.json"), "--splits", "train"],
    ),
    "clevr": (test_clevr.clevr, []),
    "clevrtex-full": (clevrtex, []),
    "coco-panoptic": (lambda _: COCO, ["--splits", "train"]),
    "voc": (test_voc.voc, []),
    "ffhq": (faces, ["--num-train", "2"]),
    "lsd-dump": (test_dumps.lsd, []),
    "slotdiffusion-dump": (test_dumps.slotdiffusion, []),
}
WITHOUT_MASKS = ("clevr", "ffhq")
FAST = ("voc",)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=() if kind in FAST else pytest.mark.slow) for kind in SOURCES],
)
def test_training_and_evaluation_run_on(kind: str, config: TrainConfig, tmp_path: Path) -> None:
    write, options = SOURCES[kind]
    source, out = write(tmp_path / "source"), tmp_path / "store"
    workers = [] if "--num-test" in options or kind == "arrays" else ["--workers", "1"]
    assert main(["data", "import", kind, str(source), str(out), *options, *workers]) == 0
    splits = split_names(out)
    small = {
        "data.path": str(out),
        "data.validation_split": "validation" if "validation" in splits else "train",
        "data.streaming": kind == "movi-e",
        "max_train_steps": 1,
        "validation_steps": 1,
        "num_validation_images": 2,
        "train_batch_size": 1 if kind == "coco" else 2,  # the sample has one image
        "data.cache_latents": False,
    }
    run(with_changes(config, small), tmp_path / "run")
    logged = {name for row in rows(tmp_path / "run") for name in row}
    assert {"loss", "validation/loss"} <= logged
    assert ("validation/fg_ari" in logged) == (kind not in WITHOUT_MASKS)
    if kind not in WITHOUT_MASKS:
        scored = evaluate(
            load_pipeline(tmp_path / "run"), load_dataset(out, split=splits[0]), progress=False
        )
        assert scored.num_images
        assert -1 <= scored.ari <= 1
