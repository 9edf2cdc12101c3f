"""Masks in color are ids by a stated palette, and by nothing else."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentslots.cli.main import main
from latentslots.data import load_dataset
from latentslots.data.errors import DataError
from latentslots.data.importers.mask_palette import ids_of_colors, read_palette


def palette_file(folder: Path, content: object) -> Path:
    path = folder / "palette.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """An image and its mask: a red square of 2 x 3 pixels on black."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (8, 6), (9, 9, 9)).save(tmp_path / "images" / "a.jpg")
    mask = Image.new("RGB", (8, 6))
    mask.paste((255, 0, 0), (1, 2, 3, 5))
    mask.save(tmp_path / "masks" / "a.png")
    return tmp_path


def run(photos: Path, *more: str) -> int:
    words = ["data", "import", "folder", str(photos / "images"), str(photos / "out")]
    return main([*words, "--masks", str(photos / "masks"), "--workers", "1", *more])


def test_colors_become_the_ids_that_a_palette_states(photos: Path) -> None:
    palette = palette_file(photos, {"#000000": 0, "#FF0000": 300})
    assert run(photos, "--palette", str(palette)) == 0
    ids = np.asarray(load_dataset(photos / "out")[0]["segmentation"])
    expected = np.zeros((6, 8), np.int64)
    expected[2:5, 1:3] = 300
    assert (ids == expected).all()


def test_masks_in_color_without_a_palette_are_refused(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(photos) == 2
    assert "a.png cannot be used: it is in color: state which color" in capsys.readouterr().err


def test_a_color_that_the_palette_lacks_is_named(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    palette = palette_file(photos, {"#000000": 0})
    assert run(photos, "--palette", str(palette)) == 2
    message = "a.png cannot be used: the palette has no color #ff0000, which the mask has at (1, 2)"
    assert message in capsys.readouterr().err


def test_a_palette_without_masks_is_refused(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    palette = palette_file(photos, {"#000000": 0})
    words = ["data", "import", "folder", str(photos / "images"), str(photos / "out")]
    assert main([*words, "--palette", str(palette)]) == 2
    assert "a palette is for masks, and there are none" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA"])
def test_masks_of_other_modes(mode: str, tmp_path: Path) -> None:
    palette = read_palette(palette_file(tmp_path, {"#000000": 7, "#ffffff": 0}))
    mask = Image.new("RGB", (4, 2))
    mask.putpixel((3, 1), (255, 255, 255))
    assert np.asarray(ids_of_colors(mask.convert(mode), palette)).tolist() == [
        [7, 7, 7, 7],
        [7, 7, 7, 0],
    ]


def test_masks_that_are_not_opaque_or_deep_are_refused(tmp_path: Path) -> None:
    palette = read_palette(palette_file(tmp_path, {"#000000": 0}))
    with pytest.raises(DataError, match="must be opaque"):
        ids_of_colors(Image.new("RGBA", (2, 2)), palette)
    with pytest.raises(DataError, match=r"8 bits per channel, got mode 'I;16'"):
        ids_of_colors(Image.new("I;16", (2, 2)), palette)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "it must be an object"),
        ({}, "it must be an object"),
        ({"red": 1}, "a color is written #rrggbb, got 'red'"),
        ({"#ff0000": -1}, "the id of #ff0000 must be in 0..65535"),
        ({"#ff0000": True}, "the id of #ff0000 must be in 0..65535"),
        ({"#ff0000": 1, "#FF0000": 2}, "it has two ids for #ff0000"),
    ],
)
def test_wrong_palettes(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_palette(palette_file(tmp_path, content))
    with pytest.raises(DataError, match="there is no file"):
        read_palette(tmp_path / "missing.json")
