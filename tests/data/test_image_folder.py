import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Image as ImageFeature
from PIL import Image

from latentslots.data import (
    DataError,
    StoreWriter,
    import_folder,
    load_dataset,
    split_names,
)
from latentslots.data.importers import image_folder

from .conftest import NUCLEI, killed_at_second_block, noise_image, snapshot, truncate


@pytest.fixture
def nuclei(tmp_path: Path) -> Path:
    return shutil.copytree(NUCLEI, tmp_path / "nuclei")


def test_bytes_and_ids_are_kept(nuclei: Path, tmp_path: Path) -> None:
    import_folder(nuclei / "images", tmp_path / "out", masks=nuclei / "masks", license="CC0")
    rows = load_dataset(tmp_path / "out")
    encoded = rows.cast_column("image", ImageFeature(decode=False))["image"]
    files = sorted((nuclei / "images").iterdir())
    assert len(rows) == len(files) == 6
    for row, cell, file in zip(rows, encoded, files, strict=True):
        assert cell == {"bytes": file.read_bytes(), "path": file.name}
        with Image.open(nuclei / "masks" / file.name) as mask:
            assert np.array_equal(np.asarray(row["segmentation"]), np.asarray(mask))


def test_images_and_masks_are_resized(nuclei: Path, tmp_path: Path) -> None:
    import_folder(nuclei / "images", tmp_path / "out", masks=nuclei / "masks", resolution=32)
    for row in load_dataset(tmp_path / "out"):
        assert row["image"].size == row["segmentation"].size == (32, 32)


def test_both_splits_at_once(photos: Path, tmp_path: Path) -> None:
    out = import_folder(photos, tmp_path / "out", validation_fraction=0.5, group_by="parent")
    assert split_names(out) == ["train", "validation"]
    sides = [load_dataset(out, split=split) for split in split_names(out)]
    assert {*sides[0]["video"]} ^ {*sides[1]["video"]} == {"a", "b"}
    assert sorted(sides[0]["frame"]) == list(range(5))
    names = sides[0].cast_column("image", ImageFeature(decode=False))["image"]
    by_frame = sorted(
        (frame, cell["path"]) for frame, cell in zip(sides[0]["frame"], names, strict=True)
    )
    assert [Path(path).stem for _, path in by_frame] == [f"frame_{n}" for n in range(7, 12)]


def test_a_glob_selects_images(photos: Path, tmp_path: Path) -> None:
    import_folder(photos, tmp_path / "out", glob="a/*.jpg", split="test")
    assert len(load_dataset(tmp_path / "out", split="test")) == 5


def test_masks_may_have_another_suffix(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder / "deep").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "deep" / "a.jpg")
    mask = Image.new("P", (8, 8), 3)
    mask.putpalette([0] * 768)
    mask.save(tmp_path / "masks" / "deep" / "a.png")
    import_folder(tmp_path / "images", tmp_path / "out", masks=tmp_path / "masks")
    assert np.asarray(load_dataset(tmp_path / "out")[0]["segmentation"]).max() == 3


def without_mask(nuclei: Path) -> None:
    sorted((nuclei / "masks").iterdir())[0].unlink()


def without_image(nuclei: Path) -> None:
    for image in sorted((nuclei / "images").iterdir())[:5]:
        image.unlink()


def with_two_masks(nuclei: Path) -> None:
    mask = sorted((nuclei / "masks").iterdir())[0]
    shutil.copy(mask, mask.with_suffix(".tif"))


def with_small_mask(nuclei: Path) -> None:
    Image.new("L", (10, 10)).save(sorted((nuclei / "masks").iterdir())[-1])


def with_color_mask(nuclei: Path) -> None:
    mask = sorted((nuclei / "masks").iterdir())[-1]
    Image.new("RGB", Image.open(mask).size).save(mask)


def with_truncated_image(nuclei: Path) -> None:
    truncate(sorted((nuclei / "images").iterdir())[-1])


def with_truncated_mask(nuclei: Path) -> None:
    truncate(sorted((nuclei / "masks").iterdir())[-1])


def with_text_for_an_image(nuclei: Path) -> None:
    sorted((nuclei / "images").iterdir())[-1].write_text("x")


@pytest.mark.parametrize("resolution", [None, 16])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_mask, r"^'\w+' is in .*/images without a mask in .*/masks$"),
        (without_image, r"^'\w+', '\w+', '\w+' and 2 more are in .*/masks without an image in"),
        (with_two_masks, r"/masks has two masks for '\w+'$"),
        (with_small_mask, r"/masks/\w+.png cannot be used: the segmentation is 10x10 pixels, but"),
        (with_color_mask, r"/masks/\w+.png cannot be used: it is in color"),
        (with_truncated_image, r"/images/\w+.png cannot be decoded"),
        (with_truncated_mask, r"/masks/\w+.png cannot be decoded"),
        (with_text_for_an_image, r"/images/\w+.png cannot be decoded: it is not an image"),
    ],
)
@pytest.mark.filterwarnings("ignore:unclosed file")
def test_invalid_files_are_named_and_leave_no_store(
    nuclei: Path, tmp_path: Path, spoil: Any, message: str, resolution: int | None
) -> None:
    spoil(nuclei)
    with pytest.raises(DataError, match=message):
        import_folder(
            nuclei / "images",
            tmp_path / "out",
            masks=nuclei / "masks",
            resolution=resolution,
            validation_fraction=0.3,
        )
    assert not (tmp_path / "out").exists()


def test_bad_files_can_be_skipped_and_are_counted(
    nuclei: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with_text_for_an_image(nuclei)
    import_folder(nuclei / "images", tmp_path / "out", masks=nuclei / "masks", on_bad_sample="skip")
    bad = sorted((nuclei / "images").iterdir())[-1]
    assert len(load_dataset(tmp_path / "out")) == 5
    assert f"{bad} cannot be decoded" in caplog.messages[0]
    assert caplog.messages[1:] == ["skipped 1 of 6 images"]
    with pytest.raises(DataError, match="on_bad_sample must be 'error' or 'skip', got 'ignore'"):
        import_folder(nuclei / "images", tmp_path / "other", on_bad_sample="ignore")


def test_invalid_arguments(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder .*nowhere"):
        import_folder(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(DataError, match=r"there is no folder .*nowhere"):
        import_folder(photos, tmp_path / "out", masks=tmp_path / "nowhere")
    with pytest.raises(DataError, match="split must be 'train', got 'test'"):
        import_folder(photos, tmp_path / "out", split="test", validation_fraction=0.5)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_content_is_not_changed(photos: Path, tmp_path: Path) -> None:
    before = snapshot(photos)
    with pytest.raises(DataError, match="is not empty and not a store"):
        import_folder(photos, photos)
    assert snapshot(photos) == before
    out = import_folder(photos, tmp_path / "out", split="validation")
    before = snapshot(out)
    with pytest.raises(DataError, match="already has a split 'validation'"):
        import_folder(photos, out, validation_fraction=0.5)
    assert snapshot(out) == before


@pytest.mark.slow
def test_bytes_do_not_depend_on_workers_or_interruptions(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_folder, "_BLOCK", 3)
    options = {"validation_fraction": 0.5, "group_by": "parent"}
    whole = snapshot(import_folder(photos, tmp_path / "whole" / "out", workers=1, **options))
    with killed_at_second_block(image_folder):
        import_folder(photos, tmp_path / "killed" / "out", workers=1, **options)
    out = import_folder(photos, tmp_path / "killed" / "out", workers=2, **options)
    assert snapshot(out) == whole
    assert snapshot(import_folder(photos, out, **options)) == whole  # nothing is left to do


def test_progress_goes_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    noise_image(tmp_path / "images" / "a.png")
    import_folder(tmp_path / "images", tmp_path / "out", progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "train: 100%" in captured.err


def test_an_import_is_not_resumed_with_other_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for name in ("images", "one", "two"):
        (tmp_path / name).mkdir()
        value = np.full((8, 8), len(name), np.uint8)
        Image.fromarray(value if name != "images" else np.stack([value] * 3, -1)).save(
            tmp_path / name / "a.png"
        )
    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "add_block", killed)
        with pytest.raises(KeyboardInterrupt):
            import_folder(tmp_path / "images", tmp_path / "out", masks=tmp_path / "one", workers=1)
    with pytest.raises(DataError, match="holds an unfinished split 'train' of other data"):
        import_folder(tmp_path / "images", tmp_path / "out", masks=tmp_path / "two", workers=1)
