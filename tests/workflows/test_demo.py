import shutil
from pathlib import Path

import pytest
import torch

from latentslots import bundled
from latentslots.cli.main import main
from latentslots.data.store.info import info
from latentslots.data.store.reader import BUNDLED_SCENES
from latentslots.pipelines import LatentSlotDiffusionPipeline
from latentslots.pipelines.folder import BUNDLED_MODEL
from latentslots.workflows.demo import gallery, training
from latentslots.workflows.demo import run as demo
from tests.tiny import write_squares


@pytest.fixture
def shipped(tiny_pipeline_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model and tiny scenes in the place of the bundled ones."""
    folder = tmp_path / "assets"
    shutil.copytree(tiny_pipeline_dir, folder / BUNDLED_MODEL)
    write_squares(folder / BUNDLED_SCENES, num_train=1, num_validation=4)
    for name in (BUNDLED_MODEL, BUNDLED_SCENES):
        bundled.seal(folder / name)
    monkeypatch.setattr(bundled, "ASSETS", folder)
    for number in ("NUM_SHOWN", "NUM_COMPOSED", "NUM_CONCEPTS", "NUM_INFERENCE_STEPS"):
        monkeypatch.setattr(gallery, number, 2)
    return folder


def test_bundled_files_are_small_and_readable() -> None:
    for name in (BUNDLED_MODEL, BUNDLED_SCENES):
        assert bundled.bundled_folder(name).is_dir()
    files = [path for path in bundled.ASSETS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 25e6
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in files), "anyone can read them"


def test_the_bundled_scenes_are_of_the_validation_split() -> None:
    found = info("bundled")
    assert {name: split.num_images for name, split in found.splits.items()} == {"validation": 128}
    assert found.license == "CC0-1.0"


def test_the_bundled_model_loads_by_name() -> None:
    pipe = LatentSlotDiffusionPipeline.from_pretrained("bundled")
    assert pipe.resolution == 64
    assert pipe.unet.dtype == torch.float32, "half precision is for the disk"
    with pytest.raises(ValueError, match=r"no folder bundled2$"):
        LatentSlotDiffusionPipeline.from_pretrained("bundled2")


def test_bundled_nlvr_images_match_their_credit() -> None:
    found = info(bundled.bundled_folder(training.IMAGES))
    assert found.license == "CC-BY-4.0"
    assert "Suhr" in found.credit
    assert sum(split.num_images for split in found.splits.values()) == 1500
    assert min(found.splits["validation"].objects) >= 2


def test_the_demo_writes_one_self_contained_page(
    shipped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    texts = []
    for _ in range(2):  # an earlier demo is replaced
        assert main(["demo", "--output-dir", str(out)]) == 0
        texts.append((out / "index.html").read_text())
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["FG-ARI", "ARI", "mIoU", "mBO"]
    rows = ["the bundled", "untrained", "7 clusters", "11 clusters"]
    assert all(line.startswith(row) for line, row in zip(printed[1:5], rows, strict=True))
    text = texts[1]
    assert text.count("data:image/png;base64,") == 4
    assert "http" not in text.replace("http-equiv", "")
    assert [path.name for path in out.iterdir()] == ["index.html"]
    # The same seed makes the same page, another one another.
    demo.run_demo(tmp_path / "other", seed=1)
    assert texts[0] == text != (tmp_path / "other" / "index.html").read_text()


@pytest.mark.parametrize("minutes", ["0", "-1", "nan"])
def test_minutes_must_be_positive(
    minutes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    assert main(["demo", f"--train={minutes}", "--output-dir", str(out)]) == 2
    assert "--train must be more than 0 minutes" in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_with_other_content_is_not_changed(
    shipped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert main(["demo", "--output-dir", str(tmp_path)]) == 2
    assert "is no earlier demo" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    for name in ("run/state.pt", "site/index.html"):
        path = tmp_path / "work" / name
        path.parent.mkdir(parents=True)
        path.write_text("years of work")
        folder = path.parent if path.suffix == ".html" else path.parent.parent
        assert main(["demo", "--output-dir", str(folder)]) == 2
        assert path.read_text() == "years of work"
        shutil.rmtree(tmp_path / "work")


def test_damaged_assets_are_named_and_nothing_is_written(
    shipped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = shipped / BUNDLED_MODEL / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert main(["demo", "--output-dir", str(tmp_path / "demo")]) == 2
    assert f"{weights}, which ships with latentslots, is damaged" in capsys.readouterr().err
    shutil.rmtree(shipped / BUNDLED_SCENES)
    assert main(["demo", "--output-dir", str(tmp_path / "demo")]) == 2
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
def test_a_new_model_is_added_to_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--train", "0.05", "--output-dir", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "trained here for 0.05 min" in printed
    text = (out / "index.html").read_text()
    assert text.count("data:image/png;base64,") == 6
    assert "CC-BY-4.0" in text
    pipe = LatentSlotDiffusionPipeline.from_pretrained(out / "run")
    assert pipe.resolution == 64
