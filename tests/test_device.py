"""Freed memory stays in the process."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch

told = True
if sys.argv[1] == "keep":
    from latentslots.device import keep_freed_memory

    told = keep_freed_memory()
faults = []
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 * 2**20, dtype=torch.uint8)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(told, min(faults))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a matter of glibc")
def test_memory_that_is_asked_for_again_costs_no_faults() -> None:
    def faults(way: str) -> int:
        command = [sys.executable, "-c", PROGRAM, way]
        told, count = subprocess.run(command, check=True, capture_output=True).stdout.split()
        assert told == b"True"
        return int(count)

    # 64 MiB are 16,384 pages, or 32 huge ones.
    assert faults("keep") < 10 < faults("give back")
