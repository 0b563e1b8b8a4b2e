"""Pickles are read without running anything of them: foreign objects stay data, calls are refused by name."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from talklip_ray.errors import WeightsError
from talklip_ray.models.importing import import_released
from talklip_ray.models.kinds import Kind
from talklip_ray.models.pickles import StandIn, is_pickle, read_pickle, walk
from tests.models.published import (
    Dictionary,
    by_their_names,
    fairseq_checkpoint,
    their_modules,
    tiny,
    tiny_reader,
    trained,
)


class Payload:
    """What an attacker would put into a checkpoint: a call made while it is read."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.proof}",)


def hostile(kind: str, proof: Path) -> bytes:
    stream = io.BytesIO()
    if kind in ("zip", "legacy"):
        torch.save({"state_dict": {"a": Payload(proof)}}, stream, _use_new_zipfile_serialization=kind == "zip")
    else:
        pickle.dump({"state_dict": Payload(proof)}, stream, protocol=int(kind))
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["zip", "legacy", "0", "2", "4", "5"])
def test_a_hostile_pickle_is_refused_by_name_and_never_runs(tmp_path: Path, kind: str) -> None:
    path, proof = tmp_path / "evil.pth", tmp_path / "ran"
    path.write_bytes(hostile(kind, proof))
    with pytest.raises(WeightsError, match=r"this pickle would call `posix\.system`; it was not run"):
        import_released(path, tmp_path / "out.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.pth"]


def test_the_payload_would_have_run(tmp_path: Path) -> None:
    """What the tests here trust: read carelessly, the same bytes do leave their proof."""
    pickle.loads(hostile("4", tmp_path / "ran"))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("place", ["extra", "task", "state of a stand-in", "after a whole network"])
def test_a_call_hidden_among_fairseqs_objects_is_refused(tmp_path: Path, place: str) -> None:
    path, proof, tokenizer = tmp_path / "evil.pt", tmp_path / "ran", trained()
    inside = Dictionary(tokenizer.symbols)
    inside.symbols.append(Payload(proof))  # type: ignore[arg-type]
    extras: dict[str, dict[str, Any]] = {
        "extra": {"extra_state": Payload(proof)},
        "task": {"task_state": {"s2s_tokenizer": Payload(proof)}},
        "state of a stand-in": {"task_state": {"target_dictionary": inside}},
        "after a whole network": {"zz": [[[Payload(proof)]]]},
    }
    fairseq_checkpoint(path, tiny_reader(tokenizer.size), tokenizer, extra=extras[place])
    with pytest.raises(WeightsError, match=r"would call `posix\.system`"):
        import_released(path, tmp_path / "out.safetensors")
    assert not proof.exists()


@pytest.mark.parametrize(("body", "says"), [
    (b"cbuiltins\nexec\n(Vprint()\ntR.", r"`builtins\.exec`"),
    (b"c__builtin__\neval\n(V1\ntR.", r"`builtins\.eval`"),
    (b"cimportlib\nimport_module\n(Vthis\ntR.", r"`importlib\.import_module`"),
    (b"csubprocess\nPopen\n(Vtrue\ntR.", r"`subprocess\.Popen`"),
    (b"crunpy\nrun_path\n(Vx.py\ntR.", r"`runpy\.run_path`"),
    (b"ctorch.hub\nload\n(Vx\ntR.", r"`torch\.hub\.load`"),
    (b"ctorch\nload\n(Vx\ntR.", r"`torch\.load`"),
    (b"ctalklip_ray.models.pickles\nread_pickle\n(Vx\ntR.", r"`talklip_ray\.models\.pickles\.read_pickle`"),
    (b"cos\nsystem\n(Vtouch ran\ntR.", r"`os\.system`"),
    (b"(Vtouch ran\nios\nsystem\n.", r"`os\.system`"),
])  # fmt: skip
def test_every_way_to_name_a_function_is_seen(tmp_path: Path, body: bytes, says: str) -> None:
    path = tmp_path / "evil.pth"
    path.write_bytes(b"\x80\x02" + body)
    with pytest.raises(WeightsError, match=says):
        read_pickle(path)


def legacy(tmp_path: Path, body: bytes) -> Path:
    """A file of torch's older format whose pickle has this body, in opcodes of protocol 2."""
    stream = io.BytesIO()
    torch.save(None, stream, _use_new_zipfile_serialization=False)
    path = tmp_path / "made.pth"
    path.write_bytes(stream.getvalue().replace(b"\x80\x02N.", b"\x80\x02" + body, 1))
    return path


def word(text: str) -> bytes:
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


def test_a_stand_in_that_is_called_and_built_keeps_both_as_data(tmp_path: Path) -> None:
    """The name of a real function under an allowed root, called with a shell's words, then given attributes."""
    state = b"}" + word("__class__") + b"K\x01s" + b"}" + word("__setstate__") + word("x") + b"s\x86"
    body = b"cfairseq.os\nsystem\n" + word("touch ran") + b"\x85R" + state + b"b."
    found = read_pickle(legacy(tmp_path, body))
    assert (type(found).__bases__, type(found).__name__) == ((StandIn,), "system")
    assert found.args == ("touch ran",)
    assert found.state == ({"__class__": 1}, {"__setstate__": "x"})
    assert not hasattr(found, "__dict__")


@pytest.mark.parametrize("body", [
    b"cfairseq.x\nX\n}" + word("__new__") + b"K\x01sb.",
    b"cfairseq.x\nX\nN}" + word("__setstate__") + b"K\x01s\x86b.",
    b"cfairseq.x\nX\n)\x81}" + word("a") + b"K\x01ssb.",
    b"cbuiltins\ngetattr\ncfairseq.x\nX\n" + word("__subclasses__") + b"\x86R)R.",
])  # fmt: skip
def test_a_stand_in_cannot_be_altered_or_used_as_what_it_is_not(tmp_path: Path, body: bytes) -> None:
    """Attributes for the class itself, items for an object that takes none, a call of what is no function."""
    with pytest.raises(WeightsError, match=r"torch\.save wrote"):
        read_pickle(legacy(tmp_path, body))


def test_stand_ins_are_gone_once_a_file_is_read(tmp_path: Path) -> None:
    with their_modules():
        torch.save(Dictionary(("a",)), tmp_path / "d.pt")
    before = set(torch.serialization.get_safe_globals())
    assert read_pickle(tmp_path / "d.pt").state["symbols"] == ["a"]
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "d.pt", weights_only=True)


def test_a_generator_that_carries_its_settings_imports(tmp_path: Path) -> None:
    with their_modules():
        torch.save({"state_dict": by_their_names(Kind.TALKLIP, tiny("l")), "args": Dictionary(())}, tmp_path / "g.pth")
    assert import_released(tmp_path / "g.pth", tmp_path / "g.safetensors").network.variant == "l"


def test_strings_of_python_2_are_read(tmp_path: Path) -> None:
    """As in weights that have been around since then."""
    found = read_pickle(legacy(tmp_path, b"ccollections\nOrderedDict\n)RU\x06weightK\x05s."))
    assert found == {"weight": 5}


def test_walking_ends_where_objects_contain_each_other_and_where_there_are_too_many() -> None:
    ring: list[Any] = [1]
    ring.append({"again": ring})
    assert len(list(walk(ring))) == 3
    assert len(list(walk(list(range(1_000_000, 2_000_000))))) == 200_000


def test_nearer_objects_are_walked_first() -> None:
    found = [part for part in walk({"far": {"further": {"x": "deep"}}, "x": "near"}) if isinstance(part, str)]
    assert found == ["near", "deep"]


@pytest.mark.parametrize(("content", "is_one"), [(b"PK\x03\x04", True), (b"\x80\x02}.", True), (b"\n\x0e", False)])
def test_a_pickle_is_told_from_a_tokenizers_model(tmp_path: Path, content: bytes, is_one: bool) -> None:
    (tmp_path / "x").write_bytes(content)
    assert is_pickle(tmp_path / "x") is is_one


def archive(path: Path, pickled: bytes, **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **options) as made:
        for name, content in (("data.pkl", pickled), ("version", b"3\n"), ("byteorder", b"little")):
            made.writestr(f"a/{name}", content)
    return path


def of_many_zeros() -> bytes:
    """What unpacks into a pickle of a string far longer than the file."""
    return b"\x80\x02" + word("\0" * (1 << 22)) + b"."


def test_a_pickle_that_unpacks_into_more_than_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"entries must fit its \d+ bytes, uncompressed"):
        read_pickle(archive(tmp_path / "bomb.pth", of_many_zeros(), compression=zipfile.ZIP_DEFLATED))


def test_so_it_is_behind_a_false_end_which_torchs_reader_overlooks(tmp_path: Path) -> None:
    path = archive(tmp_path / "bomb.pth", of_many_zeros(), compression=zipfile.ZIP_DEFLATED)
    path.write_bytes(path.read_bytes() + b"PK\x05\x06")
    assert len(torch.load(path, weights_only=True)) == 1 << 22
    with pytest.raises(WeightsError, match="directory right before its end"):
        read_pickle(path)


def test_so_it_is_behind_a_second_directory_which_only_this_check_would_read(tmp_path: Path) -> None:
    """One directory where the end record says it is, another where it would be if something stood before the file."""
    bomb = archive(tmp_path / "bomb.pth", of_many_zeros(), compression=zipfile.ZIP_DEFLATED).read_bytes()
    good = archive(tmp_path / "good.pth", b"\x80\x02}.").read_bytes()
    end, first = bomb[-22:], bomb[struct.unpack_from("<L", bomb, len(bomb) - 6)[0] : -22]
    second = good[struct.unpack_from("<L", good, len(good) - 6)[0] : -22]
    assert len(first) == len(second)
    (tmp_path / "both.pth").write_bytes(bomb[:-22] + second + end)
    assert len(torch.load(tmp_path / "both.pth", weights_only=True)) == 1 << 22
    with pytest.raises(WeightsError, match="directory right before its end"):
        read_pickle(tmp_path / "both.pth")


@pytest.mark.parametrize("comment", [b"", b"hello"])
def test_an_archive_without_large_file_records_is_read_unless_something_follows_it(
    tmp_path: Path, comment: bytes
) -> None:
    path = archive(tmp_path / "old.pth", b"\x80\x02}.")
    with zipfile.ZipFile(path, "a") as made:
        made.comment = comment
    if not comment:
        assert read_pickle(path) == {}
        return
    with pytest.raises(WeightsError, match="directory right before its end"):
        read_pickle(path)


@pytest.mark.parametrize("body", [
    b"(c_codecs\nencode\nq\x01" + word("a" * (1 << 20)) + b"q\x02" + word("latin1") + b"q\x03"
    + b"h\x01h\x02h\x03\x86R" * 2000 + b"t.",
    b"(" + word("a" * (1 << 20)) + b"q\x02" + word("latin1") + b"\x86q\x03"
    + b"c_codecs\nencode\nh\x03R" * 2000 + b"t.",
])  # fmt: skip
def test_calls_that_would_fill_the_memory_with_copies_are_refused(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(WeightsError, match="may copy at most"):
        read_pickle(legacy(tmp_path, body))


@pytest.mark.parametrize("name", ["builtins.bytearray", "torch._utils._rebuild_device_tensor_from_cpu_tensor"])
def test_what_makes_much_of_little_is_refused(tmp_path: Path, name: str) -> None:
    module, _, function = name.rpartition(".")
    body = f"c{module}\n{function}\n".encode() + b"\x8a\x05\0\0\0\0\x02\x85R."
    with pytest.raises(WeightsError, match=name.replace(".", r"\.")):
        read_pickle(legacy(tmp_path, body))


def test_an_older_files_pickles_are_as_short_as_a_newer_ones(tmp_path: Path) -> None:
    path = legacy(tmp_path, b"X" + (1 << 30).to_bytes(4, "little"))
    os.truncate(path, 1 << 30)
    with pytest.raises(WeightsError, match="pickles of at most 67108864 bytes"):
        read_pickle(path)
