"""Figures: parts touch their neighbors, and an edit changes one part."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latentslots.cli.main import main
from latentslots.data import SceneOptions, load_dataset, make_scenes
from latentslots.data.scenes.edits import EDITS
from latentslots.data.scenes.figures import (
    PART_SHAPES,
    PARTS,
    POSES,
    Figure,
    edit_figure,
    sample_figure,
)
from latentslots.data.scenes.labels import part_attributes
from latentslots.data.scenes.renderer import SceneRenderer

SEEDS = range(150)


@pytest.fixture(scope="module")
def figures() -> list[Figure]:
    return [sample_figure(seed) for seed in SEEDS]


def test_figures_are_as_specified(figures: list[Figure]) -> None:
    assert figures == [sample_figure(seed) for seed in SEEDS]
    for index, name in enumerate(PARTS):
        parts = [figure.parts[index] for figure in figures]
        assert {part.shape for part in parts} == set(PART_SHAPES[name])
        least, most = POSES[name]
        assert all(least <= part.pose <= most for part in parts)
        assert min(part.size for part in parts) < 0.1 < 0.9 < max(part.size for part in parts)
    for figure in figures:
        hat, head, body, arms, legs = (part.color_label for part in figure.parts)
        assert head not in ("", body, hat)
        assert body == "" or body not in (arms, legs)


def test_every_part_is_visible(figures: list[Figure]) -> None:
    with SceneRenderer(64) as renderer:
        for figure in figures[:80]:
            scene, owners = figure.build()
            assert sorted(set(owners)) == [1, 2, 3, 4, 5]
            _, pieces = renderer.render(scene)
            ids = np.array([0, *owners])[pieces]
            assert (np.bincount(ids.flatten(), minlength=6)[1:] >= 12).all()
            assert (ids > 0).mean() < 0.5
            assert (ids[0] > 0).sum() <= 20, "only a hat may reach the edge"


def test_parts_touch_their_neighbors(figures: list[Figure]) -> None:
    """The bounding sphere of each piece meets that of a piece of the part it is attached to."""
    for figure in figures:
        scene, owners = figure.build()
        pieces = {name: [] for name in PARTS}
        for thing, owner in zip(scene.objects, owners, strict=True):
            pieces[PARTS[owner - 1]].append(thing)
        for name, neighbor in (("hat", "head"), ("head", "body"), ("arms", "body")):
            (on,) = pieces[neighbor]
            for piece in pieces[name]:
                apart = np.linalg.norm(np.subtract(piece.position, on.position))
                assert apart < np.linalg.norm(piece.half_size) + np.linalg.norm(on.half_size)
        feet = [corner[2] for leg in pieces["legs"] for corner in leg.corners()]
        assert -0.15 < min(feet) < 0.15, "it stands on the ground"


def test_each_edit_changes_one_part_and_all_edits_occur(figures: list[Figure]) -> None:
    edits = set()
    for figure in figures:
        edited, edit, number = edit_figure(figure)
        assert edit_figure(figure) == (edited, edit, number)
        edits.add(edit)
        if edit == "ground":
            assert number == 0
            assert edited.parts == figure.parts
            assert edited.scene == replace(figure.scene, ground_color=edited.scene.ground_color)
            assert edited.scene.ground_color != figure.scene.ground_color
            continue
        assert edited.scene == figure.scene
        pairs = zip(figure.parts, edited.parts, strict=True)
        changed = [i for i, (one, other) in enumerate(pairs, start=1) if one != other]
        assert changed == ([] if edit == "removed" else [number])
        assert edited.missing == (PARTS[number - 1] if edit == "removed" else "")
        if edit == "replaced":
            next_one = sample_figure(figure.scene.seed + 1)
            assert edited.parts[number - 1] == next_one.parts[number - 1]
        if edit == "recolored":
            one, other = (each.parts[number - 1] for each in (figure, edited))
            assert (one.shape, one.size, one.pose) == (other.shape, other.size, other.pose)
    assert edits == set(EDITS) - {"moved"}


def test_a_removed_part_does_not_move_the_others() -> None:
    figure = sample_figure(3)
    whole, owners = figure.build()
    less, left = replace(figure, missing="body").build()
    assert 3 in owners
    assert 3 not in left
    pairs = zip(whole.objects, owners, strict=True)
    assert less.objects == tuple(thing for thing, owner in pairs if owner != 3)
    ids = np.zeros((8, 8), int)
    assert part_attributes(replace(figure, missing="body"), ids)["visibility"] == [0] * 5


def test_a_data_set_of_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "parts"
    counts = ["--num-train", "0", "--num-validation", "20", "--workers", "1"]
    assert main(["data", "make", "parts", str(out), "--edit-pairs", *counts]) == 0
    dataset = load_dataset(out, split="validation")
    assert len(dataset) == 40
    for i in range(0, 40, 2):
        before, after = dataset[i], dataset[i + 1]
        assert before["attributes"]["category"] == [0, 1, 2, 3, 4]
        edit = dataset.features["edit"].names[before["edit"]]
        ids = [np.asarray(row["segmentation"]) for row in (before, after)]
        assert set(np.unique(ids[0])) == {0, 1, 2, 3, 4, 5}
        gone = {before["edited_object"]} if edit == "removed" else set()
        assert set(np.unique(ids[1])) == {0, 1, 2, 3, 4, 5} - gone
    capsys.readouterr()
    assert main(["data", "make", "parts", str(out), *counts]) == 2
    assert "holds other data" in capsys.readouterr().err


def test_figures_have_no_videos(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="video applies to scenes, not to figures"):
        make_scenes(tmp_path / "x", SceneOptions(kind="parts", video=True), num_train=1)
