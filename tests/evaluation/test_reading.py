"""Reading lips, clip by clip the same as alone, and counting the words that were read wrong."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from talklip_ray.evaluation.reading import read_lips, word_error_rate
from talklip_ray.models.beam import beam_search
from talklip_ray.models.expert_view import lip_view
from talklip_ray.models.lip_reader import LipReader
from tests.training import tiny
from tests.training.tiny import TOKENIZER


@pytest.fixture(scope="module")
def reader() -> LipReader:
    """Random, but with opinions of its own, which what it sees can change."""
    torch.manual_seed(2)
    network = tiny.reader().build().eval()
    torch.nn.init.normal_(network.decoder.embed.weight)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() > 1 and (name.startswith(("lips", "listener")) or ".cross." in name):
                parameter *= 3.0
    return network


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    """Eleven clips of different lengths, sides and colours, their light changing from frame to frame."""
    rng = np.random.default_rng(2)
    colours = rng.integers(0, 128, (11, 3))
    clips = []
    for n, colour in enumerate(colours):
        light_T = rng.integers(0, 128, (3 + n % 5, 1, 1, 1))
        clips.append((np.full((1, 88 + 4 * n, 96 + 4 * n, 3), colour) + light_T).astype(np.uint8))
    return clips


def alone(reader: LipReader, clip: np.ndarray, beam: int) -> str:
    (found,) = beam_search(reader, lip_view(torch.from_numpy(clip))[None, None], beam=beam)
    return TOKENIZER.decode(found[0].tokens)


@pytest.mark.parametrize("beam", [1, 3])
def test_every_clip_is_read_as_if_it_were_alone_in_the_order_given(reader, clips, beam) -> None:
    """However many there are, and however long their neighbours."""
    said = read_lips(reader, TOKENIZER, iter(clips), beam=beam)
    assert said == [alone(reader, clip, beam) for clip in clips]
    assert len(set(said)) > 3
    assert any(earlier != later for earlier, later in pairwise(said))


def test_where_nothing_is_shown_nothing_is_read(reader) -> None:
    assert read_lips(reader, TOKENIZER, []) == []


def test_frames_that_are_too_small_and_a_reader_that_still_learns_are_refused(reader, clips) -> None:
    with pytest.raises(ValueError, match="at least 88x88 pixels, found 80x80"):
        read_lips(reader, TOKENIZER, [clips[0][:, :80, :80]])
    reader.train()
    try:
        with pytest.raises(ValueError, match="eval mode"):
            read_lips(reader, TOKENIZER, clips[:1], beam=1)
    finally:
        reader.eval()


@pytest.mark.parametrize(
    ("said", "read", "wrong"),
    [
        (["bin blue at b"], ["bin blue at b"], 0.0),
        (["Bin Blue at B"], ["bin blue at b"], 0.0),
        (["bin blue at b"], ["bin red at b"], 1 / 4),
        (["bin blue at b"], ["bin at b"], 1 / 4),
        (["bin blue at b"], ["bin blue at b b now"], 2 / 4),
        (["bin blue at b"], [""], 1.0),
        (["now"], ["bin blue now"], 2.0),
    ],
)
def test_words_that_are_wrong_missing_or_too_many_count_against_those_said(said, read, wrong) -> None:
    assert word_error_rate(said, read) == pytest.approx(wrong)


def test_long_sentences_weigh_more_than_short_ones() -> None:
    """One word of one and none of five: a sixth, not the half that the mean over clips would be."""
    assert word_error_rate(["now", "lay red in c five"], ["soon", "lay red in c five"]) == pytest.approx(1 / 6)


def test_words_where_nothing_was_said_count_too() -> None:
    assert word_error_rate(["lay red", ""], ["lay red", "now"]) == pytest.approx(1 / 2)


@pytest.mark.parametrize(
    ("said", "read", "words"),
    [
        (["a", "b"], ["a"], "each of 2 spoken sentences needs one that was read, found 1"),
        ([], [], "each of 0"),
        (["", " "], ["", ""], "each of 2"),
    ],
)
def test_what_cannot_be_compared_is_refused(said, read, words) -> None:
    with pytest.raises(ValueError, match=words):
        word_error_rate(said, read)
