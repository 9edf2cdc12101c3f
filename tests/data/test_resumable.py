"""Blocks made by several processes, when the first of them is killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.data.conftest import snapshot
from tests.data.slow_rows import NUM_BLOCKS, make

ROOT = Path(__file__).parents[2]


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def runs(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_workers_leave_with_a_killed_parent_and_nothing_they_made_is_lost(tmp_path: Path) -> None:
    whole = snapshot(make(tmp_path / "whole" / "store", tmp_path / "own", 0.0, workers=1))
    out, pids = tmp_path / "killed" / "store", tmp_path / "pids"
    words = [sys.executable, "-m", "tests.data.slow_rows", str(out), str(pids), "0.15"]
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL)
    blocks = out / ".train.blocks.partial"
    wait_for(lambda: len(list(blocks.glob("*.parquet"))) >= 2, 60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    workers = [file.name for file in pids.iterdir()]
    assert len(workers) == 2
    wait_for(lambda: not any(map(runs, workers)), 10)
    assert 2 <= len(list(blocks.glob("*.parquet"))) < NUM_BLOCKS
    assert list(blocks.glob(".*.partial")), "some were in the middle of one"
    make(out, tmp_path / "again", 0.0)
    assert snapshot(out) == whole
