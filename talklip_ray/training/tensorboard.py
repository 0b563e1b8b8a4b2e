"""A run's series for TensorBoard, in event files.

    loss/<term>  valid/<measure>  grad_norm/<engine>  speed/...  run/...  run/phase (from 1)  sheets

Event files only grow, so they are written on this machine; where the run's folder is elsewhere, they are copied
there whole.
"""

from __future__ import annotations

import math
import struct
import tempfile
import time
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter  # type: ignore[import-untyped]
from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboardX.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

from talklip_ray.storage.address import local_path, scheme
from talklip_ray.storage.store import Store
from talklip_ray.storage.uri import join
from talklip_ray.training.watching import Group, Report, group_of

FOLDER = "tensorboard"
_RGB = 3
_SHOWN = {"learning_rate", "workers"}


class TensorBoardWatch:
    """Writes event files into ``tensorboard/`` of the run's folder; ``tensorboard --logdir`` follows them.

    ``phases``: the run's, in order. A run that goes on, or goes back to a checkpoint, begins another file that hides
    what is done again. Elsewhere than on this machine, files are copied every ``every_s`` seconds and at the end.
    """

    def __init__(self, store: Store, folder: str, phases: tuple[str, ...] = (), *, every_s: float = 60.0) -> None:
        self.uri = join(folder, FOLDER)
        self._store = store
        self._phases = phases
        self._every_s = every_s
        is_here = scheme(folder) in {"", "file"}
        self._elsewhere = None if is_here else tempfile.TemporaryDirectory(prefix="talklip-")
        self._folder = Path(self._elsewhere.name) if self._elsewhere else local_path(self.uri)
        self._writer: EventsWriter | None = None
        self._last = -1
        self._copied = time.monotonic()

    def __call__(self, report: Report) -> None:
        values = [
            Summary.Value(tag=f"{group}/{short}", simple_value=value)
            for name, value in report.metrics.items()
            for group, short in [group_of(name)]
            if math.isfinite(value) and (group is not Group.RUN or name in _SHOWN)
        ]
        if report.phase in self._phases:
            number = self._phases.index(report.phase) + 1
            values.append(Summary.Value(tag=f"{Group.RUN}/phase", simple_value=number))
        if report.sheet:
            values.append(Summary.Value(tag="sheets", image=_picture(report.sheet)))
        writer = self._at(report.step)
        writer.write_event(Event(wall_time=time.time(), step=report.step, summary=Summary(value=values)))
        writer.flush()
        self._last = report.step
        if time.monotonic() - self._copied >= self._every_s:
            self._copy()

    def close(self, failure: str = "") -> None:
        if self._writer is not None:
            self._writer.close()
            self._copy()
        if self._elsewhere is not None:
            self._elsewhere.cleanup()

    def _at(self, step: int) -> EventsWriter:
        """The writer for ``step``: a new one where the run begins or goes back."""
        if self._writer is None or step < self._last:
            if self._writer is not None:
                self._writer.close()
            self._folder.mkdir(parents=True, exist_ok=True)
            # readers take files in the order of their names, which else tell seconds apart and no less
            suffix = f".{time.time_ns() % 1_000_000_000:09d}"
            self._writer = EventsWriter(str(self._folder / "events"), suffix)
            begins = SessionLog(status=SessionLog.START)
            self._writer.write_event(Event(wall_time=time.time(), step=step, session_log=begins))
        return self._writer

    def _copy(self) -> None:
        self._copied = time.monotonic()
        if self._elsewhere is None:
            return
        for path in sorted(self._folder.iterdir()):
            self._store.upload(path, join(self.uri, path.name))


def _picture(png: bytes) -> Any:
    width, height = struct.unpack(">II", png[16:24])
    return Summary.Image(height=height, width=width, colorspace=_RGB, encoded_image_string=png)
