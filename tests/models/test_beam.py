"""Beam search against every sentence there is, and at its limits."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from talklip_ray.models.audio_global import GlobalListenerConfig
from talklip_ray.models.beam import Hypothesis, beam_search
from talklip_ray.models.lip_reader import BOS, EOS, PAD, UNK, LipReader, small_reader

TINY = GlobalListenerConfig(
    width=16, hidden=32, heads=2, layers=1, position_kernel=4, position_groups=2, dropout=0.0, layer_drop=0.0
)
VOCABULARY = 6


def reader(seed: int = 9, vocabulary: int = VOCABULARY) -> LipReader:
    """Random weights, but with opinions of its own."""
    torch.manual_seed(seed)
    config = replace(
        small_reader(vocabulary),
        listener=TINY,
        trunk_widths=(2, 2, 3, 4, 5),
        decoder_hidden=32,
        decoder_layers=1,
        dropout=0.0,
    )
    network = config.build().eval()
    torch.nn.init.normal_(network.decoder.embed.weight)
    return network


def video(num_frames: int, clips: int = 1, seed: int = 1) -> torch.Tensor:
    return torch.randn(clips, 1, num_frames, 88, 88, generator=torch.Generator().manual_seed(seed))


def log_probability(network: LipReader, encoded_1TD: torch.Tensor, tokens: tuple[int, ...]) -> float:
    logits_1LV = network.decode(torch.tensor([[EOS, *tokens]]), encoded_1TD)
    targets = torch.tensor([[*tokens, EOS]])
    return float(logits_1LV.log_softmax(2).gather(2, targets[:, :, None]).sum())


@torch.no_grad()
def all_sentences(network: LipReader, clip: torch.Tensor, longest: int, penalty: float) -> list[Hypothesis]:
    encoded = network.encode(clip)
    words = [token for token in range(VOCABULARY) if token not in (BOS, PAD, EOS)]
    sentences = [tokens for length in range(longest + 1) for tokens in product(words, repeat=length)]
    scored = [
        Hypothesis(tokens, log_probability(network, encoded, tokens) / (len(tokens) + 1) ** penalty)
        for tokens in sentences
    ]
    return sorted(scored, key=lambda h: h.score, reverse=True)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_a_wide_beam_finds_every_sentence_in_order(penalty: float) -> None:
    network, clip = reader(), video(3)
    expected = all_sentences(network, clip, 3, penalty)
    found = beam_search(network, clip, beam=len(expected), length_penalty=penalty)[0]
    assert [h.tokens for h in found] == [h.tokens for h in expected]
    assert [h.score for h in found] == pytest.approx([h.score for h in expected], abs=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_a_beam_of_one_is_greedy(seed: int) -> None:
    network, clip = reader(seed), video(4, seed=seed)
    tokens: list[int] = []
    with torch.no_grad():
        encoded = network.encode(clip)
        while len(tokens) < 4:
            logits_V = network.decode(torch.tensor([[EOS, *tokens]]), encoded)[0, -1]
            logits_V[[BOS, PAD]] = float("-inf")
            if (best := int(logits_V.argmax())) == EOS:
                break
            tokens.append(best)
    assert [h.tokens for h in beam_search(network, clip, beam=1)[0]] == [tuple(tokens)]


@torch.no_grad()
def plain_search(network: LipReader, clip: torch.Tensor, beam: int) -> list[tuple[int, ...]]:
    """The same search in lists: every step from the start, one hypothesis after the other."""
    encoded, longest = network.encode(clip), clip.shape[2]
    going: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    found: list[tuple[float, tuple[int, ...]]] = []
    for length in range(longest + 1):
        candidates = []
        for total, tokens in going:
            log_V = network.decode(torch.tensor([[EOS, *tokens]]), encoded)[0, -1].log_softmax(0).tolist()
            allowed = [EOS] if length == longest else [EOS, UNK, 4, 5]
            candidates += [(total + log_V[token], tokens, token) for token in allowed]
        candidates = sorted(candidates, reverse=True)
        found += [(total / (length + 1), tokens) for total, tokens, token in candidates[:beam] if token == EOS]
        if len(found) >= beam:
            break
        going = [(total, (*tokens, token)) for total, tokens, token in candidates if token != EOS][:beam]
    return [tokens for _, tokens in sorted(found[:beam], reverse=True)]


@pytest.mark.parametrize("beam", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_a_narrow_beam_keeps_what_a_plain_search_keeps(beam: int, seed: int) -> None:
    network, clip = reader(seed), video(5, seed=seed)
    with torch.no_grad():  # ends are likely, so that they crowd the beam
        network.decoder.norm.bias.copy_(0.3 * network.decoder.embed.weight[EOS])
    assert [h.tokens for h in beam_search(network, clip, beam=beam)[0]] == plain_search(network, clip, beam)


class Scripted:
    """Reader, decoder and state in one: ``script`` says what follows a sentence's beginning, how likely."""

    training = False

    def __init__(self, script: dict[str, dict[int, float]]) -> None:
        self.script = script
        self.decoder = self
        self.said = [""]

    def encode(self, video_B1TSS: torch.Tensor, _padding: None) -> torch.Tensor:
        return torch.zeros(1, video_B1TSS.shape[2], 1)

    def begin(self, _encoded: torch.Tensor, _padding: None) -> Scripted:
        return self

    def keep(self, _clips: torch.Tensor) -> None: ...

    def reorder(self, rows_N: torch.Tensor) -> None:
        self.said = [self.said[row] for row in rows_N.tolist()]

    def step(self, tokens_1K: torch.Tensor, _state: Scripted) -> torch.Tensor:
        self.said = self.said * (tokens_1K.shape[1] // len(self.said))
        self.said = [
            said + ("" if token == EOS else str(token))
            for said, token in zip(self.said, tokens_1K[0].tolist(), strict=True)
        ]
        likely_KV = [[self.script.get(said, {}).get(token, 1e-6) for token in range(VOCABULARY)] for said in self.said]
        return torch.tensor(likely_KV).log()[None]


def test_as_many_go_on_however_many_end() -> None:
    """Two of three end at once; the third to go on, last of them, is soon the best."""
    script = {
        "": {3: 0.4, 4: 0.35, 5: 0.25},
        "3": {EOS: 0.775, 3: 0.225},
        "4": {EOS: 0.7, 4: 0.3},
        "5": {5: 0.6, 3: 0.2, 4: 0.2},
        "55": {3: 0.3, 4: 0.3, 5: 0.3},
        "44": {3: 0.3, 4: 0.3, 5: 0.3},
        "33": {EOS: 1.0},
    }
    found = beam_search(Scripted(script), video(3), beam=3)[0]  # type: ignore[arg-type]
    assert {h.tokens for h in found} == {(3,), (4,), (3, 3)}


def test_a_clip_reads_the_same_alone_and_in_company() -> None:
    network = reader()
    clips = [video(length, seed=length) for length in (1, 5, 3)]
    batch = torch.cat([F.pad(clip, (0, 0, 0, 0, 0, 5 - clip.shape[2])) for clip in clips])
    padding_BT = torch.arange(5) >= torch.tensor([[1], [5], [3]])
    together = beam_search(network, batch, padding_BT, beam=4)
    for clip, found in zip(clips, together, strict=True):
        alone = beam_search(network, clip, beam=4)[0]
        assert [h.tokens for h in found] == [h.tokens for h in alone]
        assert [h.score for h in found] == pytest.approx([h.score for h in alone], abs=1e-4)
        assert max(len(h.tokens) for h in found) <= clip.shape[2]


@pytest.mark.parametrize(("ratio", "extra", "longest"), [(1.0, 0, 4), (0.5, 0, 2), (0.0, 0, 0), (0.3, 2, 3)])
def test_the_longest_sentence_follows_from_the_frames(ratio: float, extra: int, longest: int) -> None:
    network = reader()
    with torch.no_grad():  # it would rather never stop
        network.decoder.norm.bias.copy_(-3 * network.decoder.embed.weight[EOS])
    found = beam_search(network, video(4), beam=5, max_length_ratio=ratio, max_extra=extra)[0]
    assert max(len(h.tokens) for h in found) == len(found[0].tokens) == longest


def test_neither_padding_nor_a_beginning_is_ever_said() -> None:
    network = reader()
    with torch.no_grad():
        network.decoder.norm.bias.copy_(3 * (network.decoder.embed.weight[PAD] + network.decoder.embed.weight[BOS]))
    found = beam_search(network, video(3), beam=20)[0]
    assert {token for h in found for token in h.tokens} == {UNK, 4, 5}


def test_a_single_frame_gives_an_answer() -> None:
    found = beam_search(reader(), video(1))[0]
    assert {h.tokens for h in found} == {(), (3,), (4,), (5,)}


def test_the_best_come_first_and_no_more_than_the_beam_holds() -> None:
    found = beam_search(reader(), video(6, clips=3), beam=7)
    assert [len(hypotheses) for hypotheses in found] == [7, 7, 7]
    for hypotheses in found:
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)


def test_dropout_or_no_beam_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="eval mode"):
        beam_search(reader().train(), video(1))
    with pytest.raises(ValueError, match="beam of at least 1"):
        beam_search(reader(), video(1), beam=0)


def test_a_reader_that_learnt_two_clips_reads_them_back() -> None:
    network = reader(vocabulary=9).train()
    clips = video(4, clips=2)
    padding_BT = torch.tensor([[False] * 4, [False] * 3 + [True]])
    clips[1, 0, 3] = 0
    texts = [(4, 6, 5), (8, 8)]
    previous = torch.tensor([[EOS, 4, 6, 5], [EOS, 8, 8, PAD]])
    targets = torch.tensor([[4, 6, 5, EOS], [8, 8, EOS, PAD]])
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        logits_BLV, _ = network(clips, previous, padding_BT)
        F.cross_entropy(logits_BLV.flatten(0, 1), targets.flatten(), ignore_index=PAD).backward()
        optimizer.step()
    found = beam_search(network.eval(), clips, padding_BT, beam=5)
    assert [hypotheses[0].tokens for hypotheses in found] == texts
