"""What tells the files of one data set from those of another, and room on the disk for them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentslots.data import DataError, import_folder, load_dataset
from latentslots.data.importers import ffhq
from latentslots.data.importers.ffhq import import_ffhq
from latentslots.data.store.sources import source_of

from .conftest import killed_at_second_block


def files(folder: Path) -> list[Path]:
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_bytes(name.encode() * 9)
    return sorted(folder.iterdir())


def test_names_and_sizes_count_and_places_do_not(tmp_path: Path) -> None:
    here, there = files(tmp_path / "here"), files(tmp_path / "there")
    first = source_of(here, tmp_path / "here")
    assert first.num_bytes == 18
    assert source_of(reversed(there), tmp_path / "there") == first
    there[0].write_bytes(b"longer than before")
    assert source_of(there, tmp_path / "there").fingerprint != first.fingerprint
    here[0].rename(here[0].with_name("c"))
    moved = source_of(sorted((tmp_path / "here").iterdir()), tmp_path / "here")
    assert moved.fingerprint != first.fingerprint


def test_half_made_blocks_go_on_with_a_mended_file_and_not_with_other_files(
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
    Image.new("RGB", (20, 20)).save(tmp_path / "in" / "00.png")  # before the others
    (tmp_path / "in" / "0.png").rename(tmp_path / "in" / "7.png")
    with pytest.raises(DataError, match="holds a half-made 'train' of other data"):
        import_ffhq(tmp_path / "in", tmp_path / "out", workers=1)
    (tmp_path / "in" / "00.png").unlink()
    (tmp_path / "in" / "7.png").rename(tmp_path / "in" / "0.png")
    Image.new("RGB", (20, 20)).save(tmp_path / "in" / "3.png")  # of a block that is not made
    rows_of = load_dataset(import_ffhq(tmp_path / "in", tmp_path / "out", workers=1))
    assert [row["image"].width for row in rows_of] == [16, 16, 16, 20]


def test_a_disk_without_room_is_found_before_anything_is_made(
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
    with pytest.raises(DataError, match=r"will need about .* GB more .* are free"):
        import_ffhq(tmp_path / "in", tmp_path / "out", workers=1)
    with pytest.raises(DataError, match=r"will need about .* GB more .* are free"):
        import_folder(tmp_path / "in", tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()
