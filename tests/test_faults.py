"""The Nth operation on files fails: what was there before is whole, or what is new."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from latentslots.data import StoreWriter, load_dataset
from latentslots.data.importers.image_folder import import_folder
from latentslots.data.store import reader
from latentslots.files import atomic_file, atomic_folder, write_json
from latentslots.training import checkpoint
from tests import tiny
from tests.faults import faults, sweep

KINDS = pytest.mark.parametrize(
    ("lasting", "code"),
    [(False, errno.EIO), (True, errno.EIO), (True, errno.ENOSPC)],
    ids=["once", "lasting", "full disk"],
)


def fresh(root: Path, fill: Callable[[Path], Any]) -> Callable[[], None]:
    """A function that makes a folder anew as `fill` fills it."""
    template = root.with_name(f"{root.name}-template")
    template.mkdir()
    fill(template)

    def prepare() -> None:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(template, root)

    return prepare


def test_the_layer_itself_fails_where_it_is_told(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "elsewhere").write_text("x")
    with faults(root, 2) as layer:
        assert (tmp_path / "elsewhere").read_text() == "x"
        with pytest.raises(OSError, match="Input/output error"):
            (root / "file").write_text("whole")
        assert layer.failed
        (root / "again").write_text("whole")
    assert (root / "file").read_text() == "wh", "what was written before the error"
    assert (root / "again").read_text() == "whole"
    with faults(root, 1, lasting=True, code=errno.ENOSPC):
        for _ in range(3):
            with pytest.raises(OSError, match="No space left"):
                (root / "other").write_text("whole")


@KINDS
def test_a_file(tmp_path: Path, lasting: bool, code: int) -> None:
    root = tmp_path / "root"
    path = root / "report.json"

    def check(completed: bool) -> None:
        content = json.loads(path.read_text())
        assert content == ({"new": 2} if completed else content)
        assert content in ({"old": 1}, {"new": 2})

    prepare = fresh(root, lambda folder: write_json(folder / "report.json", {"old": 1}))
    runs = sweep(
        root,
        lambda: write_json(path, {"new": 2}),
        check,
        prepare=prepare,
        lasting=lasting,
        code=code,
    )
    assert runs >= 4


@KINDS
def test_a_folder(tmp_path: Path, lasting: bool, code: int) -> None:
    root = tmp_path / "root"

    def fill(folder: Path, content: str) -> None:
        with atomic_folder(folder / "results", mark="a.txt") as partial:
            for name in ("a.txt", "b.txt"):
                (partial / name).write_text(content)

    def check(completed: bool) -> None:
        found = {file.name: file.read_text() for file in (root / "results").iterdir()}
        whole = [dict.fromkeys(("a.txt", "b.txt"), content) for content in ("old", "new")]
        assert found in whole
        if completed:
            assert found == whole[1]
        fill(root, "again")  # what a failure leaves behind is in nobody's way
        assert [path.name for path in root.iterdir()] == ["results"]

    runs = sweep(
        root,
        lambda: fill(root, "new"),
        check,
        prepare=fresh(root, lambda folder: fill(folder, "old")),
        lasting=lasting,
        code=code,
    )
    assert runs >= 6


@KINDS
def test_a_checkpoint(tmp_path: Path, lasting: bool, code: int) -> None:
    root = tmp_path / "state"

    def save(folder: Path, step: int, value: float) -> None:
        partial = checkpoint.begin(folder, step)
        try:
            checkpoint.write_tensors(partial, "model", {"w": torch.full((4,), value)})
            checkpoint.write_tensors(partial, "random_0000", checkpoint.random_tensors())
            values = {"files": ["model"], "num_processes": 1, "value": value}
            checkpoint.commit(partial, values, keep=1)
        except checkpoint.WRITE_ERRORS as error:
            raise checkpoint.discard(partial, error) from error

    for step in (2, 1):  # a later one, and the same one again after resuming
        shutil.rmtree(root.with_name("state-template"), ignore_errors=True)

        def check(completed: bool) -> None:
            newest = checkpoint.list_checkpoints(root)[-1]
            snapshot = checkpoint.load(newest, 0, 1)
            value = snapshot.values["value"]
            assert value in (1.0, 2.0)
            assert (snapshot.tensors["model"]["w"] == value).all()
            if completed:
                assert value == 2.0

        runs = sweep(
            root,
            lambda step=step: save(root, step, 2.0),
            check,
            prepare=fresh(root, lambda folder: save(folder, 1, 1.0)),
            lasting=lasting,
            code=code,
        )
        assert runs >= 8


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    from PIL import Image

    for number, image in enumerate(tiny.squares(3)[0]):
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@KINDS
def test_an_import(tmp_path: Path, photos: Path, lasting: bool, code: int) -> None:
    """A repeated import goes on, and ends with the same bytes; an earlier split is untouched."""
    whole = import_folder(photos, tmp_path / "whole" / "out", split="train", workers=1)
    expected = content(whole)
    root = tmp_path / "out"

    def check(completed: bool) -> None:
        import_folder(photos, root, split="train", workers=1)
        assert content(root) == expected

    runs = sweep(
        root,
        lambda: import_folder(photos, root, split="train", workers=1),
        check,
        prepare=lambda: shutil.rmtree(root, ignore_errors=True),
        lasting=lasting,
        code=code,
    )
    assert runs >= 8


@KINDS
def test_another_split(tmp_path: Path, photos: Path, lasting: bool, code: int) -> None:
    root = tmp_path / "out"

    def write(folder: Path, split: str) -> None:
        with StoreWriter(folder, split) as writer:
            writer.add(np.zeros((8, 8, 3), np.uint8))

    def check(completed: bool) -> None:
        reader._cache_dir.cache_clear()
        assert len(load_dataset(root, split="train")) == 1
        if completed:
            assert len(load_dataset(root, split="validation")) == 1
        else:
            shutil.rmtree(root / "validation", ignore_errors=True)

    runs = sweep(
        root,
        lambda: write(root, "validation"),
        check,
        prepare=fresh(root, lambda folder: write(folder, "train")),
        lasting=lasting,
        code=code,
    )
    assert runs >= 5


def test_tensors_are_whole(tmp_path: Path) -> None:
    """Also those that a library in another language writes."""
    from safetensors.torch import save_file

    path = tmp_path / "root" / "a.safetensors"
    path.parent.mkdir()
    save_file({"w": torch.zeros(2)}, path)

    def act() -> None:
        from safetensors.torch import save_file

        with atomic_file(path) as partial:
            save_file({"w": torch.ones(2)}, partial)

    def check(completed: bool) -> None:
        value = load_file(path)["w"]
        assert (value == 1).all() or ((value == 0).all() and not completed)

    assert sweep(path.parent, act, check, prepare=lambda: None) >= 3
