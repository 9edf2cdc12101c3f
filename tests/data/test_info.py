import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel
from PIL import Image

from latentslots.data import DataError, StoreWriter, contact_sheet, import_folder
from latentslots.data.store.info import info

from .conftest import NUCLEI, snapshot


def test_info_of_a_store(store: Path, arrays: dict[str, np.ndarray]) -> None:
    found = info(store)
    split = found.splits["train"]
    counts = np.bincount(arrays["n_objects"])
    assert split.objects == {n: count for n, count in enumerate(counts) if count}
    assert split.mean_objects == pytest.approx(arrays["n_objects"].mean())
    assert (split.num_images, split.num_sampled, split.sizes) == (12, 12, {"100x100": 12})
    assert split.num_bytes == sum(file.stat().st_size for file in store.rglob("*.parquet"))
    assert found.license == "CC-BY-4.0"
    json.dumps(asdict(found))


def test_the_table(store: Path) -> None:
    lines = str(info(store)).splitlines()
    assert lines[0] == f"store (images), {store}"
    assert lines[1] == "license: CC-BY-4.0"
    assert lines[2].split("  ")[0] == "split"
    assert "100x100" in lines[3]
    assert "4.33" in lines[3]
    assert lines[4].startswith("objects in 12 images of train: 2: 1, ")


def test_classes_and_credit_and_sizes(tmp_path: Path) -> None:
    shapes = {"shape": ClassLabel(names=["cube", "ball"])}
    with StoreWriter(tmp_path, "test", credit="Ann", attributes=shapes) as writer:
        for width in (4, 5, 5):
            writer.add(np.zeros((4, width, 3), np.uint8), attributes={"shape": []})
    text = str(info(tmp_path))
    assert "credit: Ann" in text
    assert "shape: cube, ball" in text
    assert "license: not stated" in text
    assert "5x4 and 1 other sizes" in text
    assert "no masks" in text
    assert info(tmp_path).splits["test"].mean_objects is None


def test_info_of_a_folder(photos: Path) -> None:
    found = info(photos)
    assert (found.name, found.kind) == ("photos", "folder")
    assert found.splits["train"].num_images == 10
    assert found.splits["train"].sizes == {"12x8": 10}
    assert found.splits["train"].num_bytes == sum(f.stat().st_size for f in photos.rglob("*.jpg"))


def test_a_large_store_is_sampled_evenly(tmp_path: Path) -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    with StoreWriter(tmp_path, segmentation=True, shard_bytes=60_000) as writer:
        for row in range(2000):
            writer.add(image, segmentation=np.full((2, 2), int(row >= 1000)))
    split = info(tmp_path).splits["train"]
    assert split.num_images == 2000
    assert 900 < split.num_sampled <= 1000
    assert split.mean_objects == pytest.approx(0.5, abs=0.05)


def test_a_contact_sheet_shows_images_and_masks(store: Path, tmp_path: Path) -> None:
    path = contact_sheet(store, "train", tmp_path / "new" / "sheet.png", num=10, tile=20)
    with Image.open(path) as sheet:
        assert sheet.size == (8 * (20 + 4 + 20 + 12), 2 * (20 + 12))
        left = np.asarray(sheet.crop((4, 4, 24, 24)))
        right = np.asarray(sheet.crop((28, 4, 48, 24)))
    assert (np.abs(left.astype(int) - right).max(-1) > 50).mean() > 0.5  # the background is dim
    assert len(np.unique(right.reshape(-1, 3), axis=0)) > 4


@pytest.mark.parametrize("num", [1, 5, 32])
def test_a_contact_sheet_of_a_folder(photos: Path, tmp_path: Path, num: int) -> None:
    path = contact_sheet(photos, "train", tmp_path / "sheet.png", num=num, tile=10)
    with Image.open(path) as sheet:
        shown = min(num, 10)
        assert sheet.size == (22 * min(shown, 8), 22 * -(-shown // 8))


def test_16_bit_masks_are_drawn(tmp_path: Path) -> None:
    import_folder(NUCLEI / "images", tmp_path / "out", masks=NUCLEI / "masks")
    before = snapshot(tmp_path / "out")
    contact_sheet(tmp_path / "out", "train", tmp_path / "sheet.png")
    assert info(tmp_path / "out").splits["train"].mean_objects > 5
    assert snapshot(tmp_path / "out") == before


def test_invalid_arguments(store: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="num must be at least 1, got 0"):
        contact_sheet(store, "train", tmp_path / "a.png", num=0)
    with pytest.raises(DataError, match=r"a contact sheet is a \.png or \.jpg file, got .*a\.txt"):
        contact_sheet(store, "train", tmp_path / "a.txt")
    assert not (tmp_path / "a.txt").exists()
    with Image.open(contact_sheet(store, "train", tmp_path / "a.jpg", num=1)) as sheet:
        assert sheet.format == "JPEG"
    with pytest.raises(DataError, match="has no split 'test', only 'train'"):
        contact_sheet(store, "test", tmp_path / "a.png")
    with pytest.raises(DataError, match="there is no data set at"):
        info(tmp_path / "nowhere")
