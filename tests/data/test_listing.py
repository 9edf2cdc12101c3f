"""Folders as people have them: hidden files, links, names in other forms of Unicode."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentslots.data import DataError, load_dataset
from latentslots.data.importers.image_folder import import_folder
from latentslots.data.store.folder import find_images
from latentslots.data.store.listing import find_file, list_files
from latentslots.evaluation.mask_files import open_masks, paired_segmentations

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


def save(path: Path, value: int = 0, mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (8, 8), value).save(path)
    return path


def test_what_systems_add_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("1.png", "deep/2.PNG"):
        save(tmp_path / name)
    for name in ("._1.png", ".DS_Store", "Thumbs.db", "desktop.ini", ".git/3.png", "._x/4.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert list_files(tmp_path, (".png",)) == ["1.png", "deep/2.PNG"]
    assert list_files(tmp_path, (".png",), recursive=False) == ["1.png"]
    assert not caplog.messages


def test_other_endings_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("1.png", "2.heic", "3.HEIC", "notes"):
        save(tmp_path / "1.png") if name == "1.png" else (tmp_path / name).write_bytes(b"x")
    assert find_images(tmp_path) == ["1.png"]
    assert caplog.messages == [
        f"files of other endings in {tmp_path} are left out: 2 .heic, 1 without ending"
    ]


def test_links_are_followed_once(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "2.png")
    save(tmp_path / "photos" / "a" / "1.png")
    (tmp_path / "photos" / "b").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "photos" / "a" / "circle").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert find_images(tmp_path / "photos") == ["a/1.png", "b/2.png"]
    assert find_images(tmp_path / "photos", "*/2.png") == ["b/2.png"]
    assert find_images(tmp_path / "photos", "**/[12].png") == ["a/1.png", "b/2.png"]
    with pytest.raises(DataError, match=r"matches the glob 'b/1\.png'"):
        find_images(tmp_path / "photos", "b/1.png")


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_names_that_are_not_utf_8_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path / "1.png")
    os.rename(save(tmp_path / "2.png"), os.fsencode(tmp_path) + b"/\xff.png")
    assert find_images(tmp_path) == ["1.png"]
    assert "1 files in" in caplog.text
    assert r"are not UTF-8, such as '\udcff.png'" in caplog.text


def test_masks_match_images_in_either_form_of_unicode(tmp_path: Path) -> None:
    save(tmp_path / "images" / f"{COMPOSED}.png", 90)
    save(tmp_path / "masks" / f"{DECOMPOSED}.png", 3)
    out = import_folder(tmp_path / "images", tmp_path / "out", masks=tmp_path / "masks")
    assert np.asarray(load_dataset(out)[0]["segmentation"]).max() == 3
    save(tmp_path / "truth" / f"{COMPOSED}.png", 1)
    (pair,) = paired_segmentations(open_masks(tmp_path / "masks"), open_masks(tmp_path / "truth"))
    assert (pair.pred == 3).all()


@pytest.mark.parametrize("name", [COMPOSED, DECOMPOSED])
def test_a_listed_name_is_found_in_either_form(tmp_path: Path, name: str) -> None:
    file = save(tmp_path / f"{name}.png")
    for form in (COMPOSED, DECOMPOSED):
        assert find_file(tmp_path, f"{form}.png") == file
    assert find_file(tmp_path, "none.png") == tmp_path / "none.png"
