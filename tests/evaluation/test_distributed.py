import json
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from latentslots.evaluation import evaluate
from latentslots.metrics import CONVENTIONS, SegmentationMetrics
from tests.evaluation.squares import ColorPipeline, squares
from tests.reference.segmentation import random_scenes

NUM_PROCESSES = 2
NUM_IMAGES = 7


# Python 3.12 warns of every fork of a process with threads; torch has one of its own.
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_two_processes_give_the_numbers_of_one(tmp_path: Path) -> None:
    expected = _scores(slice(None))
    # This process is rank 0, and the other its fork: imports take longer than all the rest.
    other = multiprocessing.start_processes(
        _work, args=(1, str(tmp_path)), join=False, start_method="fork"
    )
    _work(0, 0, str(tmp_path))
    other.join()
    for rank in range(NUM_PROCESSES):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        for name in ("evaluate", "evaluate one"):
            assert found[name] == expected[name]
        for name, scores in [(name, expected[name]) for name in CONVENTIONS]:
            assert found[name] == pytest.approx(scores, abs=1e-12)


def _work(_: int, rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=NUM_PROCESSES,
        timeout=timedelta(seconds=120),
    )
    # Uneven shares: five images and two.
    scores = _scores(slice(0, 5) if rank == 0 else slice(5, None))
    Path(folder, f"{rank}.json").write_text(json.dumps(scores))
    distributed.destroy_process_group()


def _scores(share: slice) -> dict[str, dict[str, float | int | str]]:
    """What this process computes from its share of some scenes, and from a whole data set."""
    pred, target = random_scenes(NUM_IMAGES)
    target[6] = 0
    scores = {}
    for convention in CONVENTIONS:
        metrics = SegmentationMetrics(convention=convention)
        metrics.update(pred[share], target[share])
        scores[convention] = {name: value.item() for name, value in metrics.compute().items()}
    pipe, images = ColorPipeline(noise=0.3), squares(7)
    # One image is fewer than there are processes.
    for name, number in (("evaluate", None), ("evaluate one", 1)):
        report = evaluate(pipe, images, batch_size=2, num_images=number, progress=False)
        scores[name] = report.to_dict()
    return scores
