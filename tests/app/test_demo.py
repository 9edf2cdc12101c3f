import shutil
from pathlib import Path

import pytest

from latentslots import bundled
from latentslots.app import demo
from latentslots.cli.main import main
from latentslots.data.info import info
from latentslots.pipelines import LatentSlotDiffusionPipeline


def test_bundled_images_are_what_the_credit_says() -> None:
    found = info(bundled.bundled_folder(demo.IMAGES))
    assert found.license == "CC-BY-4.0"
    assert "Suhr" in found.credit
    assert sum(split.num_images for split in found.splits.values()) == 1500
    assert min(found.splits["validation"].objects) >= 2
    files = [file for file in bundled.bundled_folder(demo.IMAGES).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 1.5e6


@pytest.mark.parametrize("minutes", ["0", "-1", "nan"])
def test_minutes_must_be_positive(
    minutes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    assert main(["demo", f"--minutes={minutes}", "--output-dir", str(out)]) == 2
    assert "--minutes must be more than 0" in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_with_other_things_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert main(["demo", "--output-dir", str(tmp_path)]) == 2
    assert "is no earlier demo" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_damaged_images_are_named_and_an_earlier_demo_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(bundled.bundled_folder(demo.IMAGES), tmp_path / "assets" / demo.IMAGES)
    monkeypatch.setattr(bundled, "ASSETS", tmp_path / "assets")
    (shard,) = (tmp_path / "assets" / demo.IMAGES / "validation").glob("*.parquet")
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    out = tmp_path / "demo"
    out.mkdir()
    (out / "index.html").write_text("earlier")
    assert main(["demo", "--output-dir", str(out)]) == 2
    assert f"{shard}, which ships with latentslots, is damaged" in capsys.readouterr().err
    assert (out / "index.html").read_text() == "earlier"


@pytest.mark.slow
def test_demo_makes_a_page_and_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--minutes", "0.05", "--output-dir", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "trained for 0.05 min" in printed
    assert "untrained" in printed
    text = (out / "index.html").read_text()
    assert text.count("data:image/png;base64,") == 4
    assert "CC-BY-4.0" in text
    pipe = LatentSlotDiffusionPipeline.from_pretrained(out / "run")
    assert pipe.resolution == 64
