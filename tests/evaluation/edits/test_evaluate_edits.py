"""`latentslots evaluate-edits`: from pairs to tables and a report."""

import json
from pathlib import Path

import pytest
import torch

from latentslots.cli.main import main
from latentslots.data import load_dataset
from latentslots.data.store.reader import dataset_fingerprint
from latentslots.evaluation.edits import removal, swaps
from latentslots.fingerprint import model_fingerprint
from latentslots.pipelines import LatentSlotDiffusionPipeline
from tests.evaluation.oracle import keep_methods

FEW = ["--num-pairs", "2", "--num-inference-steps", "1"]


@pytest.fixture
def _two_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ways to apply an edit, to objects that slots hardly cover."""
    for module in (removal, swaps):
        monkeypatch.setattr(module, "COVERED", 0.0)
    keep_methods(monkeypatch, "plain", "both")


@pytest.mark.usefixtures("_two_methods")
def test_all_kinds_of_edits_of_a_data_set_are_scored(
    tiny_pipeline_dir: Path,
    part_pairs_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["evaluate-edits", str(tiny_pipeline_dir), "--data", str(part_pairs_dir), *FEW]
    out = tmp_path / "report"
    assert main([*command, "--output-dir", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "2 pairs with a removed object; a slot covers 2 of these objects" in printed
    assert "2 pairs with a replaced part; slots cover both parts in 2" in printed
    assert (out / "edits.md").read_text().strip() == printed.strip()
    report = json.loads((out / "edits.json").read_text())
    assert {kind: list(scores) for kind, scores in report["edits"].items()} == {
        "removal": ["plain", "both"],
        "swaps": ["plain", "both"],
    }
    dataset = load_dataset(part_pairs_dir, split="validation")
    assert report["data_hash"] == dataset_fingerprint(dataset)
    parts = LatentSlotDiffusionPipeline.from_pretrained(tiny_pipeline_dir).components.values()
    hashes = {model_fingerprint(p)[:12] for p in parts if isinstance(p, torch.nn.Module)}
    assert set(report["model_hash"].split("-")) == hashes
    assert (report["model"], report["num_inference_steps"]) == (str(tiny_pipeline_dir), 1)
    assert report["command"].startswith("latentslots evaluate-edits ")
    assert main([*command, "--edits", "removal", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["edits"] == {"removal": report["edits"]["removal"]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no pairs of edits: make them by `latentslots data make --edit-pairs`"),
        (["--edits", "swaps"], "no pairs with a replaced part"),
        (["--edits", "moves"], "the slots of this model have no frames"),
        (["--num-pairs", "0"], "num_pairs must be at least 1, got 0"),
        (["--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (["--num-inference-steps", "0"], "num_inference_steps must be at least 1, got 0"),
    ],
)
def test_mistakes_are_one_sentence(
    tiny_pipeline_dir: Path,
    scenes_store: Path,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["evaluate-edits", str(tiny_pipeline_dir), "--data", str(scenes_store)]
    assert main([*command, *words]) == 2
    error = capsys.readouterr().err
    assert message in error


def test_moves_are_refused_before_other_edits_take_their_time(
    tiny_pipeline_dir: Path, part_pairs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate-edits", str(tiny_pipeline_dir), "--data", str(part_pairs_dir)]
    assert main([*command, "--edits", "removal", "moves"]) == 2
    error = capsys.readouterr().err
    assert "the slots of this model have no frames" in error
    assert "removal" not in error, "no progress bar was shown"
