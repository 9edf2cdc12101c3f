"""VOC from a small folder in its layout: palettes, void, lists, and images without masks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentslots.cli.main import main
from latentslots.data import DataError, load_dataset
from latentslots.data.importers.voc import CLASSES, VOID, VocOptions, import_voc

ONE = {"train": "train", "validation": "val"}


def palette(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.frombytes("P", array.shape[::-1], array.astype(np.uint8).tobytes())
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
    image.save(path)


def masks(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Two objects, a dog and a person, each with a seam of void around it."""
    objects = np.zeros((40, 60), np.uint8)
    classes = np.zeros((40, 60), np.uint8)
    for k, (kind, left) in enumerate(((12, 4 + number), (15, 34))):
        for array, value in ((objects, k + 1), (classes, kind)):
            array[9:31, left - 1 : left + 21] = VOID
            array[10:30, left : left + 20] = value
    return objects, classes


def voc(folder: Path) -> Path:
    """Three images with masks, and one without, in the folder of the devkit."""
    root = folder / "VOCdevkit" / "VOC2012"
    (root / "JPEGImages").mkdir(parents=True)
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(4):
        pixels = random.integers(0, 256, (40, 60, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / "JPEGImages" / f"2007_{number:06d}.jpg")
        if number < 3:
            objects, classes = masks(number)
            palette(objects, root / "SegmentationObject" / f"2007_{number:06d}.png")
            palette(classes, root / "SegmentationClass" / f"2007_{number:06d}.png")
    for name, numbers in (("train", (0, 1)), ("val", (2,)), ("trainaug", (0, 1, 3))):
        lines = "".join(f"2007_{number:06d}\n" for number in numbers)
        (root / "ImageSets" / "Segmentation" / f"{name}.txt").write_text(lines)
    return folder


def test_objects_have_their_class_and_void_is_not_scored(tmp_path: Path) -> None:
    out = import_voc(voc(tmp_path / "in"), tmp_path / "out", lists=ONE, workers=1)
    names = json.loads((out / "dataset_info.json").read_text())["class_names"]["category"]
    rows = [*load_dataset(out, split="train"), *load_dataset(out, split="validation")]
    for number, row in enumerate(rows):
        objects, _ = masks(number)
        ids = np.asarray(row["segmentation"])
        assert (ids == np.where(objects == VOID, 0, objects)).all()
        assert (np.asarray(row["ignore"]).astype(bool) == (objects == VOID)).all()
        assert [names[kind] for kind in row["attributes"]["category"]] == ["dog", "person"]
        box = [10 / 40, (4 + number) / 60, 30 / 40, (24 + number) / 60]
        assert row["attributes"]["bboxes"][0] == pytest.approx(box)
    cell = load_dataset(out, split="validation").data.column("image").to_pylist()[0]
    file = tmp_path / "in/VOCdevkit/VOC2012/JPEGImages/2007_000002.jpg"
    assert cell == {"bytes": file.read_bytes(), "path": "2007_000002.jpg"}
    assert tuple(names) == CLASSES


def test_the_class_of_every_pixel_is_imported(tmp_path: Path) -> None:
    folder = voc(tmp_path / "in")
    root = folder / "VOCdevkit" / "VOC2012"
    added = np.zeros((40, 60), np.uint8)
    added[5:9] = 7
    (root / "SegmentationClassAug").mkdir()
    Image.fromarray(added).save(root / "SegmentationClassAug" / "2007_000003.png")
    out = import_voc(folder, tmp_path / "out", lists={"train": "trainaug"}, workers=1)
    rows = load_dataset(out, split="train")
    for number, row in enumerate(list(rows)[:2]):
        assert (np.asarray(row["classes"]) == masks(number)[1]).all()
    assert (np.asarray(rows[2]["classes"]) == added).all()
    Image.new("RGB", (60, 40)).save(root / "SegmentationClassAug" / "2007_000003.png")
    with pytest.raises(DataError, match="must hold ids of 60x40 pixels, got RGB of 60x40"):
        import_voc(folder, tmp_path / "bad", lists={"train": "trainaug"}, workers=1)


def test_images_without_masks_are_not_scored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = import_voc(voc(tmp_path / "in"), tmp_path / "out", workers=1)
    rows = load_dataset(out, split="train")
    assert len(rows) == 3
    assert np.asarray(rows[2]["ignore"]).all()
    assert rows[2]["attributes"]["category"] == []
    assert "1 of 3 images of trainaug have no masks of objects and are not scored" in caplog.text


def test_lists_of_paths_and_other_sizes(tmp_path: Path) -> None:
    folder = voc(tmp_path / "in")
    root = folder / "VOCdevkit" / "VOC2012"
    (root / "ImageSets/Segmentation/trainaug.txt").write_text(
        "/JPEGImages/2007_000000.jpg /SegmentationClassAug/2007_000000.png\n\n"
    )
    command = ["data", "import", "voc", str(root), str(tmp_path / "out"), "--resolution", "32"]
    assert main([*command, "--workers", "1"]) == 0
    row = load_dataset(tmp_path / "out", split="train")[0]
    assert row["image"].size == row["segmentation"].size == row["ignore"].size == (32, 32)
    other = [*command[:4], str(tmp_path / "other"), "--lists", "train=train", "validation=val"]
    assert main(other) == 0
    assert len(load_dataset(tmp_path / "other", split="train")) == 2


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(folder: Path, message: str, lists: Any = ONE) -> None:
        with pytest.raises(DataError, match=message):
            import_voc(folder, tmp_path / "never", VocOptions(), lists=lists, workers=1)
        assert not (tmp_path / "never").exists()

    fails(tmp_path / "nothing", "nothing holds no VOC2012: there is no folder JPEGImages")
    folder = voc(tmp_path / "a")
    root = folder / "VOCdevkit" / "VOC2012"
    fails(folder, r"there is no file .*test\.txt", {"test": "test"})
    (root / "ImageSets/Segmentation/trainaug.txt").unlink()
    fails(folder, r"trainaug\.txt; it is not part of VOC", {"train": "trainaug"})
    (root / "ImageSets/Segmentation/train.txt").write_text("2007_000009\n")
    fails(folder, "lists the image 2007_000009, which is not in")
    (root / "ImageSets/Segmentation/train.txt").write_text("\n")
    fails(folder, r"train\.txt lists no image")

    root = voc(tmp_path / "b") / "VOCdevkit" / "VOC2012"
    mask = root / "SegmentationObject" / "2007_000000.png"
    Image.open(mask).convert("L").save(mask)
    fails(root, "must be a palette PNG, got mode L: a conversion has lost its ids")
    palette(np.zeros((40, 50)), mask)
    fails(root, "is 50x40 pixels, but its image is 60x40")
    palette(masks(0)[0], mask)
    kinds = root / "SegmentationClass" / "2007_000000.png"
    palette(np.zeros((40, 60)), kinds)
    fails(root, r"2007_000000\.png has no class where 2007_000000\.png has object 1")
    kinds.unlink()
    fails(root, r"there is no file .*SegmentationClass/2007_000000\.png")
    command = ["data", "import", "voc", str(root), str(tmp_path / "never"), "--lists", "train"]
    assert main(command) == 2
    assert "--lists takes SPLIT=LIST, got 'train'" in capsys.readouterr().err


def test_masks_added_later_make_other_data(tmp_path: Path) -> None:
    folder = voc(tmp_path / "in")
    lists = {"train": "trainaug"}
    out = import_voc(folder, tmp_path / "out", lists=lists, workers=1)
    assert import_voc(folder, out, lists=lists, workers=1) == out
    added = folder / "VOCdevkit" / "VOC2012" / "SegmentationClassAug" / "2007_000003.png"
    added.parent.mkdir()
    Image.fromarray(masks(2)[1]).save(added)
    with pytest.raises(DataError, match="holds 'train' made from other files"):
        import_voc(folder, out, lists=lists, workers=1)
