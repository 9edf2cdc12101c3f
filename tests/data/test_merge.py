from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from datasets import Value

from latentslots.cli.main import main
from latentslots.data import DataError, StoreWriter, load_dataset, merge_stores
from latentslots.data.store.manifest import read_manifest


def make_store(path: Path, value: int, splits: dict[str, int], *, masks: bool = True) -> Path:
    for split, count in splits.items():
        with StoreWriter(
            path, split, license=f"L{value}", credit="Ann", segmentation=masks
        ) as writer:
            for row in range(count):
                image = np.full((8, 8, 3), value + row, np.uint8)
                ids = np.full((8, 8), row, np.uint8)
                writer.add(image, **({"segmentation": ids} if masks else {}))
    return path


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return make_store(tmp_path / "one", 0, {"train": 9, "validation": 2})


@pytest.fixture
def two(tmp_path: Path) -> Path:
    return make_store(tmp_path / "two", 100, {"train": 5, "validation": 3, "test": 1})


def test_all_rows_are_merged_with_their_masks(
    one: Path, two: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = merge_stores([one, two], tmp_path / "both")
    rows = load_dataset(out, split="train")
    assert len(rows) == 14
    found = [(row["dataset"], np.asarray(row["image"])[0, 0, 0] % 100) for row in rows]
    assert sorted(found) == [("one", i) for i in range(9)] + [("two", i) for i in range(5)]
    assert all(
        np.asarray(row["segmentation"])[0, 0] == value
        for row, (_, value) in zip(rows, found, strict=True)
    )
    assert found != sorted(found), "the order is random"
    assert len(load_dataset(out, split="validation")) == 5
    manifest = read_manifest(str(out))
    assert set(manifest.splits) == {"train", "validation"}
    assert (manifest.license, manifest.credit) == ("L0; L100", "Ann")
    assert "split 'test' of" in caplog.text


def test_the_seed_determines_the_order(one: Path, two: Path, tmp_path: Path) -> None:
    def shards(name: str, seed: int) -> list[bytes]:
        out = merge_stores([one, two], tmp_path / name, seed=seed)
        return [file.read_bytes() for file in sorted(out.rglob("*.parquet"))]

    assert shards("a", 0) == shards("b", 0) != shards("c", 1)


def test_masks_are_dropped_unless_all_have_them(one: Path, tmp_path: Path) -> None:
    bare = make_store(tmp_path / "bare", 100, {"train": 2}, masks=False)
    rows = load_dataset(merge_stores([one, bare], tmp_path / "both"))
    assert "segmentation" not in rows.column_names


def test_errors(one: Path, two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="merging needs at least two data sets, got 1"):
        merge_stores([one], tmp_path / "both")
    with pytest.raises(DataError, match="is not a store: convert it by `latentslots data import`"):
        merge_stores([one, tmp_path], tmp_path / "both")
    other = make_store(tmp_path / "other", 0, {"extra": 1})
    with pytest.raises(DataError, match="have no split in common"):
        merge_stores([one, other], tmp_path / "both")
    assert main(["data", "merge", str(one), str(two), "--out", str(tmp_path / "both")]) == 0
    assert main(["data", "merge", str(one), str(two), "--out", str(tmp_path / "both")]) == 2
    assert "already holds a data set" in capsys.readouterr().err


def test_a_split_that_cannot_be_merged_leaves_no_store(
    one: Path, two: Path, tmp_path: Path
) -> None:
    (shard,) = (one / "validation").glob("*.parquet")
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(DataError):
        merge_stores([one, two], tmp_path / "both")
    assert not (tmp_path / "both").exists(), "not even the first split"


def test_weights(one: Path, two: Path, tmp_path: Path) -> None:
    sizes = [len(load_dataset(path)) for path in (one, two)]
    out = merge_stores([one, two], tmp_path / "both", weights=[3.0, 1.0])
    rows = load_dataset(out)
    assert len(rows) == sum(sizes)
    names = [load_name(path) for path in (one, two)]
    counts = [rows["dataset"].count(name) for name in names]
    assert counts == [round(0.75 * sum(sizes)), sum(sizes) - round(0.75 * sum(sizes))]
    # An image is repeated after all images of its data set were taken.
    seen = Counter(
        cell["bytes"]
        for cell, name in zip(rows.data.column("image").to_pylist(), rows["dataset"], strict=True)
        if name == names[0]
    )
    assert max(seen.values()) - min(seen.values()) <= 1
    command = ["data", "merge", str(one), str(two), "--out", str(tmp_path / "x"), "--weights"]
    assert main([*command, "1", "1"]) == 0
    for weights, message in (
        ([1.0], "one value per data set, got 1 for 2"),
        ([1.0, 0.0], "above 0, got 0"),
    ):
        with pytest.raises(DataError, match=message):
            merge_stores([one, two], tmp_path / "y", weights=weights)


def load_name(path: Path) -> str:
    return read_manifest(str(path)).name


def test_ignore_license_and_video_are_kept(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with StoreWriter(
            tmp_path / name,
            segmentation=True,
            ignore=name == "a",
            video=True,
            columns={"license": Value("string")} if name == "a" else {},
        ) as writer:
            for frame in range(2):
                extra = {"ignore": np.full((8, 8), 1, np.uint8), "license": "CC"}
                writer.add(
                    np.full((8, 8, 3), frame, np.uint8),
                    segmentation=np.zeros((8, 8), np.uint8),
                    video="v",
                    frame=frame,
                    source=f"{name}{frame}.png",
                    **(extra if name == "a" else {}),
                )
    rows = load_dataset(merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "both"))
    assert {row["video"] for row in rows} == {"0/v", "1/v"}
    for row, cell in zip(rows, rows.data.column("image").to_pylist(), strict=True):
        first = row["dataset"] == "a"
        assert row["license"] == ("CC" if first else "")
        assert (row["ignore"] is not None) == first
        assert cell["path"] == f"{row['dataset']}{row['frame']}.png"
