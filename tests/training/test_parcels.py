"""What was packed comes out as it went in, in memory of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from talklip_ray.errors import ConfigError
from talklip_ray.training.parcels import pack, unpack


@dataclass(frozen=True)
class Thing:
    name: str
    tensors: tuple[torch.Tensor, ...]
    array_AB: np.ndarray


THING = Thing(
    name="x",
    tensors=(
        torch.arange(6, dtype=torch.uint8).view(2, 3),
        torch.rand(3, 4, 5).permute(2, 0, 1),
        torch.zeros(0, 7),
        torch.tensor(3.5),
        torch.tensor([True, False]),
        torch.tensor([1 << 40]),
    ),
    array_AB=np.arange(12.0).reshape(3, 4).T,
)


def test_what_was_packed_comes_out_as_it_went_in() -> None:
    back = unpack(memoryview(pack(THING)))
    assert back.name == "x"
    for ours, theirs in zip(back.tensors, THING.tensors, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
    assert np.array_equal(back.array_AB, THING.array_AB)


def test_it_comes_out_in_memory_of_its_own_that_can_be_written_to() -> None:
    parcel = bytearray(pack(THING))
    back = unpack(memoryview(parcel).toreadonly())
    back.tensors[0].fill_(9)
    parcel[:] = bytes(len(parcel))
    assert back.tensors[0].eq(9).all()
    assert torch.equal(back.tensors[1], THING.tensors[1])


def test_tensors_take_no_more_than_their_own_bytes() -> None:
    """Of a part of a tensor, the part; of one that occurs twice, one."""
    pictures = torch.zeros(1000, 1000, dtype=torch.uint8)
    assert len(pack(pictures[:3])) < 4000
    assert 0 <= len(pack([pictures, pictures])) - pictures.numel() < 1000


@pytest.mark.parametrize("error", [ConfigError("here", "must be so, found not"), KeyError("x")])
def test_errors_travel_too(error) -> None:
    back = unpack(memoryview(pack(error)))
    assert type(back) is type(error)
    assert back.args == error.args
