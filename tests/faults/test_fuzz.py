"""Damaged media, a few of the thousands of `make fuzz`; and that it would see a crash and a hang."""

import os
import signal
import time

import pytest

from talklip_ray.errors import MediaError
from tests.faults import fuzz
from tests.faults.fuzz import CRASH, DAMAGES, DUBBED, HANG, Case, Judge
from tests.talking import random_weights

pytestmark = pytest.mark.slow


def test_every_damaged_file_gets_a_verdict(tmp_path):
    verdicts = fuzz.fuzz(60, 7, 1, 60.0, tmp_path)
    assert [verdict for verdict in verdicts if not verdict.good] == []
    assert {verdict.case.damage for verdict in verdicts} == {damage.__name__ for damage in DAMAGES}
    assert {verdict.found for verdict in verdicts} >= {DUBBED, MediaError.__name__}
    assert all(verdict.found == DUBBED for verdict in verdicts if verdict.case.damage == "whole")


def test_the_same_seed_damages_the_same_way(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    first, again = ([case.path.read_bytes() for case in fuzz.cases(tmp_path / f, 20, 3)] for f in ("a", "b"))
    assert first == again
    assert len(set(first)) > 15


def test_a_process_that_dies_or_hangs_is_seen(tmp_path):
    random_weights(tmp_path / "random.safetensors")
    case = Case(number=0, path=tmp_path / "clip.mp4", damage="whole", picture=True)
    fuzz.bases(tmp_path)
    found = []
    for stop, limit in ((signal.SIGKILL, 60.0), (signal.SIGSTOP, 1.0)):
        judge = Judge(tmp_path)
        os.kill(judge.process.pid, stop)
        judge.take(case)
        while (verdict := judge.verdict(limit)) is None:
            time.sleep(0.05)
        found.append(verdict)
        judge.process.kill()
    assert [verdict.found for verdict in found] == [CRASH, HANG]
    assert not any(verdict.good for verdict in found)
