"""What one command writes is what the next one reads."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentslots.cli.main import main
from tests import tiny
from tests.tiny import write_squares

STEPS = ["--num-inference-steps", "2"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three images, a wide one among them, and true ids for each."""
    arrays, ids = tiny.squares(3, seed=5)
    for kind in ("images", "truth"):
        (tmp_path / kind).mkdir()
    for number in range(3):
        size = (48, 32) if number == 2 else (32, 32)
        image = Image.new("RGB", size, (90, 90, 90))
        truth = Image.new("L", size)
        image.paste(Image.fromarray(arrays[number]), ((size[0] - 32) // 2, 0))
        truth.paste(Image.fromarray(ids[number].astype(np.uint8)), ((size[0] - 32) // 2, 0))
        image.save(tmp_path / "images" / f"{number}.png")
        truth.save(tmp_path / "truth" / f"{number}.png")
    return tmp_path / "images"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write_squares(tmp_path / "store", num_train=12, num_validation=4)


@pytest.fixture
def model(tiny_pipeline_dir: Path) -> str:
    return str(tiny_pipeline_dir)


def run(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


def test_segmentations_are_scored_and_compared(images: Path, model: str, tmp_path: Path) -> None:
    truth = tmp_path / "truth"
    run("segment", model, images, "--output-dir", tmp_path / "found")
    run("evaluate-masks", tmp_path / "found", truth, "--output-dir", tmp_path / "scores")
    report = json.loads((tmp_path / "scores" / "report.json").read_text())
    # Pixels that the model does not see do not count, as if they were ignored in the truth.
    plain = tmp_path / "plain"
    plain.mkdir()
    for number in range(3):
        ids = np.asarray(Image.open(tmp_path / "found" / str(number) / "ids.png")).copy()
        true = np.asarray(Image.open(truth / f"{number}.png")).copy()
        true[ids == 255] = 200
        Image.fromarray(true).save(truth / f"{number}.png")
        Image.fromarray(ids).save(plain / f"{number}.png")
    command = ["evaluate-masks", plain, truth, "--ignore-id", 200, "--output-dir"]
    run(*command, tmp_path / "again")
    again = json.loads((tmp_path / "again" / "report.json").read_text())
    assert again["segmentation"] == report["segmentation"]
    run("compare", tmp_path / "scores", tmp_path / "scores")


def test_slots_are_edited_again(images: Path, model: str, tmp_path: Path) -> None:
    run("segment", model, images, "--output-dir", tmp_path / "found")
    slots = tmp_path / "found" / "2" / "slots.safetensors"
    how = [*STEPS, "--remove", "1"]
    run("edit", model, images / "2.png", *how, "--slots", slots, "--output-dir", tmp_path / "one")
    edited = tmp_path / "one" / "2"
    more = [edited / "edited.png", "--slots", edited / "slots.safetensors"]
    run("edit", model, *more, *how, "--output-dir", tmp_path / "two")
    with Image.open(tmp_path / "two" / "edited" / "edited.png") as again:
        assert again.size == (48, 32)


def test_slots_of_another_square_are_refused(
    images: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    area = ["--area", "4,6,20,20"]
    command = ["edit", model, images / "2.png", *STEPS, "--remove", "1"]
    run(*command, *area, "--output-dir", tmp_path / "one")
    slots = ["--slots", tmp_path / "one" / "2" / "slots.safetensors"]
    words = [str(word) for word in (*command, *slots, "--output-dir", tmp_path / "never")]
    assert main(words) == 2
    assert "holds the slots of the square 4,6,20,20 of its image" in capsys.readouterr().err
    run(*command, *area, *slots, "--output-dir", tmp_path / "two")


def test_generated_images_are_images(images: Path, model: str, tmp_path: Path) -> None:
    """The contact sheet is none of them."""
    made = tmp_path / "made"
    run("generate", model, *STEPS, "--from-images", images, "--output-dir", made)
    assert (made / "contact_sheet.png").is_file()
    run("segment", model, made, "--output-dir", tmp_path / "found")
    assert sorted(folder.name for folder in (tmp_path / "found").iterdir()) == ["0", "1", "2"]
    files = sorted(made.glob("*.safetensors"))
    run("generate", model, *STEPS, "--slots", *files, "--output-dir", tmp_path / "again")
    run("data", "import", "folder", made, tmp_path / "made-store", "--workers", "1")
    run("concepts", "fit", model, "--data", tmp_path / "made-store", "--split", "train",
        "--num-concepts", "2", "--output-dir", tmp_path / "concepts")  # fmt: skip
    run("generate", model, *STEPS, "--concepts", tmp_path / "concepts", "--num", "2",
        "--layout", "independent", "--output-dir", tmp_path / "composed")  # fmt: skip


def test_a_printed_recipe_is_a_config(
    tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("recipes", "lsd-smoke")
    (tmp_path / "mine.json").write_text(capsys.readouterr().out)
    run("train", "--config", tmp_path / "mine.json", "--data.path", store,
        "--max-train-steps", "1", "--output-dir", tmp_path / "run")  # fmt: skip
    run("train", "--config", tmp_path / "run" / "train_config.json", "--max-train-steps", "2",
        "--output-dir", tmp_path / "run", "--resume")  # fmt: skip
    run("evaluate", tmp_path / "run", "--data", store, "--num-images", "2",
        "--output-dir", tmp_path / "report")  # fmt: skip
    run("compare", tmp_path / "report", tmp_path / "report")
