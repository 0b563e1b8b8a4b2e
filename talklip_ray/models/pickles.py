"""A reader for files that ``torch.save`` wrote, which runs nothing of them.

Tensors and containers are rebuilt by torch's own restricted reader. Objects of fairseq and of the libraries its
checkpoints drag along become stand-ins: they keep what they were made from and have no behaviour. A pickle that
names anything else is refused before it is read.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

import torch
from torch.serialization import safe_globals

from talklip_ray.errors import WeightsError

_MAX_PICKLE = 64 << 20
_MAX_OPCODES = 4_000_000
_LEGACY_PICKLES = 5
"""Torch's older format is so many pickles one after the other, then bare numbers."""
_MAX_VISITED = 200_000

_REBUILT = re.compile(
    r"collections\.(OrderedDict|Counter)|_codecs\.encode|builtins\.(bytearray|complex|set)|"
    r"torch\.(Tensor|Size|device|\w*Storage|storage\.\w+|nn\.parameter\.Parameter|_utils\._rebuild_\w+|"
    r"_tensor\._rebuild_from_type_v2|serialization\._get_layout|(b?float|complex|q?u?int|bits)\d+\w*|"
    r"bool|half|float|double|int|long|short|per_\w+)"
)
"""What torch's restricted reader may rebuild; it decides, this list only words the refusal."""
_INERT = re.compile(
    r"(argparse|fairseq|omegaconf|hydra|sentencepiece|typing|enum|pathlib|examples"
    r"|av_?hubert|hubert(_pretraining|_asr|_dataset|_criterion)?)\..+"
    r"|numpy\.(dtype|ndarray|bool_?|u?int\d+|float\d+|_?core\.multiarray\.(scalar|_reconstruct))"
    r"|builtins\.(object|dict|list|tuple|int|float|str|bytes|bool|frozenset|getattr)"
    r"|operator\.getitem|copyreg\._reconstructor"
)
"""What fairseq's checkpoints name beside tensors. None of it is imported."""
_MAPPINGS = ("collections.defaultdict",)
"""Read as plain dicts, for a pickle fills them entry by entry."""
_OLD_NAMES = {"__builtin__.long": "builtins.int", "__builtin__.unicode": "builtins.str"}
_OLD_ROOTS = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Names of Python 2, which pickles of protocol 2 still use."""

_UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError, OverflowError,
    AssertionError, MemoryError, OSError, struct.error,
)  # fmt: skip


class StandIn:
    """What a pickled object of a foreign class leaves behind: the arguments and the state, as data."""

    __slots__ = ("args", "state")
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any, **_: Any) -> Self:
        one = super().__new__(cls)
        one.args, one.state = args, None
        return one

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def parts(self) -> list[Any]:
        return [*self.args, self.state]


def read_pickle(path: Path) -> Any:
    """What a file that ``torch.save`` wrote holds: containers, tensors in main memory, stand-ins.

    Raises WeightsError naming what the pickle wanted to call, or what else is wrong.
    """
    is_zip = _check_size(path)
    named = _named_globals(path, is_zip)
    if wanted := [name for name in named if not (_REBUILT.fullmatch(name) or _inert(name))]:
        raise WeightsError(
            str(path),
            f"weights must be tensors and plain settings only, this pickle would call {_quoted(wanted)}; "
            "it was not run. Do not trust where this file came from",
        )
    try:
        with warnings.catch_warnings(), safe_globals(_stand_ins(named)):
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except _UNREADABLE as error:
        raise WeightsError(
            str(path),
            f"must be a checkpoint that torch.save wrote, reading it failed with {type(error).__name__}; "
            "download it again and compare its size and digest with the publisher's",
        ) from error


def is_pickle(path: Path) -> bool:
    """Whether a file looks like torch.save's: a zip archive, or a pickle of protocol 2 and up."""
    try:
        with path.open("rb") as stream:
            start = stream.read(4)
    except OSError:
        return False
    return start == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in b"\2\3\4\5")


def walk(root: Any) -> Iterator[Any]:
    """Everything inside ``root``, itself first, nearest first, stand-ins' state included; each object once, and at
    most so many as no honest settings have.
    """
    waiting, seen = [root], {id(root)}
    for visited in waiting:
        yield visited
        inside: Iterable[Any] = ()
        if isinstance(visited, Mapping):
            inside = visited.values()
        elif isinstance(visited, list | tuple | set):
            inside = visited
        elif isinstance(visited, StandIn):
            inside = visited.parts()
        for part in inside:
            if id(part) not in seen and len(seen) < _MAX_VISITED:
                seen.add(id(part))
                waiting.append(part)


def _inert(name: str) -> bool:
    return name in _MAPPINGS or bool(_INERT.fullmatch(name))


def _stand_ins(names: Iterable[str]) -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """One harmless class for each foreign name, for torch to call in the place of the real one."""
    return [
        (_empty_dict if name in _MAPPINGS else type(name.rpartition(".")[2], (StandIn,), {"__slots__": ()}), name)
        for name in names
        if _inert(name)
    ]


def _empty_dict(*_: Any) -> dict[Any, Any]:
    return {}


def _quoted(names: list[str], most: int = 5) -> str:
    return ", ".join(f"`{name}`" for name in names[:most]) + (", ..." if len(names) > most else "")


def _check_size(path: Path) -> bool:
    """Whether the file is a zip archive; refuses one that would unpack into more than it is."""
    try:
        if not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise WeightsError(str(path), f"must be a readable checkpoint file: {error}") from error
    pickled = sum(e.file_size for e in entries if e.filename.endswith(".pkl"))
    if sum(e.file_size for e in entries) > path.stat().st_size or pickled > _MAX_PICKLE:
        raise WeightsError(
            str(path),
            f"a checkpoint's entries must fit its {path.stat().st_size} bytes, uncompressed, and its pickle "
            f"{_MAX_PICKLE}; found {sum(e.file_size for e in entries)} and {pickled}",
        )
    return True


def _named_globals(path: Path, is_zip: bool) -> list[str]:
    """The classes and functions a file's pickles name, by reading opcodes only."""
    found: set[str] = set()
    with suppress(ValueError, OSError, StopIteration, LookupError, zipfile.BadZipFile, RuntimeError):
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                pickled = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                with archive.open(pickled) as stream:
                    found.update(_globals(stream))
            return sorted(found)
        with path.open("rb") as stream:
            for _ in range(_LEGACY_PICKLES):
                found.update(_globals(stream))
    return sorted(found)


def _globals(stream: IO[bytes]) -> Iterator[str]:
    """Names that one pickle imports. Strings are followed through the memo, which is all STACK_GLOBAL needs."""
    strings: list[str] = []
    memo: dict[int, str] = {}
    for count, (opcode, value, _) in enumerate(pickletools.genops(stream)):
        if count > _MAX_OPCODES:
            return
        name = ""
        if "UNICODE" in opcode.name or "STRING" in opcode.name:
            strings.append(str(value))
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = strings[-1] if strings else ""
        elif opcode.name in ("BINPUT", "LONG_BINPUT", "PUT") and isinstance(value, int):
            memo[value] = strings[-1] if strings else ""
        elif opcode.name in ("BINGET", "LONG_BINGET", "GET") and isinstance(value, int):
            strings.append(memo.get(value, ""))
        elif opcode.name in ("GLOBAL", "INST"):
            name = str(value).replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL":
            name = ".".join(strings[-2:])
        if re.fullmatch(r"\w+(\.\w+)*", name):
            root, dot, rest = name.partition(".")
            yield _OLD_NAMES.get(name) or _OLD_ROOTS.get(root, root) + dot + rest
