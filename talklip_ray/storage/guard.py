"""Run a server for as long as the process that asked for it lives: ``python guard.py PARENT COMMAND...``.

A script of its own, with nothing but the standard library: it must start in an instant and must not share the
parent's threads, pipes or imports. A server that outlives its test run or demo would hold its ports and
memory until someone notices; a parent that is killed cannot clean up, so this process does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import FrameType

POLL_SECONDS = 0.2
GRACE_SECONDS = 4.0


def main(parent: int, command: list[str]) -> int:
    """The server's exit code, 0 when it was this process that ended it."""
    server = subprocess.Popen(command)
    asked_to_stop = False

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal asked_to_stop
        asked_to_stop = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # An orphan gets another parent. (PR_SET_PDEATHSIG would fire when the parent's *thread* ends.)
    while not asked_to_stop and os.getppid() == parent:
        code = server.poll()
        if code is not None:
            return code
        time.sleep(POLL_SECONDS)
    server.terminate()
    try:
        server.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
