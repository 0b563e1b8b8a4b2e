"""Processes of this machine: who descends from whom, and an end for all of them when their owner dies.

    python processes.py PARENT COMMAND...

runs a command, keeps what it leaves behind (``ray start``), and kills all of it once it is told to end or PARENT is no
more. It ends by itself when nothing is left, with the command's exit code. With nothing but the standard library, as it
must start in an instant.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

POLL_SECONDS = 0.2
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2): orphans below become ours instead of init's


def descendants(root: int) -> Iterator[int]:
    """Children may come and go meanwhile."""
    with contextlib.suppress(OSError):
        children = [
            int(child)
            for task in Path(f"/proc/{root}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
        for child in children:
            yield child
            yield from descendants(child)


def command_of(pid: int) -> str:
    """Its command line, or the title it has given itself; "" when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def kill_all(root: int) -> None:
    """SIGKILL to everything below a process, until there is nothing: what is killed may just have had children."""
    while below := [pid for pid in descendants(root) if command_of(pid)]:
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def main(parent: int, command: list[str]) -> int:
    ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0)
    asked_to_stop = False

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal asked_to_stop
        asked_to_stop = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    started, code = subprocess.Popen(command).pid, 0
    while not asked_to_stop and os.getppid() == parent:
        try:
            ended, status = os.waitpid(-1, os.WNOHANG)  # orphans, too
        except ChildProcessError:
            return code
        if ended == started:
            code = os.waitstatus_to_exitcode(status) % 256
        if not ended:
            time.sleep(POLL_SECONDS)
    kill_all(os.getpid())
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
