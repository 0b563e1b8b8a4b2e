"""What every test can count on: one thread a process, no call home, an accelerator or a skip."""

from __future__ import annotations

import atexit
import faulthandler
import os
import sys

import pytest

# Before numpy, torch and Ray are imported, and inherited by every process a test starts.
for variable, value in {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "DS_ACCELERATOR": "cpu",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "AWS_EC2_METADATA_DISABLED": "true",
}.items():
    os.environ.setdefault(variable, value)

_VERDICT = pytest.StashKey[int]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    needs_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if needs_gpu and not _has_gpu():
        for item in needs_gpu:
            item.add_marker(pytest.mark.skip(reason="needs an accelerator, and this machine has none"))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_VERDICT] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave with the tests' verdict, once all is printed and everybody has tidied up.

    No process of ours loads what this one does: torch, Arrow, Ray's core, LLVM, LiteRT, FFmpeg and x264 at once. Their
    destructors run in no order of anybody's, and one has crashed after 3,713 passed tests. Whether our own programs
    end well is what tests of tests/e2e assert, by their exit codes.
    """
    if (verdict := config.stash.get(_VERDICT, None)) is None or hasattr(config, "workerinput"):
        return
    faulthandler.enable(sys.__stderr__)  # pytest's own has been switched off
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(verdict)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
