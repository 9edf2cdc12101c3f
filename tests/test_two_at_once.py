"""Two processes that write to one folder: one wins, the other says so."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from latentslots.cli.main import main
from latentslots.files import atomic_folder, exclusive
from tests import tiny

HOLD = """
import sys, time
from pathlib import Path
from latentslots.files import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def held(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes to a path."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with held(tmp_path / "a"):
        busy = pytest.raises(ValueError, match=r"another process is writing to .*a: wait for it")
        with busy, exclusive(tmp_path / "a"):
            pytest.fail("both write")
        with exclusive(tmp_path / "b"):
            pass
    with exclusive(tmp_path / "a"):
        assert not [*tmp_path.iterdir()], "locks are elsewhere"


def test_a_killed_one_does_not_count(tmp_path: Path) -> None:
    with held(tmp_path / "a") as process:
        process.kill()
        process.wait()
        time.sleep(0.1)
        with atomic_folder(tmp_path / "a", mark="x") as folder:
            (folder / "x").touch()
    assert (tmp_path / "a" / "x").is_file()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    Image.fromarray(tiny.squares(1)[0][0]).save(tmp_path / "photos" / "0.png")
    return tmp_path / "photos"


@pytest.mark.parametrize("kind", ["train", "import", "segment", "edit", "generate", "evaluate"])
def test_the_second_command_says_so(
    kind: str,
    tmp_path: Path,
    photos: Path,
    tiny_pipeline_dir: Path,
    tiny_vae_dir: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, model = tmp_path / "out", str(tiny_pipeline_dir)
    store = tiny.write_squares(tmp_path / "store", num_train=12, num_validation=4)
    steps = ["--num-inference-steps", "1"]
    commands: dict[str, tuple[list[object], Path]] = {
        "train": (
            ["train", "lsd-smoke", "--data.path", store, "--method.vae", tiny_vae_dir,
             "--max-train-steps", "1", "--output-dir", out],
            out,
        ),
        "import": (["data", "import", "folder", photos, out, "--workers", "1"], out / "train"),
        "segment": (["segment", model, photos, "--output-dir", out], out / "0"),
        "edit": (["edit", model, photos, "--remove", "1", "--output-dir", out, *steps], out / "0"),
        "generate": (
            ["generate", model, "--from-images", photos, "--output-dir", out, *steps], out
        ),
        "evaluate": (["evaluate", model, "--data", store, "--output-dir", out], out),
    }  # fmt: skip
    words, path = commands[kind]
    with held(path):
        assert main([str(word) for word in words]) == 2
    assert f"another process is writing to {path}" in capsys.readouterr().err
    assert main([str(word) for word in words]) == 0
