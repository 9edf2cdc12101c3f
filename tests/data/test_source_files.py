"""Fingerprints of source files, resuming by them, and disk space for what is made from them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentslots.data import DataError, import_folder, load_dataset
from latentslots.data.importers import ffhq
from latentslots.data.importers.ffhq import import_ffhq
from latentslots.data.store.source_files import inspect_files

from .conftest import killed_at_second_block


def files(folder: Path) -> list[Path]:
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_bytes(name.encode() * 9)
    return sorted(folder.iterdir())


def test_fingerprints_are_of_names_and_sizes_in_any_folder(tmp_path: Path) -> None:
    here, there = files(tmp_path / "here"), files(tmp_path / "there")
    first = inspect_files(here, tmp_path / "here")
    assert first.num_bytes == 18
    assert inspect_files(reversed(there), tmp_path / "there") == first
    there[0].write_bytes(b"longer than before")
    assert inspect_files(there, tmp_path / "there").fingerprint != first.fingerprint
    here[0].rename(here[0].with_name("c"))
    moved = inspect_files(sorted((tmp_path / "here").iterdir()), tmp_path / "here")
    assert moved.fingerprint != first.fingerprint


def test_an_import_is_resumed_with_a_repaired_file_but_not_with_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    draws = np.random.default_rng(0)
    for number in range(4):
        pixels = draws.integers(0, 256, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{number}.png")
    monkeypatch.setattr(ffhq, "_BLOCK", 2)
    with killed_at_second_block(ffhq):
        import_ffhq(tmp_path / "in", tmp_path / "out", workers=1)
    Image.new("RGB", (20, 20)).save(tmp_path / "in" / "00.png")  # first in the order
    (tmp_path / "in" / "0.png").rename(tmp_path / "in" / "7.png")
    with pytest.raises(DataError, match="holds an unfinished split 'train' of other data"):
        import_ffhq(tmp_path / "in", tmp_path / "out", workers=1)
    (tmp_path / "in" / "00.png").unlink()
    (tmp_path / "in" / "7.png").rename(tmp_path / "in" / "0.png")
    Image.new("RGB", (20, 20)).save(tmp_path / "in" / "3.png")  # in the block that was not made
    rows_of = load_dataset(import_ffhq(tmp_path / "in", tmp_path / "out", workers=1))
    assert [row["image"].width for row in rows_of] == [16, 16, 16, 20]


def test_a_lack_of_disk_space_is_reported_before_an_image_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in" / "0.png")

    class Usage:
        free = 1000

    def never(*_: object) -> None:
        raise AssertionError("an image was read")

    monkeypatch.setattr("latentslots.data.store.resumable.shutil.disk_usage", lambda _: Usage)
    monkeypatch.setattr("latentslots.data.store.resumable._make_block", never)
    with pytest.raises(DataError, match=r"needs about .* GB more .* are free"):
        import_ffhq(tmp_path / "in", tmp_path / "out", workers=1)
    with pytest.raises(DataError, match=r"needs about .* GB more .* are free"):
        import_folder(tmp_path / "in", tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()
