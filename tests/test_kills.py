"""A short form of benchmarks/kills.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "kills.py"


@pytest.mark.slow
def test_nothing_is_lost_by_kills() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--kills", "8"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("none lost") == 5
