"""One thread, no network, and nothing written to the home directory.

The fixtures of all tests are in `tests/fixtures.py`. It imports torch, which takes long, so the
process of pytest-xdist that only hands tests to its workers does without it.
"""

import os
import shutil
import tempfile

import pytest

# Before `tests.fixtures`: the Hugging Face libraries read their environment when they are imported.
# Processes that tests start inherit it.
_CACHE = tempfile.mkdtemp(prefix="latentslots-tests-")
os.environ |= {
    "HF_HOME": _CACHE,
    "HF_DATASETS_CACHE": os.path.join(_CACHE, "datasets"),
    "HF_HUB_CACHE": os.path.join(_CACHE, "hub"),
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OMP_NUM_THREADS": "1",
}


@pytest.hookimpl(trylast=True)  # after coverage has started
def pytest_sessionstart(session: pytest.Session) -> None:
    """Load the fixtures, except in the process that distributes tests to workers."""
    config = session.config
    is_worker = hasattr(config, "workerinput")
    if is_worker or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("tests.fixtures")


def pytest_unconfigure() -> None:
    shutil.rmtree(_CACHE, ignore_errors=True)
