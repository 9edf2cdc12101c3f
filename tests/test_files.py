from pathlib import Path

import pytest

from latentslots.files import atomic_folder


def write(folder: Path, text: str) -> None:
    with atomic_folder(folder, mark="facts.json") as partial:
        (partial / "facts.json").write_text(text)


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "an earlier one"])
def test_it_is_there_when_it_is_whole(there: str, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "out"
    if there != "nothing":
        folder.mkdir(parents=True)
    if there == "an earlier one":
        (folder / "facts.json").write_text("old")
        (folder / "more.txt").write_text("old")
    with atomic_folder(folder, mark="facts.json") as partial:
        (partial / "facts.json").write_text("new")
        assert not (folder / "facts.json").exists() or there == "an earlier one"
    assert {path.name for path in folder.iterdir()} == {"facts.json"}
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    write(tmp_path / "out", "old")
    with pytest.raises(OSError, match="disk"), atomic_folder(tmp_path / "out", mark="facts.json"):
        raise OSError("no space left on the disk")
    assert (tmp_path / "out" / "facts.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_is_no_place_for_folders(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("years of work")
    with pytest.raises(ValueError, match=r"file is a file, not a folder that results could go"):
        write(tmp_path / "file" / "out", "new")
    assert (tmp_path / "file").read_text() == "years of work"


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_somebody_s_work_is_not_replaced(kind: str, tmp_path: Path) -> None:
    mine = tmp_path / "out"
    if kind == "folder":
        mine.mkdir()
        mine = mine / "thesis.tex"
    mine.write_text("years of work")
    with pytest.raises(ValueError, match=r"out exists and holds something else, without a facts"):
        write(tmp_path / "out", "new")
    assert mine.read_text() == "years of work"
