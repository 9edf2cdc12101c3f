"""Files and folders appear complete or not at all, and with the permissions of the umask."""

import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from latentslots import files
from latentslots.concepts import ConceptLibrary, LibraryInfo
from latentslots.data import StoreWriter, cache_latents, load_dataset
from latentslots.files import (
    atomic_file,
    atomic_folder,
    publish,
    retry,
    to_json,
    write_json,
    write_text,
    write_together,
)
from latentslots.models.autoencoder import load_vae


@pytest.fixture(params=[0o022, 0o027], ids=["umask 022", "umask 027"])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def write_store(folder: Path) -> Path:
    with StoreWriter(folder / "store") as writer:
        writer.add(np.zeros((8, 8, 3), np.uint8))
    return folder / "store"


class TestAtomicFile:
    @staticmethod
    def write_half(path: Path) -> None:
        path.write_text("half of")
        raise KeyboardInterrupt

    def test_it_appears_when_it_is_complete(self, tmp_path: Path) -> None:
        path = tmp_path / "report.txt"
        path.write_text("old")
        with atomic_file(path) as partial:
            partial.write_text("new")
            assert path.read_text() == "old"
        assert path.read_text() == "new"
        assert list(tmp_path.iterdir()) == [path]

    def test_an_error_keeps_the_earlier_file(self, tmp_path: Path) -> None:
        path = tmp_path / "report.json"
        write_json(path, {"score": 1})
        with pytest.raises(TypeError, match="not JSON serializable"):
            write_json(path, {"score": object()})
        with pytest.raises(KeyboardInterrupt), atomic_file(path) as partial:
            self.write_half(partial)
        assert path.read_text() == '{\n  "score": 1\n}\n'
        assert list(tmp_path.iterdir()) == [path]


class TestAtomicFolder:
    @staticmethod
    def write(folder: Path, text: str) -> None:
        with atomic_folder(folder, mark="facts.json") as partial:
            (partial / "facts.json").write_text(text)

    @pytest.mark.parametrize("before", ["nothing", "an empty folder", "an earlier one"])
    def test_it_appears_when_it_is_complete(self, before: str, tmp_path: Path) -> None:
        folder = tmp_path / "a" / "out"
        if before != "nothing":
            folder.mkdir(parents=True)
        if before == "an earlier one":
            (folder / "facts.json").write_text("old")
            (folder / "more.txt").write_text("old")
        with atomic_folder(folder, mark="facts.json") as partial:
            (partial / "facts.json").write_text("new")
            assert not (folder / "facts.json").exists() or before == "an earlier one"
        assert {path.name for path in folder.iterdir()} == {"facts.json"}
        assert [path.name for path in folder.parent.iterdir()] == ["out"]

    def test_an_error_keeps_the_earlier_folder(self, tmp_path: Path) -> None:
        out = tmp_path / "out"
        self.write(out, "old")
        with pytest.raises(OSError, match="disk"), atomic_folder(out, mark="facts.json"):
            raise OSError("no space left on the disk")
        assert (out / "facts.json").read_text() == "old"
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_a_folder_below_a_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("years of work")
        with pytest.raises(ValueError, match=r"file is a file, not a folder that results could go"):
            self.write(tmp_path / "file" / "out", "new")
        assert (tmp_path / "file").read_text() == "years of work"

    @pytest.mark.parametrize("kind", ["folder", "file"])
    def test_other_content_is_not_replaced(self, kind: str, tmp_path: Path) -> None:
        other = tmp_path / "out"
        if kind == "folder":
            other.mkdir()
            other = other / "thesis.tex"
        other.write_text("years of work")
        with pytest.raises(ValueError, match=r"out exists and holds something else, without a fac"):
            self.write(tmp_path / "out", "new")
        assert other.read_text() == "years of work"


def test_a_folder_is_not_published_over_another_one(tmp_path: Path) -> None:
    for name in ("partial", "final"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    with pytest.raises(OSError, match="not empty"):
        publish(tmp_path / "partial", tmp_path / "final")
    assert (tmp_path / "final" / "file").read_text() == "final"


class TestPermissions:
    """safetensors writes private files; whoever may read the others may read these."""

    @staticmethod
    def check(folder: Path, umask: int, *, num_files: int) -> None:
        paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
        assert len(paths) == num_files
        for path in paths:
            assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, path
        assert os.umask(umask) == umask, "the umask itself is unchanged"

    def test_of_a_file_and_a_folder(self, umask: int, tmp_path: Path) -> None:
        with atomic_file(tmp_path / "alone.safetensors") as partial:
            save_file({"zeros": torch.zeros(1)}, partial)
        with atomic_folder(tmp_path / "folder", mark="mark") as folder:
            (folder / "deep").mkdir()
            save_file({"zeros": torch.zeros(1)}, folder / "deep" / "x.safetensors")
        self.check(tmp_path, umask, num_files=2)

    def test_of_a_store(self, umask: int, tmp_path: Path) -> None:
        write_store(tmp_path)
        self.check(tmp_path, umask, num_files=2)

    def test_of_a_latent_cache(self, umask: int, tmp_path: Path, tiny_vae_dir: Path) -> None:
        dataset = load_dataset(write_store(tmp_path))
        cache_latents(dataset, load_vae(str(tiny_vae_dir)), tmp_path / "cache", resolution=8)
        self.check(tmp_path / "cache", umask, num_files=3)

    def test_of_a_concept_library(self, umask: int, tmp_path: Path) -> None:
        info = LibraryInfo(
            pipeline="", num_images=1, metric="cosine", min_area=0.0, seed=0, silhouettes={}
        )
        library = ConceptLibrary(
            slots=torch.zeros(1, 2),
            masks=torch.zeros(1, 4, 4),
            concept=torch.zeros(1, dtype=torch.long),
            image=torch.zeros(1, dtype=torch.long),
            crops=((Image.new("RGB", (4, 4)),),),
            info=info,
        )
        library.save(tmp_path / "library")
        self.check(tmp_path / "library", umask, num_files=3)


class TestRetry:
    @pytest.fixture
    def waits(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        waits: list[float] = []
        monkeypatch.setattr(files.time, "sleep", waits.append)
        return waits

    @staticmethod
    def failing(*errors: Exception) -> tuple[list[Exception], Callable[[], str]]:
        left = list(errors)

        def call() -> str:
            if left:
                raise left.pop(0)
            return "done"

        return left, call

    def test_it_waits_twice_as_long_after_each_failure(self, waits: list[float]) -> None:
        _, call = self.failing(*[OSError()] * 3)
        assert retry(call, retries=3, retriable=lambda _: True) == "done"
        assert waits == [0.5, 1.0, 2.0]

    def test_the_last_error_is_raised(self, waits: list[float]) -> None:
        left, call = self.failing(OSError("first"), OSError("second"), OSError("third"))
        with pytest.raises(OSError, match="second"):
            retry(call, retries=1, retriable=lambda _: True, first_wait=3.0)
        assert (waits, len(left)) == ([3.0], 1)

    def test_other_errors_are_raised_at_once(self, waits: list[float]) -> None:
        _, call = self.failing(OSError("passes"), ValueError("does not"))
        with pytest.raises(ValueError, match="does not"):
            retry(call, retries=9, retriable=lambda error: isinstance(error, OSError))
        assert waits == [0.5]

    def test_progress_restarts_the_count(self, waits: list[float]) -> None:
        left, call = self.failing(*[OSError()] * 6)
        done = {6: 0, 5: 0, 4: 0, 3: 10, 2: 10, 1: 20, 0: 20}
        assert (
            retry(call, retries=2, retriable=lambda _: True, progress=lambda: done[len(left)])
            == "done"
        )
        assert waits == [0.5, 1.0, 0.5, 1.0, 0.5, 1.0]


class TestWriteTogether:
    def test_all_files_are_written(self, tmp_path: Path) -> None:
        write_together(tmp_path / "new", {"a.txt": "\u00e4", "b.bin": b"\x00"})
        assert (tmp_path / "new" / "a.txt").read_text(encoding="utf-8") == "\u00e4"
        assert (tmp_path / "new" / "b.bin").read_bytes() == b"\x00"

    def test_an_error_in_the_last_keeps_the_first(self, tmp_path: Path) -> None:
        write_together(tmp_path, {"a.txt": "old", "b.txt": "old"})
        with pytest.raises(UnicodeEncodeError):
            write_together(tmp_path, {"a.txt": "new", "b.txt": "\udcff"})
        assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.txt"]
        assert (tmp_path / "a.txt").read_text() == "old"


def test_json_holds_null_for_what_is_not_finite() -> None:
    assert json.loads(to_json({"a": [float("nan"), 1.5], "b": {"c": float("inf")}})) == {
        "a": [None, 1.5],
        "b": {"c": None},
    }


@pytest.mark.parametrize("earlier", [False, True], ids=["new", "replaced"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_renamed_was_synced(
    kind: str, earlier: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    fsync, replace, exchange = os.fsync, os.replace, files.exchange

    def check(path: Path) -> None:
        inodes = {entry.stat().st_ino for entry in [path, *path.rglob("*")]}
        assert inodes <= synced

    def record(handle: int) -> None:
        fsync(handle)
        synced.add(os.fstat(handle).st_ino)

    def checked_replace(one: Path, other: Path) -> None:
        check(Path(one))
        replace(one, other)
        synced.discard(tmp_path.stat().st_ino)

    def checked_exchange(one: Path, other: Path) -> bool:
        check(one)
        done = exchange(one, other)
        synced.discard(tmp_path.stat().st_ino)
        return done

    def write(text: str) -> None:
        if kind == "file":
            write_text(tmp_path / "out", text)
            return
        with atomic_folder(tmp_path / "out", mark="m") as partial:
            (partial / "deep").mkdir()
            for name in ("m", "deep/n"):
                (partial / name).write_text(text)

    if earlier:
        write("old")
    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(os, "replace", checked_replace)
    monkeypatch.setattr(files, "exchange", checked_exchange)
    write("new")
    assert tmp_path.stat().st_ino in synced  # after the renaming, too
