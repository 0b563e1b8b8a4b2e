"""What every test can count on: one thread a process, no call home, an accelerator or a skip."""

from __future__ import annotations

import os

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    needs_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if needs_gpu and not _has_gpu():
        for item in needs_gpu:
            item.add_marker(pytest.mark.skip(reason="needs an accelerator, and this machine has none"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
