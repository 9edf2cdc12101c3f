import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, List, Value
from PIL import Image

from latentslots.data import DataError, StoreWriter, load_dataset
from latentslots.data.store.manifest import read_manifest

from .conftest import NUCLEI, snapshot

PIXELS = np.zeros((4, 6, 3), np.uint8)
IDS = np.zeros((4, 6), np.uint8)


def write(path: Path, split: str = "train", **options: Any) -> None:
    with StoreWriter(path, split, **options) as writer:
        writer.add(PIXELS)


def test_encoded_bytes_are_stored_unchanged(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, format="JPEG")
    with StoreWriter(tmp_path / "store") as writer:
        writer.add(buffer.getvalue(), source="red.jpg")
    rows = load_dataset(tmp_path / "store").with_format("arrow")
    cell = rows[0]["image"][0].as_py()
    assert cell == {"bytes": buffer.getvalue(), "path": "red.jpg"}


def test_pixels_are_encoded_as_png(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, shape, np.uint8) for shape in ((4, 6, 3), (4, 6))]
    with StoreWriter(tmp_path / "store") as writer:
        for pixels in images:
            writer.add(pixels)
            writer.add(Image.fromarray(pixels))
    rows = load_dataset(tmp_path / "store")
    for row, pixels in zip(rows, [p for p in images for _ in "12"], strict=True):
        assert row["image"].format == "PNG"
        assert np.array_equal(np.asarray(row["image"]), pixels)


@pytest.mark.parametrize(("highest", "mode"), [(255, "L"), (256, "I;16"), (65535, "I;16")])
@pytest.mark.parametrize("dtype", [np.uint16, np.int64])
def test_ids_are_stored_in_8_or_16_bits(
    tmp_path: Path, highest: int, mode: str, dtype: type
) -> None:
    ids = np.array([[0, highest]], dtype)
    with StoreWriter(tmp_path / "store", segmentation=True) as writer:
        writer.add(np.zeros((1, 2, 3), np.uint8), segmentation=ids)
    segmentation = load_dataset(tmp_path / "store")[0]["segmentation"]
    assert segmentation.mode == mode
    assert np.array_equal(np.asarray(segmentation), ids)


def test_objects_videos_and_further_columns(tmp_path: Path) -> None:
    attributes = {
        "shape": ClassLabel(names=["cube", "ball"]),
        "positions": List(Value("float32"), length=3),
    }
    options = {"attributes": attributes, "columns": {"weather": Value("string")}}
    with StoreWriter(tmp_path / "store", video=True, ignore=True, **options) as writer:
        for frame in range(2):
            writer.add(
                PIXELS,
                ignore=IDS + 1 if frame else None,
                attributes={"shape": ["ball", "cube"], "positions": np.eye(3)[:2]},
                video="v0",
                frame=frame,
                weather="fine",
            )
    rows = load_dataset(tmp_path / "store")
    assert rows[1]["attributes"] == {"shape": [1, 0], "positions": [[1, 0, 0], [0, 1, 0]]}
    assert rows.features["attributes"]["shape"].feature.names == ["cube", "ball"]
    assert (rows[1]["video"], rows[1]["frame"], rows[1]["weather"]) == ("v0", 1, "fine")
    assert rows[0]["ignore"] is None
    assert np.asarray(rows[1]["ignore"]).all()
    assert read_manifest(str(tmp_path / "store")).class_names == {"shape": ("cube", "ball")}


def test_shards_are_closed_when_they_are_full(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with StoreWriter(tmp_path / "store", shard_bytes=90_000) as writer:
        for row in range(250):
            writer.add(rng.integers(0, 256, (12, 12, 3), np.uint8), source=str(row))
    split = read_manifest(str(tmp_path / "store")).splits["train"]
    assert [shard.num_rows for shard in split.shards] == [200, 50]
    rows = load_dataset(tmp_path / "store").with_format("arrow")
    assert [cell.as_py() for cell in rows[:]["image"].combine_chunks().field("path")] == [
        str(row) for row in range(250)
    ]


def test_a_second_split_is_added(tmp_path: Path) -> None:
    write(tmp_path / "store", name="dots", kind="toy", license="MIT", credit="Ann")
    write(tmp_path / "store", "validation", name="dots")
    manifest = read_manifest(str(tmp_path / "store"))
    assert list(manifest.splits) == ["train", "validation"]
    assert (manifest.name, manifest.kind) == ("dots", "toy")
    assert (manifest.license, manifest.credit) == ("MIT", "Ann")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "train"}, "already has a split 'train'"),
        ({"split": "test", "name": "lines"}, "has name 'dots', not 'lines'"),
        ({"split": "test", "license": "GPL"}, "has license 'MIT', not 'GPL'"),
        (
            {"split": "test", "attributes": {"shape": ClassLabel(names=["b", "a"])}},
            r"has class names of shape \('a', 'b'\), not \('b', 'a'\)",
        ),
    ],
)
def test_a_split_that_does_not_match_the_store_changes_nothing(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    shapes = {"shape": ClassLabel(names=["a", "b"])}
    with StoreWriter(tmp_path, name="dots", license="MIT", attributes=shapes) as writer:
        writer.add(PIXELS, attributes={"shape": []})
    before = snapshot(tmp_path)
    with pytest.raises(DataError, match=message):
        StoreWriter(tmp_path, **options)
    assert snapshot(tmp_path) == before


def test_folders_with_other_content_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(DataError, match="is not empty and not a store"):
        StoreWriter(tmp_path)
    with pytest.raises(DataError, match=r"thesis.tex is a file; a store is a folder"):
        StoreWriter(tmp_path / "thesis.tex")
    write(tmp_path / "store")
    (tmp_path / "store" / "validation").mkdir()
    with pytest.raises(DataError, match=r"validation exists, but dataset_info.json does not list"):
        StoreWriter(tmp_path / "store", "validation")


def test_invalid_names(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"letters, digits and _, got '\.\./x'"):
        StoreWriter(tmp_path, "../x")
    with pytest.raises(DataError, match="'image' is the name of a standard column"):
        StoreWriter(tmp_path, columns={"image": Value("string")})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": np.zeros((4, 6, 4), np.uint8)}, r"got uint8 of shape \[4, 6, 4\]"),
        ({"image": np.zeros((4, 6, 3), np.float32)}, r"got float32 of shape \[4, 6, 3\]"),
        ({"image": b"junk"}, "^row 1 of split 'train': 4 bytes are not an image"),
        ({"image": PIXELS, "segmentation": None}, "row 1 of split 'train' has no 'segmentation'"),
        ({"image": PIXELS, "segmentation": IDS[:2]}, "the segmentation is 6x2 pixels, but its im"),
        ({"image": PIXELS, "segmentation": IDS - 1.0}, "integers, got float64"),
        ({"image": PIXELS, "segmentation": IDS.astype(int) - 1}, r"0\.\.65535, got -1\.\.-1"),
        ({"image": PIXELS, "segmentation": IDS.astype(int) + 65536}, r"got 65536\.\.65536"),
        ({"image": PIXELS, "color": "red"}, "has a 'color', which was not declared to the writer"),
        ({"image": PIXELS, "attributes": {"size": []}}, r"has the attributes \['size'\], but"),
        ({"image": PIXELS, "attributes": {"shape": [0], "mass": []}}, "different lengths"),
        (
            {"image": PIXELS, "attributes": {"shape": ["cone"], "mass": [1.0]}, "source": "a.png"},
            r"row 1 of split 'train' \(a.png\) has an invalid value in 'attributes': .*cone",
        ),
        ({"image": PIXELS, "attributes": {"shape": [0, 7], "mass": [1, 2]}}, "Class label 7"),
        (
            {"image": PIXELS, "attributes": {"shape": [0], "mass": ["x"]}},
            "invalid value in 'attributes': .*'x'",
        ),
    ],
)
def test_an_invalid_row_leaves_no_store(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    attributes = {"shape": ClassLabel(names=["cube"]), "mass": Value("float32")}
    good = {"segmentation": IDS, "attributes": {"shape": [], "mass": []}}

    def write_both() -> None:
        with StoreWriter(tmp_path / "store", segmentation=True, attributes=attributes) as writer:
            writer.add(PIXELS, **good)
            writer.add(**{**good, **row})

    with pytest.raises(DataError, match=message):
        write_both()
    assert not (tmp_path / "store").exists()


def test_an_interrupt_keeps_the_other_splits(tmp_path: Path) -> None:
    write(tmp_path)
    before = snapshot(tmp_path)

    def be_interrupted() -> None:
        with StoreWriter(tmp_path, "validation") as writer:
            for _ in range(150):  # more than one row group, so that a file is open
                writer.add(PIXELS)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        be_interrupted()
    assert snapshot(tmp_path) == before


def test_leftovers_of_a_killed_process_are_deleted(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "store")
    with writer:
        writer.add(PIXELS)
        (tmp_path / "store" / ".train.partial" / "old").write_text("x")
        killed = snapshot(tmp_path / "store")
    for name, content in killed.items():
        target = tmp_path / "again" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    write(tmp_path / "again")
    assert sorted(snapshot(tmp_path / "again")) == ["dataset_info.json", "train/part-00000.parquet"]


def test_an_empty_split_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image was added"), StoreWriter(tmp_path / "store"):
        pass
    assert not (tmp_path / "store").exists()


def test_a_photograph_with_exif_rotation_matches_its_mask(tmp_path: Path) -> None:
    image = Image.new("RGB", (20, 10))
    image.getexif()[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", exif=image.getexif())
    with StoreWriter(tmp_path, segmentation=True) as writer:
        writer.add(buffer.getvalue(), segmentation=np.zeros((20, 10), np.uint8))
    assert read_manifest(str(tmp_path)).splits["train"].largest == (10, 20)


def test_16_bit_masks_are_stored_unchanged(tmp_path: Path) -> None:
    mask = sorted((NUCLEI / "masks").iterdir())[0]
    with StoreWriter(tmp_path, segmentation=True) as writer:
        writer.add((NUCLEI / "images" / mask.name).read_bytes(), segmentation=mask.read_bytes())
    with Image.open(mask) as ids:
        stored = np.asarray(load_dataset(tmp_path)[0]["segmentation"])
        assert np.array_equal(stored, np.asarray(ids))
