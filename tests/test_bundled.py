import subprocess
from pathlib import Path

import pytest

from latentslots import bundled


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(bundled, "ASSETS", tmp_path)
    folder = tmp_path / "thing"
    (folder / "part").mkdir(parents=True)
    (folder / "one.txt").write_text("one")
    (folder / "part" / "two.txt").write_text("two")
    bundled.seal(folder)
    return folder


def test_an_intact_folder_is_returned(folder: Path) -> None:
    assert bundled.bundled_folder("thing") == folder
    bundled.seal(folder)
    assert bundled.bundled_folder("thing") == folder, "the file of hashes has no hash of its own"


def test_the_hashes_are_in_the_format_of_sha256sum(folder: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", bundled.SUMS_NAME], cwd=folder, check=True)
    assert len((folder / bundled.SUMS_NAME).read_text().splitlines()) == 2


def test_a_changed_file(folder: Path) -> None:
    (folder / "part" / "two.txt").write_text("tw0")
    with pytest.raises(ValueError, match=r"two\.txt, which ships with latentslots, is damaged"):
        bundled.bundled_folder("thing")


def test_a_missing_file(folder: Path) -> None:
    (folder / "one.txt").unlink()
    with pytest.raises(ValueError, match=r"one\.txt, .*, is missing: install it again"):
        bundled.bundled_folder("thing")


def test_a_missing_folder(folder: Path) -> None:
    with pytest.raises(ValueError, match="nothing, which ships with latentslots, is missing"):
        bundled.bundled_folder("nothing")
