from pathlib import Path

import numpy as np
import pytest

from latentslots.cli.main import main
from latentslots.data import SceneOptions, load_dataset, make_scenes
from latentslots.data.scenes import make
from latentslots.data.scenes.edits import EDITS, edit_scene
from latentslots.data.scenes.layout import SCENE_KINDS, are_visible, sample_scene, touch


@pytest.mark.parametrize("kind", SCENE_KINDS)
def test_each_edit_changes_one_object_and_all_edits_occur(kind: str) -> None:
    edits = set()
    for seed in range(40):
        scene = sample_scene(seed, kind)
        edited, edit, number = edit_scene(scene)
        again, same, _ = edit_scene(scene)
        assert (again, same) == (edited, edit), "the same seed gives the same edit"
        edits.add(edit)
        assert edited.camera == scene.camera
        assert edited.light_direction == scene.light_direction
        if edit == "ground":
            assert number == 0
            assert edited.objects == scene.objects
            looks = [(s.ground_color, s.ground_texture) for s in (scene, edited)]
            assert looks[0] != looks[1]
            continue
        before = scene.objects[number - 1]
        if edit == "removed":
            kept = tuple(thing for thing in scene.objects if thing != before)
            assert edited.objects == kept
            continue
        after = edited.objects[number - 1]
        pairs = zip(scene.objects, edited.objects, strict=True)
        assert [i for i, (a, b) in enumerate(pairs, start=1) if a != b] == [number]
        assert not any(touch(after, other) for other in edited.objects if other != after)
        assert are_visible(edited.camera, edited.objects)
        looks = [(o.color_label, o.texture) for o in (before, after)]
        assert (before.position[:2] == after.position[:2]) == (edit != "moved")
        assert (before.half_size == after.half_size) == (edit in ("moved", "recolored"))
        if edit == "recolored":
            assert looks[0] != looks[1]
        if edit == "moved":
            assert looks[0] == looks[1]
    assert edits == set(EDITS)


def test_pairs_are_made_as_two_frames(tmp_path: Path) -> None:
    options = SceneOptions(kind="scenes", edit_pairs=True)
    out = make_scenes(tmp_path / "pairs", options, num_train=0, num_validation=12, workers=1)
    dataset = load_dataset(out, split="validation")
    assert len(dataset) == 24
    for i in range(0, 24, 2):
        before, after = dataset[i], dataset[i + 1]
        assert before["video"] == after["video"]
        assert (before["frame"], after["frame"]) == (0, 1)
        assert before["edit"] == after["edit"]
        edit = dataset.features["edit"].names[before["edit"]]
        number = before["edited_object"]
        counts = [len(row["attributes"]["category"]) for row in (before, after)]
        assert counts[0] - counts[1] == (edit == "removed")
        images = [np.asarray(row["image"], dtype=int) for row in (before, after)]
        ids = [np.asarray(row["segmentation"]) for row in (before, after)]
        changed = np.abs(images[0] - images[1]).max(axis=2) > 40
        if edit == "ground":
            assert number == 0
            assert (ids[0] == ids[1]).all()
        else:
            assert changed[ids[0] == number].mean() > 0.3
            kept = np.isin(ids[0], [k for k in range(1, counts[0] + 1) if k != number])
            assert changed[kept & (ids[1] > 0)].mean() < 0.3


def test_pairs_are_made_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pairs"
    counts = ["--num-train", "0", "--num-validation", "3", "--size", "32"]
    assert main(["data", "make", "scenes", str(out), "--edit-pairs", *counts]) == 0
    assert len(load_dataset(out, split="validation")) == 6
    assert main(["data", "make", "scenes", str(out), *counts]) == 2
    assert "holds other data" in capsys.readouterr().err
    flags = ["--edit-pairs", "--video", *counts]
    assert main(["data", "make", "scenes", str(tmp_path / "x"), *flags]) == 2
    assert "video and edit_pairs exclude each other" in capsys.readouterr().err


def test_data_sets_older_than_edit_pairs_match_the_same_options() -> None:
    plain = make._made_by(SceneOptions(kind="scenes"))
    assert set(plain) == {"program", "kind", "size", "min_objects", "max_objects", "seed", "video"}
    assert make._made_by(SceneOptions(kind="scenes", edit_pairs=True)) == {
        **plain,
        "edit_pairs": True,
    }
