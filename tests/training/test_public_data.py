"""A model is trained and validated on what each importer makes of a small true source."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from latentslots.cli.main import main
from latentslots.config import TrainConfig
from latentslots.data import split_names
from tests.data import test_clevr, test_clevrtex, test_dumps, test_movi, test_multi_object, test_voc
from tests.training.runs import rows, run, with_changes

COCO = Path(__file__).parents[1] / "data" / "coco"


def movi(folder: Path) -> Path:
    return test_movi.shards(folder)


def clevr_with_masks(folder: Path) -> Path:
    folder.mkdir()
    return test_multi_object.stream(folder / "records", "clevr-with-masks", 4)


def clevrtex(folder: Path) -> Path:
    for number in range(20):
        test_clevrtex.write_scene(folder, number)
    return folder


def faces(folder: Path) -> Path:
    folder.mkdir()
    for number in range(4):
        Image.fromarray(test_clevr.pixels(number)).save(folder / f"{number:05d}.png")
    return folder


FEW = ["--num-train", "2", "--num-validation", "2", "--num-test", "0"]
SOURCES: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "movi-e": (movi, []),
    "clevr-with-masks": (clevr_with_masks, ["--crop", *FEW]),
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
    workers = [] if kind == "clevr-with-masks" else ["--workers", "1"]
    assert main(["data", "import", kind, str(source), str(out), *options, *workers]) == 0
    splits = split_names(out)
    small = {
        "data.path": str(out),
        "data.validation_split": "validation" if "validation" in splits else "train",
        "data.streaming": kind == "movi-e",
        "max_train_steps": 1,
        "validation_steps": 1,
        "num_validation_images": 2,
        "train_batch_size": 2,
        "data.cache_latents": False,
    }
    run(with_changes(config, small), tmp_path / "run")
    logged = {name for row in rows(tmp_path / "run") for name in row}
    assert {"loss", "validation/loss"} <= logged
    assert ("validation/fg_ari" in logged) == (kind not in WITHOUT_MASKS)
