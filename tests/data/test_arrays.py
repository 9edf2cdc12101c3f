import gzip
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentslots.data import DataError, import_arrays, load_dataset, split_names
from latentslots.data.store.manifest import read_manifest

from .conftest import NLVR, snapshot

IMAGE = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3), np.uint8)
MASK = np.arange(3 * 8 * 12).reshape(3, 8, 12)


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path / "source.npz", **arrays)
    return path / "source.npz"


def test_a_second_split_is_added_to_the_store(store: Path, tmp_path: Path) -> None:
    out = import_arrays(NLVR, tmp_path / "nlvr", license="CC-BY-4.0", credit="Suhr et al.")
    import_arrays(NLVR, out, split="validation")
    assert split_names(out) == ["train", "validation"]
    assert read_manifest(str(out)).name == "nlvr"
    assert len(load_dataset(out, split="validation")) == 12


@pytest.mark.parametrize("name", ["kandinsky", "tetrominoes"])
def test_real_arrays_of_other_projects(name: str, tmp_path: Path) -> None:
    file = Path(__file__).parent / name / f"{name}.npz"
    truth = np.load(file)
    rows = load_dataset(import_arrays(file, tmp_path / "out", license="MIT"))
    assert len(rows) == len(truth["image"])
    for row, pixels, ids in zip(rows, truth["image"], truth["mask"], strict=True):
        assert np.array_equal(np.asarray(row["image"]), pixels)
        assert np.array_equal(np.asarray(row["segmentation"]), ids)
    if name == "kandinsky":
        assert [len(np.setdiff1d(r["segmentation"], [0])) for r in rows] == rows["n_objects"][:]


def test_ids_above_255_and_no_masks(tmp_path: Path) -> None:
    import_arrays(save(tmp_path, image=IMAGE, mask=MASK), tmp_path / "with")
    row = load_dataset(tmp_path / "with")[2]
    assert row["segmentation"].mode == "I;16"
    assert np.array_equal(np.asarray(row["segmentation"]), MASK[2])
    import_arrays(save(tmp_path, image=IMAGE), tmp_path / "without")
    assert list(load_dataset(tmp_path / "without")[0]) == ["image"]


def test_boolean_masks(tmp_path: Path) -> None:
    import_arrays(save(tmp_path, image=IMAGE, mask=MASK % 2 == 0), tmp_path / "out")
    assert np.array_equal(load_dataset(tmp_path / "out")[0]["segmentation"], MASK[0] % 2 == 0)


def test_images_and_masks_are_resized(tmp_path: Path) -> None:
    import_arrays(save(tmp_path, image=IMAGE, mask=MASK), tmp_path / "out", resolution=8)
    row = load_dataset(tmp_path / "out")[1]
    assert np.array_equal(np.asarray(row["image"]), IMAGE[1, :, 2:10])
    assert np.array_equal(np.asarray(row["segmentation"]), MASK[1, :, 2:10])


def test_one_dimensional_arrays_become_columns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    columns = {
        "count": np.array([1, 2, 3], np.uint8),
        "score": np.array([0.5, 1, 2], np.float32),
        "word": np.array(["a", "b", "c"]),
        "flag": np.array([True, False, True]),
        "video": np.array([0, 0, 1]),
        "frame": np.array([0, 1, 0]),
    }
    dropped = {"box": np.zeros((3, 4)), "one": np.zeros(1), "ignore": np.zeros(3)}
    with caplog.at_level(logging.WARNING):
        import_arrays(save(tmp_path, image=IMAGE, **columns, **dropped), tmp_path / "out")
    rows = load_dataset(tmp_path / "out").remove_columns("image")
    assert rows[1] == {
        "count": 2,
        "score": 1.0,
        "word": "b",
        "flag": False,
        "video": "0",
        "frame": 1,
    }
    assert sorted(record.args[0] for record in caplog.records) == sorted(dropped)


def test_frames_without_a_video_are_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import_arrays(save(tmp_path, image=IMAGE, frame=np.arange(3)), tmp_path / "out")
    assert list(load_dataset(tmp_path / "out")[0]) == ["image"]
    assert "there is no 'video'" in caplog.text


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": MASK}, "has no array 'image', only x"),
        ({"image": IMAGE.astype(float)}, r"uint8 of shape \[N, H, W, 3\], got float64 of shape"),
        ({"image": IMAGE[0]}, r"got uint8 of shape \[8, 12, 3\]"),
        ({"image": IMAGE[..., :1]}, r"got uint8 of shape \[3, 8, 12, 1\]"),
        ({"image": IMAGE[:0]}, r"got uint8 of shape \[0, 8, 12, 3\]"),
        ({"image": IMAGE, "mask": MASK[:2]}, r"'mask' must .* \[3, 8, 12\].* \[2, 8, 12\]"),
        ({"image": IMAGE, "mask": MASK[..., None]}, r"got int64 of shape \[3, 8, 12, 1\]"),
        ({"image": IMAGE, "mask": MASK * 1.0}, "got float64"),
        ({"image": IMAGE, "mask": MASK - 1}, r"'mask' must be in 0\.\.65535, got -1\.\.286"),
        ({"image": IMAGE, "mask": MASK + 65400}, r"0\.\.65535, got 65400\.\.65687"),
        ({"image": np.array([{}], object)}, "has no array 'image', only nothing"),
    ],
)
def test_invalid_arrays_leave_no_store(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    source = save(tmp_path, **arrays)
    with pytest.raises(DataError, match=message):
        import_arrays(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_that_are_not_npz(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no file .*no\.npz"):
        import_arrays(tmp_path / "no.npz", tmp_path / "out")
    np.save(tmp_path / "one.npy", IMAGE)
    with pytest.raises(DataError, match="a single array without a name"):
        import_arrays(tmp_path / "one.npy", tmp_path / "out")
    (tmp_path / "text.npz").write_text("x" * 100)
    with pytest.raises(
        DataError, match=r"text\.npz cannot be read as arrays: it is no file of NumPy"
    ):
        import_arrays(tmp_path / "text.npz", tmp_path / "out")
    cut = tmp_path / "cut.npz"
    cut.write_bytes(NLVR.read_bytes()[:3000])
    with pytest.raises(
        DataError, match=r"cut\.npz cannot be read as arrays: File is not a zip file"
    ):
        import_arrays(cut, tmp_path / "out")


def test_an_existing_split_is_not_overwritten(store: Path) -> None:
    before = snapshot(store)
    with pytest.raises(DataError, match="already has a split 'train'"):
        import_arrays(NLVR, store, resolution=8)
    assert snapshot(store) == before
    assert import_arrays(NLVR, store) == store  # of the same file
    assert snapshot(store) == before


def test_progress_goes_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import_arrays(save(tmp_path, image=IMAGE), tmp_path / "out", progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "train: 100%" in captured.err


def objects_file(path: Path, content: Any) -> Path:
    with gzip.open(path / "objects.json.gz", "wt") as file:
        json.dump(content, file)
    return path / "objects.json.gz"


def test_attributes_are_read_from_json(tmp_path: Path) -> None:
    red = {"color": "red", "size": 20, "place": [0.5, 1.5]}
    blue = {"color": "blue", "size": 10, "place": [2.5, 3.5]}
    source = save(tmp_path, image=IMAGE, mask=MASK % 3 * np.array([1, 0, 1])[:, None, None])
    file = objects_file(tmp_path, [[red, blue], [], [blue, red]])
    dataset = load_dataset(import_arrays(source, tmp_path / "out", attributes=file))
    assert dataset[0]["attributes"] == {
        "color": ["red", "blue"],
        "size": [20, 10],
        "place": [[0.5, 1.5], [2.5, 3.5]],
    }
    assert dataset[1]["attributes"]["size"] == []
    plain = tmp_path / "objects.json"
    plain.write_bytes(gzip.decompress(file.read_bytes()))
    again = load_dataset(import_arrays(source, tmp_path / "again", attributes=plain))
    assert again["attributes"][:] == dataset["attributes"][:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([[]], r"must be a list with one item per image \(3\), got 1"),
        ({"a": 1}, r"one item per image \(3\), got dict"),
        ([[], [], []], "holds no attribute of any object"),
        ([[{"a": 2**70}], [{"a": 1}], []], "the values of an attribute have no common type"),
        (
            [[{"a": 1}], [{"a": 1}], []],
            "image 0 has ids up to 2, but attributes of 1 objects",
        ),
        ([[1], [], []], "must hold, for every image, a list of objects' values by name"),
        ([[{"a": 1}], [{"b": 1}], []], r"object 0 of image 1 has \['b'\], but .* \['a'\]"),
        ([[{"a": 1}], [{"a": "x"}], []], "the values of an attribute have no common type"),
    ],
)
def test_invalid_attributes(tmp_path: Path, content: Any, message: str) -> None:
    source = save(tmp_path, image=IMAGE, mask=MASK % 3)
    with pytest.raises(DataError, match=message):
        import_arrays(source, tmp_path / "out", attributes=objects_file(tmp_path, content))
    assert not (tmp_path / "out").exists()
    cut = tmp_path / "cut.json.gz"
    cut.write_bytes(gzip.compress(b"[[], [], []]")[:-6])
    with pytest.raises(DataError, match=r"cut.json.gz cannot be read as JSON"):
        import_arrays(source, tmp_path / "out", attributes=cut)
    (tmp_path / "broken.json").write_text("[")
    with pytest.raises(DataError, match=r"broken.json cannot be read as JSON"):
        import_arrays(source, tmp_path / "out", attributes=tmp_path / "broken.json")
    with pytest.raises(DataError, match=r"there is no file .*none.json"):
        import_arrays(source, tmp_path / "out", attributes=tmp_path / "none.json")


def test_another_file_of_the_same_size_is_another_source(tmp_path: Path) -> None:
    source = save(tmp_path, image=IMAGE, mask=MASK.astype(np.uint16))
    out = import_arrays(source, tmp_path / "out")
    size = source.stat().st_size
    save(tmp_path, image=IMAGE, mask=MASK[::-1].astype(np.uint16))
    assert source.stat().st_size == size
    with pytest.raises(DataError, match="already has a split 'train'"):
        import_arrays(source, out)
