"""LRS2's folder layout: a list of names, and for each a video, a text and, made beforehand, the face's boxes.

    <root>/<name>.mp4      160 x 160, 25 frames a second, with its sound
    <root>/<name>.txt      first line "Text:  WHAT IS SAID"
    <boxes>/<name>.npy     whole numbers [T,4], a box (x0, y0, x1, y1) a frame
    <audio>/<name>.wav     the sound again, where it was taken out
    train.txt              names, the first word of each line: 5535415699068794046/00001

Shapes: N frames of the clip.
"""

from __future__ import annotations

import io
from pathlib import PurePosixPath

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from talklip_ray.errors import ManifestError, MediaError, NotFoundError
from talklip_ray.storage.address import join, scheme
from talklip_ray.storage.store import Store
from talklip_ray.training.talking import Talking, checked

_LARGEST = 1 << 22
"""Bytes of a text or a file of boxes: an hour of boxes has three million."""
_LEAD = "Text:"
_SKIPPED = 7
"""Characters before what is said."""


def read_list(store: Store, root: str, names: str, *, audio: str = "", boxes: str = "") -> list[Talking]:
    """The clips of a list such as train.txt; ``names`` may be relative to ``root``. Nothing else is read yet.

    Raises ManifestError naming the line.
    """
    uri = names if scheme(names) or names.startswith("/") else join(root, names)
    try:
        lines = store.read(uri).decode().splitlines()
    except (NotFoundError, UnicodeDecodeError) as error:
        raise ManifestError(uri, f"a list must be a readable text file: {error}") from error
    named = [_name(line.split()[0], f"{uri}, line {n}") for n, line in enumerate(lines, 1) if line.strip()]
    return checked(
        (
            Talking(
                id=name,
                video=join(root, f"{name}.mp4"),
                audio=join(audio, f"{name}.wav") if audio else "",
                text_file=join(root, f"{name}.txt"),
                boxes=join(boxes, f"{name}.npy") if boxes else "",
            )
            for name in named
        ),
        uri,
    )


def read_text(store: Store, uri: str) -> str:
    """What a text file says is said, in one line. Raises MediaError, or what the store raises."""
    try:
        first = _read(store, uri).decode().partition("\n")[0]
    except UnicodeDecodeError as error:
        raise MediaError(uri, f"a text must be UTF-8: {error}; write it anew") from error
    if not first.startswith(_LEAD):
        raise MediaError(uri, f"its first line must begin with `{_LEAD}`, found {first[:40]!r}; write it as LRS2 does")
    return first[_SKIPPED:].strip()


def read_boxes(store: Store, uri: str, num_frames: int) -> NDArray[np.int32]:
    """Boxes [N,4] of a .npy file. Raises MediaError unless it has one for every frame, or what the store raises."""
    data = io.BytesIO(_read(store, uri))
    try:
        version = npy.read_magic(data)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, fortran, dtype = read(data)
        if shape != (num_frames, 4) or dtype.kind not in "iuf" or fortran:
            raise ValueError(f"{dtype} {shape}{', columns first' if fortran else ''}")
        values_N4 = np.frombuffer(data.read(), dtype).reshape(shape)
        if not np.isfinite(values_N4).all():
            raise ValueError("a box that is no number")
    except (ValueError, KeyError, TypeError, EOFError, SyntaxError) as error:
        raise MediaError(
            uri,
            f"boxes must be a .npy file of numbers [{num_frames},4], one for each frame, found {error}; make it anew",
        ) from error
    return np.asarray(np.clip(values_N4, -(1 << 20), 1 << 20), np.int32)


def _read(store: Store, uri: str) -> bytes:
    data = store.read(uri, limit=_LARGEST + 1)
    if len(data) > _LARGEST:
        raise MediaError(uri, f"must have at most {_LARGEST} bytes, found more; check what it is")
    return data


def _name(name: str, where: str) -> str:
    """A name that stays below the folder it is looked for in."""
    path = PurePosixPath(name)
    if scheme(name) or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ManifestError(where, f"a name must be a path below the root without `..`, found {name[:80]!r}")
    return str(path)
