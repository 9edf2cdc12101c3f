"""Scenes: what is drawn is what the labels say, and the same seed says the same."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from latentslots.cli.main import main
from latentslots.data import DataError, SceneOptions, load_dataset, make_scenes
from latentslots.data.scenes import make
from latentslots.data.scenes.labels import attributes
from latentslots.data.scenes.layout import (
    APPARENT_WIDTH,
    NUM_VARIANTS,
    SCENE_KINDS,
    SHAPES,
    TEXTURES,
    Kind,
    apparent_width,
    sample_scene,
    silhouettes,
    visible_ids,
)
from latentslots.data.scenes.physics import throw
from latentslots.data.scenes.renderer import SceneRenderer
from latentslots.data.scenes.textures import texture
from latentslots.data.store.info import info
from latentslots.data.store.writer import StoreWriter
from tests.data.conftest import snapshot

SEEDS = range(40)


@pytest.fixture(scope="module")
def renderer() -> Iterator[SceneRenderer]:
    with SceneRenderer(64) as renderer:
        yield renderer


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.parquet")}


@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_scenes_are_as_specified(kind: Kind) -> None:
    scenes = [sample_scene(seed, kind) for seed in range(100)]
    assert {len(scene.objects) for scene in scenes} == {3, 4, 5, 6}
    assert {thing.shape for scene in scenes for thing in scene.objects} == set(SHAPES)
    widths = [apparent_width(s.camera, thing) for s in scenes for thing in s.objects]
    assert APPARENT_WIDTH[0] <= min(widths) < 0.13
    assert 0.3 < max(widths) <= APPARENT_WIDTH[1]
    labels = [
        [thing.color_label or thing.texture // NUM_VARIANTS for thing in scene.objects]
        for scene in scenes
    ]
    assert sum(len(set(found)) < len(found) for found in labels) > 0.5 * 100
    assert len({camera.azimuth for camera in (scene.camera for scene in scenes)}) == 100
    assert len({scene.light_direction for scene in scenes}) == 100


@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_what_is_drawn_is_what_was_laid_out(kind: Kind, renderer: SceneRenderer) -> None:
    """The picture's own geometry against ours: camera, sizes, rotations and shapes at once."""
    for seed in SEEDS:
        scene = sample_scene(seed, kind)
        _, ids = renderer.render(scene)
        for index, thing in enumerate(scene.objects):
            alone = replace(scene, objects=(thing,))
            drawn = renderer.render(alone)[1] == 1
            expected = silhouettes(scene.camera, (thing,), 64)[0][0]
            overlap = (drawn & expected).sum() / (drawn | expected).sum()
            # All that may differ are a few pixels on the edge.
            assert overlap > 0.93, (seed, index, thing.shape)
            assert (ids == index + 1).sum() >= 10
        masks, _ = silhouettes(scene.camera, scene.objects, 64)
        assert (visible_ids(scene.camera, scene.objects, masks) == ids).mean() > 0.99


def test_labels_agree_with_the_picture(renderer: SceneRenderer) -> None:
    for seed in SEEDS:
        scene = sample_scene(seed, "scenes")
        _, ids = renderer.render(scene)
        found = attributes(scene, ids)
        assert {len(values) for values in found.values()} == {len(scene.objects)}
        for index, (top, left, bottom, right) in enumerate(found["bboxes"]):
            rows, columns = np.nonzero(ids == index + 1)
            assert found["visibility"][index] == len(rows)
            assert (top * 64, bottom * 64) == (rows.min(), rows.max() + 1)
            assert (left * 64, right * 64) == (columns.min(), columns.max() + 1)
            if found["truncation"][index] == 0 and found["occlusion"][index] == 0:
                x, y = found["image_positions"][index]
                assert left < x < right
                assert top < y < bottom
                width = right - left
                assert width == pytest.approx(found["apparent_width"][index], abs=2.1 / 64)
        corners = np.array(found["bboxes_3d"])
        assert np.allclose(corners.mean(axis=1), found["positions"])


def test_a_hidden_object_says_how_much_of_it_is_hidden(renderer: SceneRenderer) -> None:
    hidden = 0
    for seed in range(60):
        scene = sample_scene(seed, "scenes")
        _, ids = renderer.render(scene)
        found = attributes(scene, ids)
        for index, share in enumerate(found["occlusion"]):
            alone = (renderer.render(replace(scene, objects=(scene.objects[index],)))[1] == 1).sum()
            lost = 1 - found["visibility"][index] / alone
            assert share == pytest.approx(lost, abs=0.03)
        hidden += max(found["occlusion"]) > 0.05
    assert hidden > 0.3 * 60


def test_the_camera_is_where_its_labels_say() -> None:
    camera = sample_scene(3, "scenes").camera
    w, x, y, z = camera.quaternion
    ahead = Rotation.from_quat([x, y, z, w]).apply([0, 0, -1])
    assert np.allclose(camera.position + camera.distance * ahead, camera.look_at)
    assert np.allclose(camera.project(np.array([camera.look_at])), 0.5)


def test_every_object_is_lit_and_no_ground_is_speckled(renderer: SceneRenderer) -> None:
    for seed in SEEDS:
        scene = sample_scene(seed, "scenes")
        image, ids = renderer.render(scene)
        brightness = image.max(axis=2).astype(int)
        for index, thing in enumerate(scene.objects):
            mine = brightness[ids == index + 1]
            assert np.median(mine) > 0.45 * 255 * max(thing.color), (seed, index)
        # A speckle is a dark pixel of the ground alone among bright ones.
        ground = np.where(ids == 0, brightness, -1)
        near = np.stack(
            [np.roll(ground, shift, (0, 1)) for shift in ((0, 1), (1, 0), (0, -1), (-1, 0))]
        )[:, 1:-1, 1:-1]
        middle = ground[1:-1, 1:-1]
        lonely = (near.min(axis=0) >= 0) & (middle >= 0) & (near.min(axis=0) - middle > 40)
        assert not lonely.any(), seed


def test_textures_differ_and_continue_over_their_edges() -> None:
    pictures = [texture(number, 64) for number in range(len(TEXTURES) * NUM_VARIANTS)]
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)
    clouds = texture(TEXTURES.index("clouds") * NUM_VARIANTS, 64).astype(int)
    inside = np.abs(np.diff(clouds, axis=0)).mean()
    assert np.abs(clouds[0] - clouds[-1]).mean() < 2 * inside
    assert np.array_equal(texture.__wrapped__(5, 64), pictures[5])


def test_a_scene_is_drawn_alike_after_any_other(renderer: SceneRenderer) -> None:
    scene, other = sample_scene(1, "scenes-textured"), sample_scene(2, "scenes")
    first, ids = renderer.render(scene)
    renderer.render(other)
    again, ids_again = renderer.render(scene)
    assert np.array_equal(first, again)
    assert np.array_equal(ids, ids_again)


def test_the_same_seed_gives_the_same_scene() -> None:
    assert sample_scene(7, "scenes") == sample_scene(7, "scenes")
    assert sample_scene(7, "scenes") != sample_scene(8, "scenes")


def test_thrown_objects_fall_move_and_keep_apart() -> None:
    frames = throw(sample_scene(4, "scenes"))
    assert len(frames) == 24
    first, last = frames[0], frames[-1]
    assert all(
        np.linalg.norm(np.subtract(a.position, b.position)) > 0.05
        for a, b in zip(first.objects, last.objects, strict=True)
    )
    lows = [thing.surface()[:, 2].min() for frame in frames for thing in frame.objects]
    assert min(lows) > -0.08
    assert throw(sample_scene(4, "scenes")) == frames


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(
        tmp_path_factory.mktemp("made") / "scenes",
        SceneOptions(kind="scenes", size=32),
        num_train=6,
        num_validation=3,
        num_test=2,
        workers=1,
    )


def test_a_store_of_scenes(store: Path) -> None:
    train = load_dataset(store, split="train")
    assert len(train) == 6
    assert train[0]["image"].size == (32, 32)
    assert len(train[0]["attributes"]["category"]) == len(sample_scene(0, "scenes").objects)
    (test,) = load_dataset(store, split="test").select([1])
    expected = sample_scene(9_000_001, "scenes")
    assert np.allclose(test["attributes"]["positions"], [t.position for t in expected.objects])
    assert not list(store.glob(".*"))
    found = info(store)
    assert found.kind == "scenes"
    assert "partly hidden" in str(found)
    statistics = found.splits["train"].scenes
    assert statistics is not None
    low, middle, high = statistics.widths
    assert 0.1 <= low < middle < high <= 0.35


def test_bytes_do_not_depend_on_the_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "_BLOCK", 2)
    stores = [
        make_scenes(
            tmp_path / str(workers),
            SceneOptions(kind="scenes", size=32),
            num_train=6,
            num_validation=3,
            num_test=2,
            workers=workers,
        )
        for workers in (1, 2)
    ]
    assert contents(stores[0]) == contents(stores[1])


def test_videos(tmp_path: Path) -> None:
    options = SceneOptions(kind="scenes-textured", size=32, video=True)
    out = make_scenes(tmp_path / "videos", options, num_train=2, num_validation=0, workers=1)
    rows = load_dataset(out, split="train")
    assert rows["frame"] == [*range(24), *range(24)]
    assert rows["video"] == ["0000000"] * 24 + ["0000001"] * 24
    counts = {len(row["category"]) for row in rows["attributes"][:24]}
    assert len(counts) == 1
    assert "texture_label" in rows[0]["attributes"]


def test_half_made_data_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make, "_BLOCK", 2)
    options = SceneOptions(kind="scenes", size=32)
    counts = {"num_train": 6, "num_validation": 3, "num_test": 2, "workers": 1}
    whole = make_scenes(tmp_path / "whole", options, **counts)
    out = tmp_path / "half"

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "add_block", killed)
        with pytest.raises(KeyboardInterrupt):
            make_scenes(out, options, num_train=6, num_validation=0, workers=1)
    parts = sorted((out / ".train.blocks.partial").glob("*.parquet"))
    assert len(parts) == 3
    with pytest.raises(DataError, match="split 'train' was begun and not finished"):
        load_dataset(out)
    with pytest.raises(DataError, match="holds a half-made 'train' of other data"):
        make_scenes(out, replace(options, seed=1), num_train=6, num_validation=0, workers=1)

    parts[1].unlink()
    parts[2].write_bytes(parts[2].read_bytes()[:-20])  # as a full disk leaves it
    asked: list[int] = []
    make_block = make._make_block

    def watched(seeds: tuple[int, int]) -> Iterator[dict[str, Any]]:
        asked.append(seeds[0])
        return make_block(seeds)

    monkeypatch.setattr(make, "_make_block", watched)
    make_scenes(out, options, **counts)
    assert asked == [2, 4, 8_000_000, 8_000_002, 9_000_000]
    assert contents(out) == contents(whole)
    # All is there: nothing is made again.
    make_scenes(out, options, **counts)
    assert len(asked) == 5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--size", "8"], "size must be 16 to 2048 pixels, got 8"),
        (["--min-objects", "5", "--max-objects", "4"], "1 to 10 objects, got 5 to 4"),
        (["--max-objects", "11"], "1 to 10 objects, got 3 to 11"),
        (["--num-train", "-1"], "num_train must be 0 to 1000000, got -1"),
        (["--num-train", "0", "--num-validation", "0"], "all counts are 0"),
        (["--workers", "0"], "workers must be at least 1, got 0"),
        (["--seed", "-3"], "seed must be 0 to 999999, got -3"),
    ],
)
def test_impossible_wishes(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "make", "scenes", str(tmp_path / "out"), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_things_is_left_alone(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    assert main(["data", "make", "scenes", str(tmp_path)]) == 2
    assert "is not empty and not a store" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]

    before = contents(store)
    assert main(["data", "make", "scenes-textured", str(store)]) == 2
    assert "holds other data" in capsys.readouterr().err
    assert main(["data", "make", "scenes", str(store), "--size", "32", "--num-train", "7"]) == 2
    assert "already has 6 scenes in 'train', not 7" in capsys.readouterr().err
    assert contents(store) == before


def test_without_opengl_it_says_what_to_install(tmp_path: Path) -> None:
    """A driver that cannot be found, in a process of its own, as OpenGL is chosen at import."""
    done = subprocess.run(
        [sys.executable, "-m", "latentslots", "data", "make", "scenes", str(tmp_path / "out")],
        env={
            **os.environ,
            "MUJOCO_GL": "egl",
            "__EGL_VENDOR_LIBRARY_FILENAMES": str(tmp_path / "none.json"),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "apt-get install -y libegl1 libgl1-mesa-dri" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_without_mujoco_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(DataError, match=r"pip install 'latentslots\[scenes\]'"):
        SceneRenderer(64)


def test_the_manifest_says_how_the_scenes_were_made(store: Path) -> None:
    made_by = json.loads((store / "dataset_info.json").read_text())["made_by"]
    assert made_by == {
        "program": "latentslots data make",
        "kind": "scenes",
        "size": 32,
        "min_objects": 3,
        "max_objects": 6,
        "seed": 0,
        "video": False,
    }


def test_another_number_of_scenes_goes_on_with_whole_blocks_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(make, "_BLOCK", 4)
    options = SceneOptions(kind="scenes", size=32)
    few = {"num_validation": 0, "num_test": 0, "workers": 1}
    for begun, wanted in ((8, 6), (6, 8)):
        out = tmp_path / f"begun-{begun}" / "store"
        with monkeypatch.context() as patch:
            patch.setattr(StoreWriter, "add_block", killed)
            with pytest.raises(KeyboardInterrupt):
                make_scenes(out, options, num_train=begun, **few)
        whole = make_scenes(
            tmp_path / f"whole-{wanted}" / "store", options, num_train=wanted, **few
        )
        assert snapshot(make_scenes(out, options, num_train=wanted, **few)) == snapshot(whole)
