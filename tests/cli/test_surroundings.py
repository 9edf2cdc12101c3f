"""Commands in the surroundings that people have: notebooks, read-only homes, killed workers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from latentslots.cli.main import main
from latentslots.data import load_dataset
from latentslots.data.store import reader
from latentslots.files import atomic_file, atomic_folder
from tests import tiny
from tests.data.slow_rows import make


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.fromarray(tiny.squares(1)[0][0]).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def test_the_backend_of_a_notebook_and_a_terminal_without_letters(
    tiny_pipeline_dir: Path, image: Path, tmp_path: Path
) -> None:
    accented = image.rename(tmp_path / "caf\u00e9.png")
    words = ["edit", str(tiny_pipeline_dir), str(accented), "--at", "5,5"]
    missing = ["edit", str(tiny_pipeline_dir), str(tmp_path / "\u00fc"), "--at", "5,5"]
    segment = ["segment", str(tiny_pipeline_dir), str(accented), "--output-dir"]
    segment += [str(tmp_path / "out")]
    code = (
        "from latentslots.cli.main import main\n"
        f"print([main(words) for words in {[words, missing, segment]!a}])"
    )
    surroundings = {
        "MPLBACKEND": "module://of_a_notebook.that_is_missing",
        "PYTHONIOENCODING": "ascii",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **surroundings},
    )
    assert done.stdout.endswith("[0, 2, 0]\n"), done.stderr
    assert r"caf\xe9" in done.stdout
    assert r"there is no file or folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cache_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    store = tiny.write_squares(tmp_path / "store", num_train=3, num_validation=1)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "file" / "datasets"))
    reader._cache_dir.cache_clear()
    try:
        assert len(load_dataset(store, split="train")) == 3
    finally:
        reader._cache_dir.cache_clear()
    assert "set HF_HOME to a folder that can be written to" in caplog.text


def test_a_denied_cache_names_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from latentslots.cli import main as program

    def run(arguments: list[str]) -> int:
        raise PermissionError(13, "Permission denied", "/home/someone/.cache/huggingface")

    monkeypatch.setitem(sys.modules, "denied", type(sys)("denied"))
    monkeypatch.setattr(sys.modules["denied"], "run", run, raising=False)
    monkeypatch.setitem(program.COMMANDS, "denied", ("denied", ""))
    assert main(["denied"]) == 2
    assert "set HF_HOME to a folder that can be written to" in capsys.readouterr().err


@pytest.mark.slow
def test_an_import_whose_worker_is_killed_can_go_on(tmp_path: Path) -> None:
    """As a lack of memory kills it."""
    expected = make(tmp_path / "whole", tmp_path / "pids", workers=1)
    pids = tmp_path / "killed"
    pids.mkdir()
    command = [sys.executable, "-m", "tests.data.slow_rows", tmp_path / "out", pids, "0.3"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not (found := [*pids.glob("*")]) and process.poll() is None:
            time.sleep(0.01)
        os.kill(int(found[0].name), signal.SIGKILL)
        _, said = process.communicate(timeout=120)
    assert "DataError: a worker process ended, killed perhaps for lack of memory" in said
    make(tmp_path / "out", tmp_path / "pids", workers=1)
    part = "train/part-00000.parquet"
    assert (tmp_path / "out" / part).read_bytes() == (expected / part).read_bytes()


class Killed(torch.utils.data.Dataset[int]):
    """Rows whose reading ends the process."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, row: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return row


def test_a_killed_loader_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from latentslots.cli import main as program

    def run(arguments: list[str]) -> int:
        return len([*torch.utils.data.DataLoader(Killed(), num_workers=1)])

    monkeypatch.setitem(sys.modules, "killed", type(sys)("killed"))
    monkeypatch.setattr(sys.modules["killed"], "run", run, raising=False)
    monkeypatch.setitem(program.COMMANDS, "killed", ("killed", ""))
    assert main(["killed"]) == 2
    error = capsys.readouterr().err
    assert "a process that loads data was killed" in error.splitlines()[-1]


def test_names_as_long_as_a_file_system_allows(
    image: Path, tiny_pipeline_dir: Path, tmp_path: Path
) -> None:
    name = "\u00e9" * 120 + "x" * 11  # 251 bytes
    long = image.rename(tmp_path / f"{name}.png")
    words = ["segment", str(tiny_pipeline_dir), str(long), "--output-dir", str(tmp_path / "out")]
    assert main(words) == 0
    assert json.loads((tmp_path / "out" / name / "segments.json").read_text())["image"] == long.name
    with atomic_file(tmp_path / f"{name}.txt") as partial:
        partial.write_text("whole")
    with atomic_folder(tmp_path / name, mark="x") as folder:
        (folder / "x").touch()
    assert (tmp_path / f"{name}.txt").read_text() == "whole"
    assert (tmp_path / name / "x").is_file()
