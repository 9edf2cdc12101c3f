"""Blocks: the bytes of a store depend neither on the number of processes nor on interruptions."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.data import slow_rows
from tests.data.conftest import snapshot
from tests.data.slow_rows import NUM_BLOCKS, make

ROOT = Path(__file__).parents[2]


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_bytes_do_not_depend_on_workers_or_interruptions(tmp_path: Path) -> None:
    whole = snapshot(make(tmp_path / "whole" / "store", tmp_path / "pids", workers=1))
    out, rows = tmp_path / "resumed" / "store", slow_rows.rows

    def interrupted(block: tuple[int, str, float]) -> Any:
        yield next(rows(block))
        if block[0] == 2:
            raise KeyboardInterrupt
        yield from list(rows(block))[1:]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slow_rows, "rows", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make(out, tmp_path / "pids", workers=1)
    blocks = out / ".train.blocks.partial"
    assert sorted(file.name for file in blocks.iterdir()) == [
        "000.parquet",
        "001.parquet",
        "made_by.json",
    ]
    (tmp_path / "resumed" / "pids").mkdir()
    make(out, tmp_path / "resumed" / "pids", workers=2)
    workers = [file.name for file in (tmp_path / "resumed" / "pids").iterdir()]
    assert str(os.getpid()) not in workers
    assert snapshot(out) == whole


@pytest.mark.slow
def test_workers_exit_with_a_killed_parent_and_complete_blocks_are_kept(tmp_path: Path) -> None:
    whole = snapshot(make(tmp_path / "whole" / "store", tmp_path / "own", workers=1))
    out, pids = tmp_path / "killed" / "store", tmp_path / "pids"
    command = [sys.executable, "-m", "tests.data.slow_rows", str(out), str(pids), "0.15"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    blocks = out / ".train.blocks.partial"
    wait_for(lambda: len(list(blocks.glob("*.parquet"))) >= 2, 60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    workers = [file.name for file in pids.iterdir()]
    assert len(workers) == 2
    wait_for(lambda: not any(map(is_running, workers)), 10)
    assert 2 <= len(list(blocks.glob("*.parquet"))) < NUM_BLOCKS
    assert list(blocks.glob(".*.partial")), "some blocks were being written"
    make(out, tmp_path / "again", workers=2)
    assert snapshot(out) == whole
