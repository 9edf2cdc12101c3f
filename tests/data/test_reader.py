import json
import shutil
from pathlib import Path

import datasets
import fsspec
import numpy as np
import pytest

from latentslots.data import (
    DataError,
    UnknownSplitError,
    dataset_fingerprint,
    load_dataset,
    split_names,
)
from latentslots.data.importers.arrays import import_arrays
from latentslots.data.store.manifest import read_manifest

from ..tiny import write_squares
from .conftest import NLVR, snapshot


def test_rows_equal_what_was_imported(
    nlvr: datasets.Dataset, arrays: dict[str, np.ndarray]
) -> None:
    assert len(nlvr) == 12
    for index, row in enumerate(nlvr):
        assert np.array_equal(np.asarray(row["image"]), arrays["image"][index])
        assert np.array_equal(np.asarray(row["segmentation"]), arrays["mask"][index])
        assert row["n_objects"] == arrays["n_objects"][index]
        assert row["id"] == arrays["id"][index]


def test_plain_datasets_decodes_it(store: Path) -> None:
    files = str(store / "train" / "*.parquet")
    rows = datasets.load_dataset("parquet", data_files=files, split="train")
    assert rows[0]["image"].size == (100, 100)
    assert rows[0]["segmentation"].mode == "L"


def test_reading_writes_nothing_into_the_store(store: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(store, tmp_path / "copy")
    before = snapshot(copy)
    rows = load_dataset(copy)
    rows[0]
    assert snapshot(copy) == before
    assert all(not Path(file["filename"]).is_relative_to(copy) for file in rows.cache_files)


def test_streaming_gives_the_same_rows(store: Path, nlvr: datasets.Dataset) -> None:
    stream = load_dataset(store, streaming=True)
    assert isinstance(stream, datasets.IterableDataset)
    assert [row["id"] for row in stream] == nlvr["id"]
    assert next(iter(stream))["image"].size == (100, 100)


def test_streaming_from_an_address(store: Path, nlvr: datasets.Dataset) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(f"{store}/", "/bucket/nlvr/", recursive=True)
    try:
        stream = load_dataset("memory://bucket/nlvr", streaming=True)
        assert [row["id"] for row in stream] == nlvr["id"]
        assert split_names("memory://bucket/nlvr") == ["train"]
        with pytest.raises(DataError, match="no store at memory://bucket, or it cannot be reached"):
            load_dataset("memory://bucket", streaming=True)
    finally:
        memory.rm("/bucket", recursive=True)


def test_names_with_brackets_are_not_patterns(store: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(store, tmp_path / "data [1]*")
    assert len(load_dataset(copy)) == 12


def test_a_changed_store_is_read_again(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    path = import_arrays(NLVR, tmp_path / "store")
    before = load_dataset(path)
    shutil.rmtree(path)
    np.savez(tmp_path / "other.npz", image=255 - arrays["image"])
    import_arrays(tmp_path / "other.npz", path)
    after = load_dataset(path)
    assert dataset_fingerprint(before) != dataset_fingerprint(after)
    assert np.array_equal(np.asarray(after[0]["image"]), 255 - arrays["image"][0])


def test_the_fingerprint_is_of_the_content(
    store: Path, nlvr: datasets.Dataset, tmp_path: Path
) -> None:
    copy = load_dataset(shutil.copytree(store, tmp_path / "copy"))
    assert dataset_fingerprint(copy) == dataset_fingerprint(nlvr)
    some = dataset_fingerprint(nlvr.select(range(3)))
    assert some == dataset_fingerprint(copy.select(range(3)))
    assert some not in (dataset_fingerprint(nlvr), dataset_fingerprint(nlvr.select(range(4))))


def test_a_missing_path_names_itself_and_the_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=f"^there is no data set at {tmp_path}/no$"):
        load_dataset(tmp_path / "no")
    with pytest.raises(DataError, match=f"^there is no data set at {tmp_path}/no: download it$"):
        load_dataset(tmp_path / "no", hint="download it")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="create it by `latentslots data make scenes data/scenes`"):
        load_dataset("data/scenes")


def test_paths_that_are_not_data_sets(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is a file; a data set is a folder"):
        load_dataset(tmp_path / "file")
    with pytest.raises(DataError, match="is an empty folder"):
        load_dataset(tmp_path / "empty")
    with pytest.raises(DataError, match="is an empty folder"):
        split_names(tmp_path / "empty")


def test_an_unknown_split_lists_the_splits(store: Path) -> None:
    with pytest.raises(UnknownSplitError, match=r"has no split 'validation', only 'train'$"):
        load_dataset(store, split="validation")
    assert split_names(store) == ["train"]


def test_a_store_is_not_divided_again(store: Path) -> None:
    with pytest.raises(DataError, match="is a store, which has splits already"):
        load_dataset(store, validation_fraction=0.1)


def test_an_incomplete_store_is_refused(store: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(store, tmp_path / "copy")
    shard = copy / "train" / "part-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"part-00000.parquet has \d+ bytes instead of \d+"):
        load_dataset(copy)
    shard.unlink()
    with pytest.raises(DataError, match=r"incomplete: train/part-00000.parquet is missing"):
        load_dataset(copy)


def test_an_interrupted_import_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store" / ".train.blocks.partial").mkdir(parents=True)
    (tmp_path / "store" / ".dataset_info.json.7.partial").touch()
    with pytest.raises(DataError, match="incomplete: writing split 'train' was interrupted"):
        load_dataset(tmp_path / "store")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"format_version": 1}', "is damaged"),
        ('{"format_version": 9}', "has format version 9; this release reads 1"),
    ],
)
def test_a_damaged_manifest_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "dataset_info.json").write_text(text)
    with pytest.raises(DataError, match=f"dataset_info.json {message}"):
        load_dataset(tmp_path)


def test_the_manifest(store: Path) -> None:
    manifest = read_manifest(str(store))
    assert manifest.license == "CC-BY-4.0"
    split = manifest.splits["train"]
    assert (split.num_rows, split.smallest, split.largest) == (12, (100, 100), (100, 100))
    assert split.num_bytes == (store / split.shards[0].file).stat().st_size
    assert json.loads((store / "dataset_info.json").read_text())["format_version"] == 1


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    """Of the same size, so that only reading it tells."""
    store = write_squares(tmp_path / "store", num_train=3, num_validation=1)
    shard = store / "train" / "part-00000.parquet"
    content = bytearray(shard.read_bytes())
    content[4:200] = bytes(196)
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"(?s)is damaged .*`latentslots data verify` names"):
        load_dataset(store, split="train")
