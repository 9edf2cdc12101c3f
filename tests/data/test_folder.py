import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import Image

from latentslots.data import (
    DataError,
    UnknownSplitError,
    dataset_fingerprint,
    load_dataset,
    split_names,
)
from latentslots.data.store.folder import find_images, split_files

from .conftest import noise_image


def paths(root: Path, **options: Any) -> list[str]:
    rows = load_dataset(root, **options).cast_column("image", Image(decode=False))
    return [Path(cell["path"]).relative_to(root).as_posix() for cell in rows["image"]]


def test_images_are_found_at_any_depth_and_sorted(photos: Path) -> None:
    (photos / ".hidden").mkdir()
    for name in ("c.JPEG", "d.webp", "e.bmp", "f.tif", "._a.jpg", ".hidden/g.png"):
        noise_image(photos / name)
    found = paths(photos)
    frames = [f"{video}/frame_{n}.jpg" for video in "ab" for n in (10, 11, 7, 8, 9)]
    assert found == [*frames, "c.JPEG", "d.webp", "e.bmp", "f.tif"]


def test_images_are_decoded_in_place(photos: Path) -> None:
    row = load_dataset(photos)[0]
    assert list(row) == ["image"]
    assert row["image"].size == (12, 8)
    stream = load_dataset(photos, streaming=True)
    assert sum(1 for _ in stream) == 10


def test_a_glob_selects_images(photos: Path) -> None:
    assert paths(photos, glob="a/*_7.jpg") == ["a/frame_7.jpg"]
    with pytest.raises(DataError, match=r"no file in .*photos matches the glob '\*\.gif'"):
        load_dataset(photos, glob="*.gif")
    with pytest.raises(DataError, match="relative to the folder, got '/x'"):
        load_dataset(photos, glob="/x")


def test_no_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("x")
    with pytest.raises(DataError, match=r"no file in .* is an image \(one of \.jpg"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("group_by", ["file", "parent"])
def test_splits_are_disjoint_and_complete(photos: Path, group_by: str) -> None:
    options = {"validation_fraction": 0.3, "group_by": group_by}
    train = paths(photos, split="train", **options)
    validation = paths(photos, split="validation", **options)
    assert not set(train) & set(validation)
    assert sorted(train + validation) == paths(photos)
    assert len(validation) == (3 if group_by == "file" else 5)


def test_a_video_is_never_divided(photos: Path) -> None:
    options = {"validation_fraction": 0.4, "group_by": "parent"}
    videos = [
        set(load_dataset(photos, split=split, **options)["video"])
        for split in ("train", "validation")
    ]
    assert sorted(map(len, videos)) == [1, 1]
    assert videos[0] | videos[1] == {"a", "b"}


def test_the_split_is_stable_and_seeded() -> None:
    files = [f"{n:03d}.png" for n in range(200)]
    split = split_files(files, validation_fraction=0.1)
    assert split == split_files(files, validation_fraction=0.1)
    assert len(split["validation"]) == 20
    assert split["validation"][:3] == ["001.png", "006.png", "008.png"], "same on every machine"
    assert split != split_files(files, validation_fraction=0.1, seed=1)
    more = split_files([*files, "new.png"], validation_fraction=0.1)
    assert len(set(more["validation"]) ^ set(split["validation"])) <= 2


def test_no_split_is_empty() -> None:
    assert list(map(len, split_files("ab", validation_fraction=0.01).values())) == [1, 1]
    assert list(map(len, split_files("ab", validation_fraction=0.99).values())) == [1, 1]


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (["a/1.png", "a/2.png"], {"validation_fraction": 0.5, "group_by": "parent"}, "one parent"),
        (["a.png"], {"validation_fraction": 0.5}, "one image cannot be split"),
        (["a.png", "b.png"], {"validation_fraction": 1.0}, "exclusive, got 1.0"),
        (["a.png", "b.png"], {"validation_fraction": 0.0}, "exclusive, got 0.0"),
        (["a.png"], {"validation_fraction": 0.5, "group_by": "folder"}, "got 'folder'"),
    ],
)
def test_impossible_splits(files: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        split_files(files, **options)


def test_without_a_fraction_there_is_no_validation_split(photos: Path) -> None:
    with pytest.raises(UnknownSplitError, match="only 'train'; set validation_fraction to hold"):
        load_dataset(photos, split="validation")
    with pytest.raises(UnknownSplitError, match=r"has no split 'test', only 'train'$"):
        load_dataset(photos, split="test")


def test_folders_named_as_splits_are_splits(photos: Path) -> None:
    (photos / "a").rename(photos / "train")
    (photos / "b").rename(photos / "validation")
    assert split_names(photos) == ["train", "validation"]
    assert len(paths(photos, split="train")) == len(paths(photos, split="validation")) == 5
    assert all(path.startswith("validation/") for path in paths(photos, split="validation"))


def test_the_fingerprint_follows_the_files(photos: Path) -> None:
    file = photos / "a" / "frame_7.jpg"
    before = dataset_fingerprint(load_dataset(photos))
    assert before == dataset_fingerprint(load_dataset(photos))
    os.utime(file, (1, 1))
    assert before == dataset_fingerprint(load_dataset(photos)), "of the same content"
    shutil.copytree(photos, photos.with_name("copy"))
    assert before == dataset_fingerprint(load_dataset(photos.with_name("copy")))
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # of the same size
    changed = dataset_fingerprint(load_dataset(photos))
    file.unlink()
    assert len({before, changed, dataset_fingerprint(load_dataset(photos))}) == 3


def test_group_by_is_checked_without_a_fraction_too(photos: Path) -> None:
    with pytest.raises(DataError, match="group_by must be 'file' or 'parent', got 'x'"):
        load_dataset(photos, group_by="x")
    assert find_images(photos, "b/*.jpg")[0] == "b/frame_10.jpg"


def test_the_validation_folder_has_two_names(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        (tmp_path / name).mkdir()
    for name in ("train/a", "train/b", "val/c", "test/d"):
        noise_image(tmp_path / f"{name}.png")
    assert split_names(tmp_path) == ["train", "validation", "test"]
    assert paths(tmp_path, split="validation") == ["val/c.png"]
    halves = {
        split: paths(tmp_path, split=split, validation_fraction=0.5)
        for split in ("train", "validation")
    }
    assert sorted(halves["train"] + halves["validation"]) == ["train/a.png", "train/b.png"]
    (tmp_path / "validation").mkdir()
    noise_image(tmp_path / "validation" / "e.png")
    with pytest.raises(DataError, match="holds 'validation' twice: validation and val"):
        load_dataset(tmp_path)
