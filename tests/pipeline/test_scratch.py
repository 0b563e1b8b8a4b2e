from __future__ import annotations

import subprocess
import sys
import tempfile
import textwrap

from talklip_ray.pipeline.scratch import PREFIX, scratch, sweep_scratch


def test_a_killed_process_leaves_a_folder_that_the_next_one_removes(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = """
        import os, signal, sys, tempfile
        from talklip_ray.pipeline.scratch import scratch
        tempfile.tempdir = sys.argv[1]
        with scratch() as folder:
            (folder / "part.nut").write_bytes(b"x" * 1000)
            print(folder, flush=True)
            if sys.argv[2] == "waits":
                sys.stdin.read()
            os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    subprocess.run([*command, "dies"], capture_output=True, timeout=60)
    with subprocess.Popen([*command, "waits"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as busy:
        held = busy.stdout.readline().strip()
        (tmp_path / "somebody-elses").mkdir()
        (tmp_path / f"{PREFIX}being-made").mkdir()
        assert len(list(tmp_path.glob(f"{PREFIX}*"))) == 3
        assert sweep_scratch() == 1
        assert held in {str(path) for path in tmp_path.iterdir()}
        busy.stdin.close()
    assert sweep_scratch() == 1
    assert {path.name for path in tmp_path.iterdir()} == {"somebody-elses", f"{PREFIX}being-made"}


def test_a_folder_is_gone_at_the_end(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch() as folder:
        assert folder.is_dir()
        assert sweep_scratch() == 0
    assert list(tmp_path.iterdir()) == []
