"""Batches as bytes, for the way from who makes them to who trains on them. Tensors are copied once on either side.

Only for one's own processes: unpacking runs what was packed.
"""

from __future__ import annotations

import io
import pickle
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

_HEAD = 8
"""Bytes that say how long the part before the tensors is."""


def pack(item: Any) -> bytes:
    """The item with all it refers to; tensors must be in the processor's memory."""
    buffers: list[pickle.PickleBuffer] = []
    body = io.BytesIO()
    _Packer(body, protocol=5, buffer_callback=buffers.append).dump(item)
    raws = [buffer.raw() for buffer in buffers]
    head = pickle.dumps((body.getvalue(), [raw.nbytes for raw in raws]))
    return b"".join([len(head).to_bytes(_HEAD, "little"), head, *raws])


def unpack(parcel: memoryview) -> Any:
    """What was packed, in memory of its own."""
    stop = _HEAD + int.from_bytes(parcel[:_HEAD], "little")
    body, sizes = pickle.loads(parcel[_HEAD:stop])
    ends = accumulate(sizes, initial=stop)
    return pickle.loads(body, buffers=[bytearray(parcel[begin:end]) for begin, end in pairwise(ends)])


class _Packer(pickle.Pickler):
    """Tensors as arrays, whose bytes stay out of the stream."""

    def reducer_override(self, item: Any) -> Any:
        if isinstance(item, Tensor):
            return torch.from_numpy, (item.numpy(),)
        return NotImplemented
