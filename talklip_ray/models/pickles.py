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
_MAX_COPIED = 1 << 30
"""Bytes that a pickle's calls may copy out of its strings."""
_MAX_OPCODES = 4_000_000
_LEGACY_PICKLES = 5
"""Torch's older format is so many pickles one after the other, then bare numbers."""
_MAX_VISITED = 200_000
_PUTS, _GETS = ("PUT", "BINPUT", "LONG_BINPUT"), ("GET", "BINGET", "LONG_BINGET")

_REBUILT = re.compile(
    r"collections\.(OrderedDict|Counter)|_codecs\.encode|builtins\.(complex|set)|"
    r"torch\.(Tensor|Size|device|\w*Storage|storage\.\w+|nn\.parameter\.Parameter|"
    r"_utils\._rebuild_(tensor(_v[23])?|parameter(_with_state)?)|_tensor\._rebuild_from_type_v2|serialization\._get_layout|(b?float|complex|q?u?int|bits)\d+\w*|"
    r"bool|half|float|double|int|long|short|per_\w+)"
)
"""What may be rebuilt, of all that torch's restricted reader would: nothing that makes more of less, such as an array
of any length from a number.
"""
_COPYING = "_codecs.encode"
"""How pickles of protocol 2 make bytes of a string."""
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

_END, _LOCATOR, _END64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sLQL"), struct.Struct("<4sQ2H2L4Q")
"""A zip archive's last records, in reverse."""

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
    """Whether torch takes the file for a zip archive; refuses one that would unpack into more than it is."""
    try:
        with path.open("rb") as stream:
            if stream.read(4) != b"PK\x03\x04":
                return False
            if not _ends_plainly(stream, path.stat().st_size):
                raise WeightsError(
                    str(path),
                    "must be a readable checkpoint, as torch.save writes it, with its directory right before its end, "
                    "found none there; download it again and compare its size and digest with the publisher's",
                )
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


def _ends_plainly(stream: IO[bytes], size: int) -> bool:
    """Whether a zip archive's directory ends where the end records begin, and those end the file, as torch.save
    writes it: then what is checked here is what torch's reader, which looks for them in another way, will find.
    """
    last = _END64.size + _LOCATOR.size + _END.size
    stream.seek(max(0, size - last))
    tail = stream.read(last).rjust(last, b"\0")
    end64 = _END64.unpack_from(tail)
    locator = _LOCATOR.unpack_from(tail, _END64.size)
    end = _END.unpack_from(tail, _END64.size + _LOCATOR.size)
    if end[0] != b"PK\x05\x06" or end[-1]:
        return False
    if locator[0] != b"PK\x06\x07":
        return bool(end[5] + end[6] == size - _END.size)
    return bool(end64[0] == b"PK\x06\x06" and locator[2] == size - last == end64[8] + end64[9])


class _Short:
    """The start of a stream, for pickles: WeightsError where they go on for longer than settings do."""

    def __init__(self, stream: IO[bytes], where: str) -> None:
        self._stream, self._where, self._left = stream, where, _MAX_PICKLE

    def read(self, size: int) -> bytes:
        self._take(size)
        return self._stream.read(size)

    def readline(self) -> bytes:
        line = self._stream.readline(self._left + 1)
        self._take(len(line))
        return line

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise WeightsError(
                self._where, f"must be a checkpoint with pickles of at most {_MAX_PICKLE} bytes, this asks for more"
            )


def _named_globals(path: Path, is_zip: bool) -> list[str]:
    """The classes and functions a file's pickles name, by reading opcodes only."""
    found: set[str] = set()
    with suppress(ValueError, OSError, StopIteration, LookupError, zipfile.BadZipFile, RuntimeError):
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                pickled = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                with archive.open(pickled) as stream:
                    found.update(_globals(_Short(stream, str(path)), str(path)))
            return sorted(found)
        with path.open("rb") as stream:
            short = _Short(stream, str(path))
            for _ in range(_LEGACY_PICKLES):
                found.update(_globals(short, str(path)))
    return sorted(found)


def _globals(stream: IO[bytes] | _Short, where: str) -> Iterator[str]:
    """Names that one pickle imports. Strings are followed through the memo, which is all STACK_GLOBAL needs.

    WeightsError where its calls of ``_COPYING`` would fill the memory. Whatever they are called with is a string of
    the pickle, and who is to be called is on top of the stack right after it was named or taken from the memo.
    """
    strings: list[str] = []
    memo: dict[int, str] = {}
    copiers: set[int] = set()
    copies, longest, is_copier = 0, 0, False
    for count, (opcode, value, _) in enumerate(pickletools.genops(stream)):  # type: ignore[arg-type]
        if count > _MAX_OPCODES:
            raise WeightsError(where, f"pickles must have at most {_MAX_OPCODES} opcodes, found more")
        name = ""
        if opcode.name in _PUTS or opcode.name == "MEMOIZE":
            slot = len(memo) if opcode.name == "MEMOIZE" else int(value or 0)
            memo[slot] = strings[-1] if strings else ""
            copiers |= {slot} if is_copier else set()
            continue
        is_copier = opcode.name in _GETS and value in copiers
        if "UNICODE" in opcode.name or "STRING" in opcode.name:
            strings.append(str(value))
            longest = max(longest, len(strings[-1]))
        elif opcode.name in _GETS:
            strings.append(memo.get(int(value or 0), ""))
        elif opcode.name in ("GLOBAL", "INST"):
            name = str(value).replace(" ", ".")
            is_copier = name == _COPYING
        elif opcode.name == "STACK_GLOBAL":
            name = ".".join(strings[-2:])
        copies += is_copier
        if copies * longest > _MAX_COPIED:
            raise WeightsError(where, f"a pickle may copy at most {_MAX_COPIED} bytes, {copies} copies of {longest} do")
        if re.fullmatch(r"\w+(\.\w+)*", name):
            root, dot, rest = name.partition(".")
            yield _OLD_NAMES.get(name) or _OLD_ROOTS.get(root, root) + dot + rest
