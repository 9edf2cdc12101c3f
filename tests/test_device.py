"""Freed memory stays in the process."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource
from latentslots.device import keep_freed_memory

def fewest_faults():
    faults = []
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        bytearray(64 * 2**20)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(faults)

print(fewest_faults(), keep_freed_memory(), fewest_faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc supports it")
def test_memory_that_is_allocated_again_costs_no_page_faults() -> None:
    """In a process of its own, since allocator settings are for the whole process.

    `bytearray` takes its memory from the C library, as torch does.
    """
    command = [sys.executable, "-c", PROGRAM]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    by_default, supported, kept = output.split()
    assert supported == "True"
    # 64 MiB are 16,384 pages, or 32 huge ones.
    assert int(kept) < 10 < int(by_default)
