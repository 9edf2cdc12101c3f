"""MOVi from small records in its layout, from a folder and from the web."""

import io
import json
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tfrecord import example_pb2

from latentslots.cli.main import main
from latentslots.data import DataError, load_dataset
from latentslots.data.importers import movi
from latentslots.data.importers.movi import find_movi, import_movi
from latentslots.data.importers.movi_records import LAYERS, MoviOptions
from latentslots.data.importers.tfrecord import read_records
from latentslots.evaluation import evaluate
from tests.data.records import example, write_records
from tests.data.server import Server
from tests.tiny import tiny_lsd

SIZE, FRAMES = 32, 4


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def video(number: int, *, count: int = 2, variant: str = "movi-e") -> dict[str, Any]:
    """One video: squares that move right; the last object is visible in odd frames only."""
    random = np.random.default_rng(number)
    ids = np.zeros((FRAMES, SIZE, SIZE), np.uint8)
    boxes: list[list[float]] = []
    box_frames, lengths = [], []
    for k in range(count):
        frames_visible = [t for t in range(FRAMES) if k < count - 1 or t % 2]
        for t in frames_visible:
            top, left = 3 + 8 * k, 2 + t + number % 5
            ids[t, top : top + 6, left : left + 6] = k + 1
            boxes.append([top / SIZE, left / SIZE, (top + 6) / SIZE, (left + 6) / SIZE])
            box_frames.append(t)
        lengths.append(len(frames_visible))
    frames = random.integers(0, 255, (FRAMES, SIZE, SIZE, 3)).astype(np.uint8)

    def normal(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32).ravel()

    flow = random.integers(0, 65536, (FRAMES, SIZE, SIZE, 2))
    values = {
        "video": [png(frame) for frame in frames],
        "segmentations": [png(frame) for frame in ids],
        "metadata/video_name": f"video-{number}".encode(),
        "metadata/num_instances": count,
        "metadata/num_frames": FRAMES,
        "metadata/width": SIZE,
        "metadata/height": SIZE,
        "metadata/depth_range": [0.5, 20.0],
        "metadata/forward_flow_range": [-3.0, 4.0],
        "metadata/backward_flow_range": [-2.0, 1.0],
        "camera/positions": normal(FRAMES, 3),
        "camera/quaternions": normal(FRAMES, 4),
        "camera/field_of_view": 0.9,
        "camera/focal_length": 35.0,
        "camera/sensor_width": 32.0,
        "depth": [png(frame.astype(np.uint16) * 200) for frame in ids],
        "normal": [png(frame) for frame in frames],
        "object_coordinates": [png(frame) for frame in frames[::-1]],
        "forward_flow": flow.ravel(),
        "backward_flow": flow[::-1].ravel(),
        "instances/mass": normal(count),
        "instances/friction": normal(count),
        "instances/restitution": normal(count),
        "instances/positions": normal(count, FRAMES, 3),
        "instances/velocities": normal(count, FRAMES, 3),
        "instances/angular_velocities": normal(count, FRAMES, 3),
        "instances/quaternions": normal(count, FRAMES, 4),
        "instances/bboxes_3d": normal(count, FRAMES, 8, 3),
        "instances/image_positions": normal(count, FRAMES, 2),
        "instances/visibility": [
            int((ids[t] == k + 1).sum()) for k in range(count) for t in range(FRAMES)
        ],
        "instances/bboxes/ragged_flat_values": np.float32(boxes).ravel(),
        "instances/bboxes/ragged_row_lengths_0": lengths,
        "instances/bbox_frames/ragged_flat_values": box_frames,
        "instances/bbox_frames/ragged_row_lengths_0": lengths,
        "events/collisions/frame": [1, 2],
    }
    of_variant: dict[str, Any] = {
        "movi-a": {
            "shape_label": [k % 3 for k in range(count)],
            "size_label": [k % 2 for k in range(count)],
            "color_label": [k % 8 for k in range(count)],
            "material_label": [1] * count,
            "color": normal(count, 3),
        },
        "movi-b": {
            "shape_label": [10] * count,
            "material_label": [0] * count,
            "color": normal(count, 3),
        },
    }.get(
        variant,
        {
            "category": [k % 17 for k in range(count)],
            "asset_id": [f"thing {k}".encode() for k in range(count)],
            "scale": normal(count),
            "is_dynamic": [k % 2 for k in range(count)],
        },
    )
    values |= {f"instances/{name}": value for name, value in of_variant.items()}
    if variant in ("movi-c", "movi-d", "movi-e", "movi-f"):
        values["background"] = b"forest"
    return values


def shards(folder: Path, variant: str = "movi-e", *, train: int = 3, per_shard: int = 2) -> Path:
    """Shards as in the public bucket: `train` shards of that split, and one of `validation`."""
    stem = variant.replace("-", "_")
    number = 0
    for split, count in (("train", train), ("validation", 1)):
        for shard in range(count):
            records = []
            for _ in range(per_shard):
                records.append(example(video(number, variant=variant)))
                number += 1
            write_records(folder / f"{stem}-{split}.tfrecord-{shard:05d}-of-{count:05d}", records)
    lengths = {"train": [str(per_shard)] * train, "validation": [str(per_shard)]}
    sizes = {
        split: str(sum(f.stat().st_size for f in folder.glob(f"{stem}-{split}*")))
        for split in lengths
    }
    listed = [
        {"name": split, "shardLengths": lengths[split], "numBytes": sizes[split]}
        for split in lengths
    ]
    (folder / "dataset_info.json").write_text(json.dumps({"name": stem, "splits": listed}))
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shards(tmp_path_factory.mktemp("movi") / "256x256" / "1.0.0")


def content(store: Path) -> dict[str, bytes]:
    return {
        file.relative_to(store).as_posix(): file.read_bytes()
        for file in sorted(store.rglob("*"))
        if file.is_file()
    }


E = MoviOptions(variant="movi-e")


def test_the_test_records_are_valid_protocol_buffers() -> None:
    """The protocol buffer's own code reads all values back."""
    values = video(3)
    features = example_pb2.Example.FromString(example(values)).features.feature
    assert set(features) == set(values)
    assert list(features["video"].bytes_list.value) == values["video"]
    assert list(features["metadata/num_instances"].int64_list.value) == [2]
    assert list(features["forward_flow"].int64_list.value) == values["forward_flow"].tolist()
    found = np.float32(features["instances/bboxes_3d"].float_list.value)
    assert found.tolist() == values["instances/bboxes_3d"].tolist()


def test_every_frame_is_a_row_with_its_attributes(source: Path, tmp_path: Path) -> None:
    out = import_movi(source, tmp_path / "e", E, workers=1)
    rows = load_dataset(out, split="train")
    assert len(rows) == 3 * 2 * FRAMES
    assert rows["frame"][:5] == [0, 1, 2, 3, 0]
    assert rows["video"][::FRAMES] == [f"video-{n}" for n in range(6)]
    values = video(1)
    for t in range(FRAMES):
        row = rows[FRAMES + t]
        attributes = row["attributes"]
        assert (
            np.asarray(row["image"]).tolist()
            == np.asarray(Image.open(io.BytesIO(values["video"][t]))).tolist()
        )
        ids = np.asarray(row["segmentation"])
        assert attributes["visibility"] == [int((ids == k + 1).sum()) for k in range(2)]
        for name, shape in (("positions", (3,)), ("quaternions", (4,)), ("bboxes_3d", (8, 3))):
            expected = values[f"instances/{name}"].reshape(2, FRAMES, *shape)[:, t]
            assert attributes[name] == expected.tolist()
        assert row["camera_position"] == values["camera/positions"].reshape(FRAMES, 3)[t].tolist()
        assert row["camera_field_of_view"] == pytest.approx(0.9)
        assert attributes["asset_id"] == ["thing 0", "thing 1"]
        assert attributes["is_dynamic"] == [False, True]
        assert attributes["mass"] == values["instances/mass"].tolist()
        assert row["background"] == "forest"


def test_boxes_are_assigned_to_their_frames(source: Path, tmp_path: Path) -> None:
    """The official script assigns them to the wrong frames."""
    rows = load_dataset(import_movi(source, tmp_path / "e", E, workers=1), split="validation")
    for row in rows:
        ids = np.asarray(row["segmentation"])
        for k, box in enumerate(row["attributes"]["bboxes"]):
            visible = ids == k + 1
            if not visible.any():
                assert k == 1
                assert box == [0, 0, 0, 0]
                continue
            y, x = np.nonzero(visible)
            expected = [y.min() / SIZE, x.min() / SIZE, (y.max() + 1) / SIZE, (x.max() + 1) / SIZE]
            assert box == pytest.approx(expected)


@pytest.mark.parametrize("variant", ["movi-a", "movi-b", "movi-c"])
def test_labels_of_the_variants(variant: str, tmp_path: Path) -> None:
    shards(tmp_path / "shards", variant, train=1, per_shard=1)
    out = import_movi(
        tmp_path / "shards", tmp_path / "out", MoviOptions(variant=variant), workers=1
    )
    names = json.loads((out / "dataset_info.json").read_text())["class_names"]
    attributes = load_dataset(out, split="train")[0]["attributes"]
    if variant == "movi-a":
        assert [names["shape_label"][k] for k in attributes["shape_label"]] == ["cube", "cylinder"]
        assert [names["size_label"][k] for k in attributes["size_label"]] == ["small", "large"]
        assert [names["color_label"][k] for k in attributes["color_label"]] == ["blue", "brown"]
        assert names["material_label"][attributes["material_label"][0]] == "rubber"
    elif variant == "movi-b":
        assert names["shape_label"][attributes["shape_label"][0]] == "suzanne"
        assert "size_label" not in attributes
    else:
        assert len(names["category"]) == 17
        assert [names["category"][k] for k in attributes["category"]] == ["Action Figures", "Bag"]


def test_the_bytes_of_images_are_unchanged_unless_resized(source: Path, tmp_path: Path) -> None:
    every = MoviOptions(variant="movi-e", every=3)
    rows = load_dataset(import_movi(source, tmp_path / "a", every, workers=1), split="train")
    assert rows["frame"] == [0, 3] * 6
    table = rows.data.column("image").to_pylist()
    assert [cell["bytes"] for cell in table[:2]] == [video(0)["video"][t] for t in (0, 3)]
    small = MoviOptions(variant="movi-e", resolution=16)
    row = load_dataset(import_movi(source, tmp_path / "b", small, workers=1), split="train")[0]
    assert row["image"].size == row["segmentation"].size == (16, 16)
    assert set(np.unique(row["segmentation"])) <= {0, 1, 2}


def test_layers_are_imported(source: Path, tmp_path: Path) -> None:
    options = MoviOptions(variant="movi-e", layers=LAYERS)
    out = import_movi(source, tmp_path / "all", options, splits=["validation"], workers=1)
    values, row = video(6), load_dataset(out, split="validation")[2]
    assert np.asarray(row["depth"]).dtype == np.uint16
    assert np.asarray(row["depth"]).max() == 2 * 200 if row["frame"] % 2 else 200
    assert row["depth_range"] == [0.5, 20.0]
    flow = np.load(io.BytesIO(row["forward_flow"]))
    expected = values["forward_flow"].reshape(FRAMES, SIZE, SIZE, 2)[2]
    assert flow.dtype == np.uint16
    assert (flow == expected).all()
    assert row["forward_flow_range"] == [-3.0, 4.0]
    assert (
        np.load(io.BytesIO(row["backward_flow"]))
        == values["backward_flow"].reshape(FRAMES, SIZE, SIZE, 2)[2]
    ).all()


def test_a_model_is_evaluated_on_it(source: Path, tmp_path: Path) -> None:
    out = import_movi(source, tmp_path / "e", E, workers=1)
    pipe = tiny_lsd().to_pipeline()
    report = evaluate(pipe, load_dataset(out, split="validation"), num_images=4, progress=False)
    assert -1 <= report.fg_ari <= 1


@pytest.mark.slow
def test_bytes_do_not_depend_on_workers_or_interruptions(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = content(import_movi(source, tmp_path / "whole" / "e", E, workers=1))
    several = import_movi(source, tmp_path / "several" / "e", E, workers=2)
    assert content(several) == whole
    out = tmp_path / "killed" / "e"
    program = (
        "import time, sys; from latentslots.data.importers import movi\n"
        "from pathlib import Path\n"
        "rows = movi._shard_rows\n"
        "def slow(work):\n"
        "    if work[0].endswith('00001-of-00003'): time.sleep(60)\n"
        "    yield from rows(work)\n"
        "movi._shard_rows = slow\n"
        f"movi.import_movi({str(source)!r}, {str(out)!r}, movi.MoviOptions(variant='movi-e'), "
        "workers=1)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    block = out / ".train.blocks.partial" / "00000.parquet"
    deadline = time.monotonic() + 100
    while not block.is_file():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(DataError, match="incomplete: writing split 'train' was interrupted"):
        load_dataset(out)
    assert not (out / "train").exists()
    made = []
    rows = movi._shard_rows

    def record(shard: tuple[Any, ...]) -> Any:
        made.append(shard[0][-14:])
        return rows(shard)

    monkeypatch.setattr(movi, "_shard_rows", record)
    import_movi(source, out, E, workers=1)
    assert made == ["00001-of-00003", "00002-of-00003", "00000-of-00001"]
    assert content(out) == whole
    before = content(out)
    import_movi(source, out, E, workers=1)  # complete
    assert content(out) == before


class TestFromTheWeb:
    @pytest.fixture
    def web(self, server: Server, source: Path) -> Server:
        server.files = {f"/movi/{file.name}": file.read_bytes() for file in source.iterdir()}
        return server

    def test_broken_connections_do_not_change_the_bytes(
        self, web: Server, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(time, "sleep", lambda _: None)
        local = content(import_movi(source, tmp_path / "local" / "e", E, workers=1))
        find_movi(f"{web.url}/movi", "movi-e")
        web.drops = [10**9, 5000, 0, 30_000]
        fetched = import_movi(f"{web.url}/movi", tmp_path / "web" / "e", E, workers=1)
        assert content(fetched) == local
        assert any(web.ranges), "downloads were resumed"
        assert sorted(entry.name for entry in fetched.iterdir()) == [
            "dataset_info.json",
            "train",
            "validation",
        ]

    def test_a_dry_run_prints_the_size(
        self, web: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        command = ["data", "import", "movi-e", f"{web.url}/movi", str(tmp_path / "no"), "--dry-run"]
        assert main(command) == 0
        size = sum(len(body) for name, body in web.files.items() if "train" in name)
        printed = capsys.readouterr().out.splitlines()
        assert printed[0] == f"train: 3 shards, {size:,} bytes"
        assert not (tmp_path / "no").exists()

    def test_a_busy_server_is_retried(
        self, web: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(time, "sleep", lambda _: None)
        web.errors = [503, 503]
        assert set(find_movi(f"{web.url}/movi", "movi-e")) == {"train", "validation"}
        assert not web.errors

    def test_an_address_without_movi(self, web: Server, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"elsewhere/dataset_info.json cannot be fetched.*404"):
            import_movi(f"{web.url}/elsewhere", tmp_path / "out", E)
        web.files["/odd/dataset_info.json"] = b'{"splits": [{"name": "train"}]}'
        with pytest.raises(DataError, match="does not list shards"):
            import_movi(f"{web.url}/odd", tmp_path / "out", E)
        del web.files["/movi/movi_e-train.tfrecord-00001-of-00003"]
        with pytest.raises(DataError, match="00001-of-00003 cannot be fetched: 404"):
            import_movi(f"{web.url}/movi", tmp_path / "out", E, workers=1)


class TestBadInput:
    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--every", "0"], "every must be at least 1, got 0"),
            (["--splits", "test"], "has no split 'test', only train, validation"),
            (["--layers", "depth", "--resolution", "16"], "depth cannot be resized"),
            (["--workers", "0"], "workers must be at least 1, got 0"),
        ],
    )
    def test_options(
        self,
        flags: list[str],
        message: str,
        source: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        out = tmp_path / "out"
        assert main(["data", "import", "movi-e", str(source), str(out), *flags]) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()

    def test_names(self, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["data", "import", "movi-g", str(source), str(tmp_path / "out")]) == 2
        assert "got 'movi-g'" in capsys.readouterr().err
        with pytest.raises(DataError, match=r"variant must be one of movi-a, .*, got 'movi-z'"):
            MoviOptions(variant="movi-z")
        with pytest.raises(DataError, match=r"layers must be among depth, .*, got 'smell'"):
            MoviOptions(variant="movi-e", layers=("smell",))
        with pytest.raises(DataError, match="holds no shards of movi-a, such as movi_a-train"):
            import_movi(source, tmp_path / "out", MoviOptions(variant="movi-a"))
        with pytest.raises(DataError, match="there is no folder /nowhere"):
            import_movi("/nowhere", tmp_path / "out", E)

    def test_a_missing_shard_is_named(self, tmp_path: Path) -> None:
        folder = shards(tmp_path / "shards")
        (folder / "movi_e-train.tfrecord-00001-of-00003").unlink()
        with pytest.raises(DataError, match=r"lacks 1 of the 3 shards of 'train', .*00001-of"):
            import_movi(folder, tmp_path / "out", E)

    def test_two_copies_are_refused(self, source: Path, tmp_path: Path) -> None:
        shards(tmp_path / "both" / "128x128")
        shards(tmp_path / "both" / "256x256")
        with pytest.raises(DataError, match="holds 'train' of movi-e more than once"):
            import_movi(tmp_path / "both", tmp_path / "out", E)

    def test_damage_is_named_and_nothing_appears(self, tmp_path: Path) -> None:
        folder = shards(tmp_path / "shards")
        path = folder / "movi_e-train.tfrecord-00002-of-00003"
        whole = path.read_bytes()
        path.write_bytes(whole[:-100])
        with pytest.raises(DataError, match="00002-of-00003 ends within a record"):
            import_movi(folder, tmp_path / "out", E, workers=1)
        assert not (tmp_path / "out" / "train").exists()
        path.write_bytes(whole)  # repaired, the import is resumed
        assert len(load_dataset(import_movi(folder, tmp_path / "out", E, workers=1))) == 24

    def test_a_shard_that_is_truncated_between_records(self, tmp_path: Path) -> None:
        folder = shards(tmp_path / "shards")
        path = folder / "movi_e-train.tfrecord-00001-of-00003"
        whole = path.read_bytes()
        path.write_bytes(whole[: next(islice(read_records(path), 1, None)).offset])
        with pytest.raises(
            DataError, match=r"00003 holds 1 videos, but dataset_info\.json lists 2"
        ):
            import_movi(folder, tmp_path / "out", E, workers=1)
        (folder / "dataset_info.json").unlink()  # without it, only an empty shard is noticed
        path.write_bytes(b"")
        with pytest.raises(DataError, match="00001-of-00003 holds no record"):
            import_movi(folder, tmp_path / "bare", E, workers=1)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"segmentations": [png(np.zeros((32, 32), np.uint8))]}, "frames but 1 segmentations"),
            ({"instances/bbox_frames/ragged_flat_values": [99]}, "a box of frame 99"),
            (
                {"video": [png(np.zeros((32, 32, 3), np.uint8))[:-20]]},
                "a PNG of .* bytes is truncated",
            ),
            ({"segmentations": [png(np.zeros((32, 32, 3), np.uint8))]}, "got mode RGB"),
        ],
    )
    def test_invalid_videos(
        self, change: dict[str, list[Any]], message: str, tmp_path: Path
    ) -> None:
        values = video(0)
        for name, given in change.items():
            count = len(values[name]) if name != "segmentations" or "RGB" in message else 1
            values[name] = given * count
        write_records(tmp_path / "in" / "movi_e-train.tfrecord-00000-of-00001", [example(values)])
        with pytest.raises(DataError, match=message):
            import_movi(tmp_path / "in", tmp_path / "out", E, splits=["train"], workers=1)
        assert not (tmp_path / "out" / "train").exists()

    def test_other_records(self, tmp_path: Path) -> None:
        name = "movi_e-train.tfrecord-00000-of-00001"
        write_records(tmp_path / "other" / name, [example({"image": b"x"})])
        with pytest.raises(DataError, match=r"the shards are not MOVi's: .* no 'segmentations'"):
            import_movi(tmp_path / "other", tmp_path / "out", E, splits=["train"], workers=1)
        odd = video(0)
        odd["instances/mass"] = [1.0, 2.0, 3.0]
        write_records(tmp_path / "odd" / name, [example(odd)])
        with pytest.raises(DataError, match="the record at byte 0 is not MOVi"):
            import_movi(tmp_path / "odd", tmp_path / "out", E, splits=["train"], workers=1)
        del odd["metadata/video_name"]
        write_records(tmp_path / "bare" / name, [example(odd)])
        with pytest.raises(DataError, match="at byte 0 has no 'metadata/video_name'"):
            import_movi(tmp_path / "bare", tmp_path / "out2", E, splits=["train"], workers=1)
        options = MoviOptions(variant="movi-e", layers=("depth",))
        del odd["depth"]
        write_records(
            tmp_path / "flat" / name,
            [
                example({**video(0), "depth": 1}),
            ],
        )
        with pytest.raises(DataError, match="expected, got one of int64"):
            import_movi(tmp_path / "flat", tmp_path / "out3", options, splits=["train"], workers=1)

    def test_a_store_of_other_options_is_refused(self, source: Path, tmp_path: Path) -> None:
        out = import_movi(source, tmp_path / "out", E, splits=["validation"], workers=1)
        with pytest.raises(DataError, match=r"holds other data \(movi-e\): choose another folder"):
            import_movi(source, out, MoviOptions(variant="movi-e", every=2), workers=1)
        import_movi(source, out, E, splits=["train"], workers=1)
        assert len(load_dataset(out, split="train")) == 24

    def test_an_import_is_not_resumed_from_another_source(
        self, source: Path, tmp_path: Path
    ) -> None:
        folder, out = shards(tmp_path / "shards"), tmp_path / "out"
        (folder / "movi_e-train.tfrecord-00002-of-00003").write_bytes(b"broken off")
        with pytest.raises(DataError, match="ends within a record"):
            import_movi(folder, out, E, workers=1)
        with pytest.raises(DataError, match="holds an unfinished split 'train' of other data"):
            import_movi(source, out, E, workers=1)

    def test_a_lack_of_disk_space_is_reported_early(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Usage:
            free = 1000

        with monkeypatch.context() as patch:
            patch.setattr("latentslots.data.store.resumable.shutil.disk_usage", lambda _: Usage)
            with pytest.raises(
                DataError, match=r"needs about 0\.0 GB more .* only 0\.0 GB are free"
            ):
                import_movi(source, tmp_path / "out", E, workers=1)
        assert not (tmp_path / "out" / "train").exists()
        import_movi(source, tmp_path / "out", E, workers=1)
        assert len(load_dataset(tmp_path / "out", split="train")) == 24

    def test_a_full_disk(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from latentslots.data.store.writer import StoreWriter

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(StoreWriter, "add_block", full)
            with pytest.raises(
                DataError, match=r"no space is left on the disk of .*repeat the command"
            ):
                import_movi(source, tmp_path / "out", E, workers=1)
        assert not (tmp_path / "out" / "train").exists()
        import_movi(source, tmp_path / "out", E, workers=1)
        assert len(load_dataset(tmp_path / "out", split="train")) == 24
