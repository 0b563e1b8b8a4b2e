"""What `make train-smoke` runs, as it runs it."""

from __future__ import annotations

import pytest

from jobs import train_smoke

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def test_footage_becomes_weights_through_every_phase_a_kill_and_a_restart(tmp_path, capfd):
    """The job itself checks that the run was killed, went on and gave both networks; it says so by its exit code."""
    assert train_smoke.main(["--work", str(tmp_path / "smoke")]) == 0
    said = capfd.readouterr().out
    assert "killed after its first checkpoint" in said
    assert all(f"  {phase}  " in said for phase in ("reconstruct", "tune_listener", "read_lips"))
