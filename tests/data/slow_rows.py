"""A store that takes time to write: `python -m tests.data.slow_rows OUT PIDS SECONDS`.

The process that makes a block leaves its id as a file name in the folder PIDS.
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from latentslots.data import StoreWriter
from latentslots.data.store.resumable import Workers, write_blocks

NUM_BLOCKS = 6


def rows(block: tuple[int, str, float]) -> Iterator[dict[str, Any]]:
    number, pids, seconds = block
    Path(pids, str(os.getpid())).touch()
    for row in range(4):
        time.sleep(seconds)
        yield {"image": np.full((8, 8, 3), 10 * number + row, np.uint8)}


def make(out: Path, pids: Path, seconds: float = 0.0, *, workers: int) -> Path:
    pids.mkdir(exist_ok=True)
    write_blocks(
        StoreWriter(out, "train"),
        {f"{number:03d}": (number, str(pids), seconds) for number in range(NUM_BLOCKS)},
        rows,
        spec={"kind": "slow"},
        workers=Workers(count=workers),
    )
    return out


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), workers=2)
