"""Scenes: renderings match geometry and attributes, and seeds determine them."""

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

SEEDS = range(25)


@pytest.fixture(scope="module")
def renderer() -> Iterator[SceneRenderer]:
    with SceneRenderer(64) as renderer:
        yield renderer


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.parquet")}


@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_scenes_are_as_specified(kind: Kind) -> None:
    scenes = [sample_scene(seed, kind) for seed in range(60)]
    assert {len(scene.objects) for scene in scenes} == {3, 4, 5, 6}
    assert {thing.shape for scene in scenes for thing in scene.objects} == set(SHAPES)
    widths = [apparent_width(s.camera, thing) for s in scenes for thing in s.objects]
    assert APPARENT_WIDTH[0] <= min(widths) < 0.13
    assert 0.3 < max(widths) <= APPARENT_WIDTH[1]
    labels = [
        [thing.color_label or thing.texture // NUM_VARIANTS for thing in scene.objects]
        for scene in scenes
    ]
    assert sum(len(set(found)) < len(found) for found in labels) > 0.5 * 60
    assert len({camera.azimuth for camera in (scene.camera for scene in scenes)}) == 60
    assert len({scene.light_direction for scene in scenes}) == 60


@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_renderings_match_the_projected_geometry(kind: Kind, renderer: SceneRenderer) -> None:
    """Rendered against projected masks: camera, sizes, rotations and shapes at once."""
    for seed in SEEDS:
        scene = sample_scene(seed, kind)
        _, ids = renderer.render(scene)
        for index, thing in enumerate(scene.objects):
            alone = replace(scene, objects=(thing,))
            drawn = renderer.render(alone)[1] == 1
            expected = silhouettes(scene.camera, (thing,), 64)[0][0]
            overlap = (drawn & expected).sum() / (drawn | expected).sum()
            # Only a few pixels on the edge may differ.
            assert overlap > 0.93, (seed, index, thing.shape)
            assert (ids == index + 1).sum() >= 10
        masks, _ = silhouettes(scene.camera, scene.objects, 64)
        assert (visible_ids(scene.camera, scene.objects, masks) == ids).mean() > 0.99


def test_attributes_match_the_segmentation(renderer: SceneRenderer) -> None:
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


def test_occlusion_is_the_hidden_fraction(renderer: SceneRenderer) -> None:
    hidden = 0
    for seed in range(30):
        scene = sample_scene(seed, "scenes")
        _, ids = renderer.render(scene)
        found = attributes(scene, ids)
        for index, share in enumerate(found["occlusion"]):
            alone = (renderer.render(replace(scene, objects=(scene.objects[index],)))[1] == 1).sum()
            lost = 1 - found["visibility"][index] / alone
            assert share == pytest.approx(lost, abs=0.03)
        hidden += max(found["occlusion"]) > 0.05
    assert hidden > 0.3 * 30


def test_camera_columns_match_the_projection() -> None:
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
        # A speckle is a dark pixel of the ground among bright ones.
        ground = np.where(ids == 0, brightness, -1)
        near = np.stack(
            [np.roll(ground, shift, (0, 1)) for shift in ((0, 1), (1, 0), (0, -1), (-1, 0))]
        )[:, 1:-1, 1:-1]
        middle = ground[1:-1, 1:-1]
        speckles = (near.min(axis=0) >= 0) & (middle >= 0) & (near.min(axis=0) - middle > 40)
        assert not speckles.any(), seed


def test_textures_differ_and_continue_over_their_edges() -> None:
    textures = [texture(number, 64) for number in range(len(TEXTURES) * NUM_VARIANTS)]
    assert len({pixels.tobytes() for pixels in textures}) == len(textures)
    clouds = texture(TEXTURES.index("clouds") * NUM_VARIANTS, 64).astype(int)
    inside = np.abs(np.diff(clouds, axis=0)).mean()
    assert np.abs(clouds[0] - clouds[-1]).mean() < 2 * inside
    assert np.array_equal(texture.__wrapped__(5, 64), textures[5])


def test_a_rendering_does_not_depend_on_earlier_ones(renderer: SceneRenderer) -> None:
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


@pytest.mark.slow
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


def test_an_interrupted_data_set_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    with pytest.raises(DataError, match="writing split 'train' was interrupted"):
        load_dataset(out)
    with pytest.raises(DataError, match="holds an unfinished split 'train' of other data"):
        make_scenes(out, replace(options, seed=1), num_train=6, num_validation=0, workers=1)

    parts[1].unlink()
    parts[2].write_bytes(parts[2].read_bytes()[:-20])  # as a full disk leaves it
    made: list[int] = []
    make_block = make._make_block

    def record(seeds: tuple[int, int]) -> Iterator[dict[str, Any]]:
        made.append(seeds[0])
        return make_block(seeds)

    monkeypatch.setattr(make, "_make_block", record)
    make_scenes(out, options, **counts)
    assert made == [2, 4, 8_000_000, 8_000_002, 9_000_000]
    assert contents(out) == contents(whole)
    # Complete: nothing is made again.
    make_scenes(out, options, **counts)
    assert len(made) == 5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--size", "8"], "size must be 16 to 2048 pixels, got 8"),
        (["--min-objects", "5", "--max-objects", "4"], "1 to 10 objects, got 5 to 4"),
        (["--max-objects", "11"], "1 to 10 objects, got 3 to 11"),
        (["--num-train", "-1"], "num_train must be 0 to 1000000, got -1"),
        (["--num-train", "0", "--num-validation", "0"], "at least one of num_train"),
        (["--workers", "0"], "workers must be at least 1, got 0"),
        (["--seed", "-3"], "seed must be 0 to 999999, got -3"),
    ],
)
def test_invalid_options(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "make", "scenes", str(tmp_path / "out"), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_content_is_not_changed(
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


def test_without_opengl_it_names_the_packages_to_install(tmp_path: Path) -> None:
    """A driver that cannot be found, in a separate process, as OpenGL is chosen at import."""
    code = "from latentslots.data.scenes.renderer import SceneRenderer; SceneRenderer(32)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "MUJOCO_GL": "egl",
            "__EGL_VENDOR_LIBRARY_FILENAMES": str(tmp_path / "none.json"),
        },
        capture_output=True,
        text=True,
    )
    # Destructors of MuJoCo 3.5 print errors of their own after it.
    name = "latentslots.data.errors.DataError: "
    error = next(line for line in done.stderr.splitlines() if line.startswith(name))
    assert error.startswith(f"{name}no OpenGL that works without a")
    assert "apt-get install -y libegl1 libgl1-mesa-dri" in error


def test_without_opengl_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(size: int) -> None:
        raise DataError("no OpenGL")

    monkeypatch.setattr(make, "SceneRenderer", fail)
    assert main(["data", "make", "scenes", str(tmp_path / "out"), "--workers", "2"]) == 2
    assert capsys.readouterr().err == "latentslots data: no OpenGL\n"
    assert not (tmp_path / "out").exists()


def test_without_mujoco_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(DataError, match=r"pip install 'latentslots\[scenes\]'"):
        SceneRenderer(64)


def test_the_manifest_holds_the_options(store: Path) -> None:
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


def test_resuming_with_another_number_of_scenes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(make, "_BLOCK", 4)
    options = SceneOptions(kind="scenes", size=32)
    few = {"num_validation": 0, "num_test": 0, "workers": 1}
    for first, second in ((8, 6), (6, 8)):
        out = tmp_path / f"first-{first}" / "store"
        with monkeypatch.context() as patch:
            patch.setattr(StoreWriter, "add_block", killed)
            with pytest.raises(KeyboardInterrupt):
                make_scenes(out, options, num_train=first, **few)
        whole = make_scenes(
            tmp_path / f"whole-{second}" / "store", options, num_train=second, **few
        )
        assert snapshot(make_scenes(out, options, num_train=second, **few)) == snapshot(whole)
