"""A face's frames as H.264 in memory: near lossless, the same every time, and nothing else is let in."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from av.video.codeccontext import VideoCodecContext

from talklip_ray.errors import MediaError
from talklip_ray.media.facevideo import KEY_EVERY, SIDE, decode, encode

COUNT = 60


@pytest.fixture(scope="module")
def frames_THWC() -> np.ndarray:  # noqa: N802
    """Something like a face: smooth, coloured, moving, with a little noise; black for a while."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    frames = []
    for t in range(COUNT):
        waves = [np.sin(7 * x + 3 * y + t / 9), np.cos(5 * y - t / 12), np.sin(4 * x * y + t / 7)]
        frames.append(128 + 90 * np.stack(waves, axis=-1) + rng.normal(0, 0.2, (SIDE, SIDE, 3)))
    frames_THWC = np.clip(frames, 0, 255).astype(np.uint8)
    frames_THWC[30:34] = 0
    return frames_THWC


@pytest.fixture(scope="module")
def stream(frames_THWC) -> bytes:
    return encode(frames_THWC)


def test_frames_come_back_nearly_as_they_were_in_a_tenth_of_the_room(frames_THWC, stream):
    back_THWC = decode(stream, COUNT, "s")
    assert back_THWC.shape == frames_THWC.shape
    assert np.abs(back_THWC.astype(int) - frames_THWC).mean() < 1.0
    assert not back_THWC[30:34].any()
    assert len(stream) < frames_THWC.nbytes / 8


def test_the_same_frames_give_the_same_bytes(frames_THWC, stream):
    assert [encode(frames_THWC) == stream for _ in range(3)] == [True] * 3


def test_a_key_frame_comes_every_second(stream):
    context = VideoCodecContext.create("h264", "r")
    packets = [*context.parse(stream), *context.parse(b"")]
    frames = [frame for packet in (*packets, None) for frame in context.decode(packet)]
    assert [n for n, frame in enumerate(frames) if frame.key_frame] == list(range(0, COUNT, KEY_EVERY))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_the_shortest_clips_come_back_too(frames_THWC, count):
    assert decode(encode(frames_THWC[:count]), count, "s").shape == (count, SIDE, SIDE, 3)


@pytest.mark.parametrize(
    ("spoil", "count", "found"),
    [
        (lambda data: data, COUNT - 1, "found more"),
        (lambda data: data, COUNT + 1, f"found {COUNT}"),
        (lambda data: b"", COUNT, "found 0"),
        (lambda data: b"nothing of the kind" * 9, COUNT, "found damage"),
        (lambda data: data[: len(data) // 2], COUNT, "found damage"),
        (lambda data: data + bytes(3 * SIDE * SIDE * 70), COUNT, "bytes"),
    ],
)
def test_a_stream_that_is_not_what_the_row_says_is_refused(stream, spoil, count, found):
    with pytest.raises(MediaError, match=f"a shard: .*must be {count} frames of 160x160.*{found}.*jobs/prepare"):
        decode(spoil(stream), count, "a shard")


@pytest.mark.parametrize(
    ("codec", "size", "pix_fmt", "found"),
    [
        ("libx264rgb", (2048, 1024), "rgb24", "damage"),  # what the decoder says that may not make room for it
        ("libx264rgb", (SIDE, SIDE + 16), "rgb24", "one of 160x176 gbrp"),
        ("libx264", (SIDE, SIDE), "yuv420p", "one of 160x160 yuv420p"),
    ],
)
def test_pictures_of_other_sizes_and_kinds_are_refused_before_they_take_room(codec, size, pix_fmt, found):
    context = VideoCodecContext.create(codec, "w")
    context.width, context.height = size
    context.pix_fmt, context.time_base = pix_fmt, Fraction(1, 25)
    context.options = {"preset": "ultrafast"}
    frame = av.VideoFrame(*size, pix_fmt)
    for plane in frame.planes:  # whatever was in this memory before would decide how long the stream gets
        plane.update(bytes(plane.buffer_size))
    frame.pts = 0
    data = b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
    with pytest.raises(MediaError, match=f"must be 1 frames of 160x160 .* found {found}"):
        decode(data, 1, "s")


def test_frames_of_another_size_are_not_encoded():
    with pytest.raises(ValueError, match="T x 160 x 160 x 3"):
        encode(np.zeros((3, 96, 96, 3), np.uint8))
