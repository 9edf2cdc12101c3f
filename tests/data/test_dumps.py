"""Folders in the layouts of the official LSD's and SlotDiffusion's scripts."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentslots.cli.main import main
from latentslots.data import DataError, import_folder, load_dataset
from latentslots.data.importers.dumps import import_dump
from latentslots.data.store.attributes import read_attributes
from latentslots.data.store.manifest import read_manifest

PADDED = 5


def frame(video: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng([video, number])
    ids = np.zeros((16, 16), np.uint8)
    for k in range(2 + video):
        ids[3 * k : 3 * k + 3, number : number + 5] = k + 1
    return random.integers(0, 256, (16, 16, 3)).astype(np.uint8), ids


def instances(video: int, number: int) -> dict[str, Any]:
    """Attributes as the official script writes them: for one frame, padded with zeros."""
    count = 2 + video
    random = np.random.default_rng([video, number])
    padding = PADDED - count
    return {
        "category": [k + 1 for k in range(count)] + [0] * padding,
        "mass": [*random.uniform(1, 2, count).tolist(), *[0.0] * padding],
        "positions": [*random.normal(size=(count, 3)).tolist(), *[[0.0] * 3] * padding],
        "visibility": [15] * count + [0] * padding,
    }


def lsd(folder: Path, validation: str = "validation") -> Path:
    for split, videos in (("train", (0, 1)), (validation, (0,))):
        root = folder / f"movi-e-{split}-with-label"
        for video in videos:
            images, labels = (root / part / f"{video:08d}" for part in ("images", "labels"))
            images.mkdir(parents=True)
            labels.mkdir(parents=True)
            for number in range(3):
                pixels, ids = frame(video, number)
                Image.fromarray(pixels).save(images / f"{number:08d}_image.png")
                Image.fromarray(ids).save(labels / f"{number:08d}_segment.png")
                (labels / f"{number:08d}_instances.json").write_text(
                    json.dumps(instances(video, number))
                )
    return folder


def slotdiffusion(folder: Path) -> Path:
    for split in ("train", "val"):
        for video in range(2):
            place = folder / split / f"{video:08d}"
            place.mkdir(parents=True)
            for number in range(3):
                pixels, ids = frame(video, number)
                Image.fromarray(pixels).save(place / f"{number:06d}.jpg")
                Image.fromarray(ids).save(place / f"{number:06d}_mask.png")
    return folder


@pytest.mark.parametrize("validation", ["validation", "val"])
def test_lsd_layout(validation: str, tmp_path: Path) -> None:
    source = lsd(tmp_path / "in", validation)
    command = ["data", "import", "lsd-dump", str(source), str(tmp_path / "out"), "--workers", "1"]
    assert main(command) == 0
    rows = load_dataset(tmp_path / "out", split="train")
    assert rows["video"] == ["00000000"] * 3 + ["00000001"] * 3
    assert rows["frame"] == [0, 1, 2] * 2
    for row in rows:
        video, number = int(row["video"]), row["frame"]
        pixels, ids = frame(video, number)
        expected, count = instances(video, number), 2 + video
        assert (np.asarray(row["image"]) == pixels).all()
        assert (np.asarray(row["segmentation"]) == ids).all()
        assert row["attributes"]["category"] == expected["category"][:count]
        for name in ("mass", "positions"):
            np.testing.assert_allclose(row["attributes"][name], expected[name][:count], rtol=1e-6)
    assert len(load_dataset(tmp_path / "out", split="validation")) == 3
    kinds = {one.name: one.classes for one in read_attributes(rows)}
    assert kinds == {"category": ("1", "2", "3"), "mass": (), "positions": (), "visibility": ()}


def test_slotdiffusion_layout(tmp_path: Path) -> None:
    out = import_dump(slotdiffusion(tmp_path / "in"), tmp_path / "out", "slotdiffusion", workers=1)
    rows = load_dataset(out, split="validation")
    assert len(rows) == 6
    assert (np.asarray(rows[4]["segmentation"]) == frame(1, 1)[1]).all()
    cell = rows.data.column("image").to_pylist()[4]
    file = tmp_path / "in" / "val" / "00000001" / "000001.jpg"
    assert cell == {"bytes": file.read_bytes(), "path": "000001.jpg"}
    small = import_dump(tmp_path / "in", tmp_path / "8", "slotdiffusion", resolution=8, workers=1)
    row = load_dataset(small, split="train")[0]
    assert row["image"].size == row["segmentation"].size == (8, 8)


def test_bad_input(tmp_path: Path) -> None:
    def fails(folder: Path, message: str, kind: Any = "lsd") -> None:
        with pytest.raises(DataError, match=message):
            import_dump(folder, tmp_path / "never", kind, workers=1)
        assert not (tmp_path / "never").exists()

    fails(Path("/nowhere"), "there is no folder /nowhere")
    large = lsd(tmp_path / "large")
    labels = large / "movi-e-train-with-label" / "labels" / "00000001" / "00000002_instances.json"
    labels.write_text(json.dumps({**instances(1, 2), "category": [1, 2, 300, 0, 0]}))
    with pytest.raises(DataError, match=r"category must be a code in 0\.\.255, got 300"):
        import_dump(large, tmp_path / "half", "lsd", workers=1)
    fails(slotdiffusion(tmp_path / "a"), "no split in the layout of lsd, such as movi-e-train-with")
    fails(
        lsd(tmp_path / "b"),
        "no split in the layout of slotdiffusion, such as train/",
        "slotdiffusion",
    )
    (tmp_path / "a" / "validation").mkdir()
    fails(tmp_path / "a", "holds 'validation' twice: validation and val", "slotdiffusion")
    (tmp_path / "c" / "train").mkdir(parents=True)
    fails(tmp_path / "c", "holds no images in the layout of a dump", "slotdiffusion")
    labels = tmp_path / "b" / "movi-e-train-with-label" / "labels" / "00000000"
    file = labels / "00000000_instances.json"
    file.write_text('{"mass": [1, 2], "scale": [1]}')
    fails(tmp_path / "b", "does not list objects: its lists are of different lengths")
    file.write_text("[1]")
    fails(tmp_path / "b", "does not list objects: AttributeError")
    file.write_text(json.dumps({"mass": [1.0, 2.0]}))
    fails(tmp_path / "b", "first frame have different attributes: one lacks 'category'")
    file.write_text(json.dumps(instances(0, 0)))
    Image.new("RGB", (16, 16)).save(labels / "00000001_segment.png")
    fails(
        tmp_path / "b", "00000001_segment.png cannot be used: a segmentation must have one channel"
    )
    (labels / "00000002_segment.png").unlink()
    fails(tmp_path / "b", "has no .*00000002_segment.png")
    images = tmp_path / "b" / "movi-e-train-with-label" / "images" / "00000000"
    (images / "00000001_image.png").unlink()
    (images / "00000002_image.png").unlink()
    fails(tmp_path / "b", "00000001_segment.png has no image$")
    Image.new("RGB", (16, 16)).save(images / "abc_image.png")
    fails(tmp_path / "b", "abc_image.png must be named by a number")
    videos = slotdiffusion(tmp_path / "d") / "train" / "00000000"
    next(videos.glob("*.jpg")).unlink()
    fails(tmp_path / "d", "_mask.png has no image", "slotdiffusion")


def test_a_split_made_from_other_files_is_refused(tmp_path: Path) -> None:
    first, second = lsd(tmp_path / "a"), lsd(tmp_path / "b")
    out = import_dump(first, tmp_path / "out", "lsd", workers=1, license="Apache-2.0")
    assert read_manifest(str(out)).license == "Apache-2.0"
    import_dump(second, out, "lsd", workers=1)  # the same files in another folder
    extra = second / "movi-e-train-with-label"
    shutil.copytree(extra / "images" / "00000001", extra / "images" / "00000007")
    shutil.copytree(extra / "labels" / "00000001", extra / "labels" / "00000007")
    with pytest.raises(DataError, match="holds 'train' made from other files"):
        import_dump(second, out, "lsd", workers=1)
    with pytest.raises(DataError, match="holds lsd-dump, to which no images can be added"):
        import_folder(extra / "images", out, split="test", workers=1)


def test_boxes_and_the_background_of_clevr_are_dropped(tmp_path: Path) -> None:
    """The script writes boxes of other frames; entry 0 of CLEVR is the background."""
    source = lsd(tmp_path / "in")
    for file in source.rglob("*_instances.json"):
        video, number = int(file.parent.name), int(file.name[:8])
        expected, count = instances(video, number), 2 + video
        expected["bboxes"], expected["bbox_frames"] = (
            [[[0.0] * 4] * 3] * PADDED,
            [[0, 1, 2]] * PADDED,
        )
        file.write_text(json.dumps(expected))
    row = load_dataset(import_dump(source, tmp_path / "out", "lsd", workers=1))[0]
    assert set(row["attributes"]) == {"category", "mass", "positions", "visibility"}
    for file in source.rglob("*_instances.json"):
        count = 2 + int(file.parent.name)
        rest = 10 - count
        places = {name: [float(k) for k in range(count + 1)] + [0.0] * rest for name in "xyz"}
        of_clevr = {"pixel_coords": [[1.0] * 3] * (count + 1) + [[0.0] * 3] * rest,
                    "rotation": [5.0] * (count + 1) + [0.0] * rest,
                    "shape": [0, *range(1, count + 1)] + [0] * rest}  # fmt: skip
        file.write_text(json.dumps({**places, **of_clevr}))
    rows = load_dataset(import_dump(source, tmp_path / "clevr", "lsd", workers=1))
    assert rows[0]["attributes"]["shape"] == [1, 2]
    assert rows[0]["attributes"]["x"] == [1.0, 2.0]
