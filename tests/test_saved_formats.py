"""Files of release 0.1 load, and its run is resumed as by release 0.1."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from latentslots.cli.main import main
from latentslots.concepts import ConceptLibrary
from latentslots.data.store.reader import load_dataset
from latentslots.data.store.verify import verify
from latentslots.evaluation.comparison import compare_reports
from latentslots.evaluation.segmentation import evaluate
from latentslots.pipelines import LatentSlotDiffusionPipeline, load_pipeline
from tests.training.runs import rows

WRITTEN = Path(__file__).parent / "assets" / "release-0.1"

# Steps 3 to 6 as release 0.1 itself went on, and what it validated to.
LOSSES = [18.614852905273438, 17.56300926208496, 17.69059181213379, 16.34076499938965]
VALIDATION_LOSS = 0.8854647874832153


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to work in; paths in the run's config are relative to it."""
    folder = shutil.copytree(WRITTEN, tmp_path / "here")
    shutil.copytree(folder / "store", folder / "data" / "scenes")
    monkeypatch.chdir(folder)
    return folder


def test_a_store_loads_and_is_complete() -> None:
    assert len(load_dataset(WRITTEN / "store", split="train")) == 12
    assert verify(WRITTEN / "store") == []


def test_a_pipeline_folder_loads_and_scores_the_same() -> None:
    pipe = load_pipeline(WRITTEN / "run")
    assert type(pipe) is LatentSlotDiffusionPipeline
    report = evaluate(pipe, load_dataset(WRITTEN / "store", split="validation"), progress=False)
    # An argmax over a hardly trained model: other processors may pick another slot here and there.
    assert report.fg_ari == pytest.approx(0.31341098868468087, abs=0.05)


def test_a_run_is_resumed(here: Path) -> None:
    words = ["--config", "run/train_config.json", "--resume", "--max-train-steps", "6"]
    assert main(["train", *words]) == 0
    found = rows(here / "run")
    losses = [row["loss"] for row in found if "loss" in row]
    assert losses[2:] == pytest.approx(LOSSES, rel=1e-3)
    (validated,) = [
        row["validation/loss"] for row in found if row["step"] == 6 and "loss" not in row
    ]
    assert validated == pytest.approx(VALIDATION_LOSS, rel=1e-3)


def test_a_concept_library_loads_and_composes(here: Path) -> None:
    library = ConceptLibrary.load(here / "concepts")
    assert library.num_concepts == 3
    words = ["generate", "run", "--concepts", "concepts", "--num", "2", "--output-dir", "out"]
    assert main([*words, "--num-inference-steps", "2"]) == 0
    assert (here / "out" / "scene_0001.png").is_file()


def test_slots_of_a_segmented_image_are_edited(here: Path) -> None:
    slots = "segmented/slots.safetensors"
    words = ["edit", "run", "scene.png", "--slots", slots, "--remove", "1", "--output-dir", "out"]
    assert main([*words, "--num-inference-steps", "2"]) == 0
    with Image.open(here / "out" / "scene" / "edited.png") as edited:
        assert edited.size == (32, 32)


def test_a_report_is_compared() -> None:
    differences = compare_reports(WRITTEN / "report", WRITTEN / "report")
    assert differences["fg_ari"].first == pytest.approx(0.31341098868468087, abs=0.05)
    assert all(one.first == one.second for one in differences.values())


def set_number(path: Path, key: str, number: int) -> None:
    """Write a format of another release into a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), key: number}))


@pytest.mark.parametrize(
    ("file", "key", "words"),
    [
        (
            "run/pipeline/model_index.json",
            "_latentslots_format",
            "segment run scene.png --output-dir out",
        ),
        ("run/state/step_0000002/state.json", "format", "train --config run/train_config.json"),
        ("store/dataset_info.json", "format_version", "data info store"),
        ("concepts/library.json", "format", "concepts show concepts"),
        ("report/report.json", "format", "compare report report"),
    ],
)
def test_newer_formats_are_refused_by_number(
    file: str, key: str, words: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_number(here / file, key, 99)
    more = ["--resume"] if words.startswith("train") else []
    assert main([*words.split(), *more]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "99" in error
    assert "format" in error


def test_newer_slots_are_refused_by_number(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = here / "segmented" / "slots.safetensors"
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in ("slots", "masks")}
        facts = json.loads(file.metadata()["latentslots"])
    metadata = {"latentslots": json.dumps({**facts, "format": 99})}
    save_file(tensors, path, metadata=metadata)
    words = ["edit", "run", "scene.png", "--slots", str(path), "--remove", "1"]
    assert main([*words, "--output-dir", "out"]) == 2
    assert "has format 99, and this release reads formats up to" in capsys.readouterr().err
