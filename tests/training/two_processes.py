"""What each of two processes does in `test_distributed.py`, which starts this file twice.

`python -m tests.training.two_processes FOLDER PORT ...`; the folder holds `config.json`, and the
runs are written to it; at each port, the processes meet once through a store.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate.state import PartialState

from latentslots.config import TrainConfig
from latentslots.config.io import load_config
from latentslots.training import TrainingInterrupted
from tests.training.runs import (
    build_trainer,
    num_rows,
    rewind,
    run,
    training_rows,
    with_changes,
)

NUM_WORLDS = 7


@contextmanager
def world() -> Iterator[None]:
    """Meet the other process at the next port: `train` closes the group at its end."""
    PartialState._reset_state()
    os.environ["MASTER_PORT"] = sys.argv.pop(2)
    yield


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    config = load_config(folder / "config.json")

    with world():
        # Two processes, two micro-batches, one image.
        given = with_changes(config, {"train_batch_size": 1, "gradient_accumulation_steps": 2})
        given = with_changes(given, {"max_train_steps": 2, "checkpointing_steps": 1})
        trainer = build_trainer(given, folder / "given", dataset=training_rows(given))
        trainer.fit()
        trainer.run_log.close()

    # Nothing is learned, so that what is measured does not depend on the noise.
    idle = {"max_train_steps": 1, "optim.learning_rate": 0.0, "validation_steps": 1}
    with world():
        run(with_changes(config, {**idle, "data.validation_split": "validation"}), folder / "idle")

    drawn = with_changes(config, {"data.num_workers": 1, "data.random_flip": True})
    run_and_resume(drawn, folder, rank, "whole", "resumed")
    streamed = with_changes(drawn, {"data.streaming": True, "data.shuffle_buffer": 4})
    run_and_resume(streamed, folder, rank, "streamed", "streamed_on")

    if rank == 1:
        threading.Thread(target=stop_this_process, args=[folder / "stopped"], daemon=True).start()
    endless = with_changes(drawn, {"max_train_steps": 100_000, "checkpointing_steps": 100_000})
    with world():
        try:
            run(endless, folder / "stopped")
        except TrainingInterrupted as stop:
            answer = {"signum": stop.signum, "message": str(stop)}
            (folder / f"stop_{rank}.json").write_text(json.dumps(answer))


def run_and_resume(config: TrainConfig, folder: Path, rank: int, whole: str, resumed: str) -> None:
    """Train, and once more from the second step on."""
    with world():
        run(config, folder / whole)
    if rank == 0:
        rewind(folder / whole, 2, folder / f"{resumed}_new").rename(folder / resumed)
    while not (folder / resumed).is_dir():
        time.sleep(0.01)
    with world():
        run(config, folder / resumed, resume=True)


def stop_this_process(run_dir: Path) -> None:
    while num_rows(run_dir) < 2:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
