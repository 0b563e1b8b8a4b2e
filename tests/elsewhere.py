"""Python in a process of its own, for what a process can do once only: start Ray, bound itself, die."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path


def no_cluster() -> dict[str, str]:
    """The environment, in which nobody is told of a running cluster."""
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


def said(code: str, **environment: str) -> str:
    """What ``code`` prints; it must end well."""
    here = no_cluster() | {"PYTHONPATH": str(Path(__file__).parents[1])} | environment
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=240, env=here
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
