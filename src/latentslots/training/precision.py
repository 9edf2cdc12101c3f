"""Choosing the autocast type by a trial: bf16 is slower than fp32 on CPUs without fast bf16."""

import logging
import time
from dataclasses import replace

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from latentslots.config import MixedPrecision, TrainConfig

logger = logging.getLogger(__name__)

CPU_SIZE, GPU_SIZE = 384, 4096
"""Rows of the trial's square matrices; a GPU is busy only with large ones."""
NUM_TRIALS, ENOUGH_SECONDS = 5, 0.05
"""Products of a trial, and the time after which it ends early: a CPU without bf16 instructions was
45 times as slow in bf16."""
GAIN = 1.1
"""How many times faster bf16 must be to be chosen: autocast itself costs some time."""


def choose_precision(config: TrainConfig, saved: MixedPrecision = "auto") -> TrainConfig:
    """Replace `mixed_precision="auto"` by the choice of a trial, the same on all processes.

    Args:
        config: Config of the run.
        saved: Earlier choice of a run that is resumed, which is kept; `auto` for a new run.
    """
    if config.mixed_precision != "auto":
        return config
    if saved != "auto":
        return replace(config, mixed_precision=saved)
    state = PartialState(cpu=not torch.accelerator.is_available())
    choices: list[MixedPrecision] = ["no"]
    if state.is_main_process:
        fp32, bf16 = (_seconds(state.device, autocast) for autocast in (False, True))
        choices = ["bf16" if fp32 > GAIN * bf16 else "no"]
        rates = [2 * _size(state.device) ** 3 / seconds / 1e9 for seconds in (fp32, bf16)]
        logger.warning(
            "mixed_precision='auto': %s, as a matrix product takes %.3g GFLOP/s in fp32 and %.3g "
            "in bf16",
            choices[0],
            *rates,
        )
    if state.num_processes > 1:
        broadcast_object_list(choices)
    return replace(config, mixed_precision=choices[0])


def _seconds(device: torch.device, autocast: bool) -> float:
    """Measure the shortest time of a matrix product."""
    one = torch.ones(_size(device), _size(device), device=device)
    best, total = float("inf"), 0.0
    with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
        for trial in range(NUM_TRIALS):
            start = time.perf_counter()
            product = one @ one
            product[0, 0].item()  # waits for the device
            seconds = time.perf_counter() - start
            best, total = min(best, seconds), total + seconds
            if trial > 0 and total > ENOUGH_SECONDS:  # the first one includes the set-up
                break
    return best


def _size(device: torch.device) -> int:
    return CPU_SIZE if device.type == "cpu" else GPU_SIZE
