"""The lip reader's task: which clips it is shown, how they are altered, and that it learns to read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from talklip_ray.errors import ConfigError
from talklip_ray.media.features import Voice
from talklip_ray.models.checkpoints import Header, save_weights
from talklip_ray.models.expert_view import lip_view, stack_views
from talklip_ray.models.lip_reader import PAD
from talklip_ray.models.tokenizer import train_tokenizer
from talklip_ray.training.config import DataConfig, EngineConfig, EngineKind, ReaderTrainConfig
from talklip_ray.training.feeding import make_batch
from talklip_ray.training.lip_batches import ReadingBatch, altered, collate, heard, lit
from talklip_ray.training.lipreading import LipReading, right
from talklip_ray.training.losses import reading
from talklip_ray.training.spoken import Texts, tokens
from talklip_ray.training.task import Materials, Place
from tests.training import tiny
from tests.training.tiny import TOKENIZER

CONFIG = ReaderTrainConfig(
    name="tiny",
    steps=50,
    network=replace(tiny.reader(), dropout=0.0, listener=replace(tiny.LISTENER, dropout=0.0, layer_drop=0.0)),
    data=DataConfig(clips=2),
    engine=EngineConfig(kind=EngineKind.PLAIN),
)
Make = Callable[..., LipReading]


@pytest.fixture
def task(held) -> Make:
    def make(config: ReaderTrainConfig = CONFIG, **materials: object) -> LipReading:
        given = {"samples": held(voice=config.voice), "train": range(3), "valid": [3], "tokenizer": TOKENIZER}
        return LipReading(config, Materials(**given | materials))

    return make


def batches(reader: LipReading, first: int = 0) -> Iterator[ReadingBatch]:
    rows, place = reader.materials.samples, reader.materials.place
    for step in range(first, reader.config.steps):
        yield from make_batch(reader.wanted(None), rows, reader.numbers, step, place).parts


class Chance:
    """A generator that draws what it is told to."""

    def __init__(self, *, offsets: tuple[int, int] = (0, 0), share: float = 1.0) -> None:
        self.offsets, self.share, self.asked = offsets, share, []

    def integers(self, low: int, high: int, size: int) -> np.ndarray:
        self.asked.append((low, high))
        return np.array(self.offsets[:size])

    def random(self) -> float:
        return self.share


def places(side: int = 160, num_frames: int = 2) -> np.ndarray:
    """Frames that say where they are: red is the column, green the row, blue the frame."""
    frames_THWC = np.zeros((num_frames, side, side, 3), np.uint8)
    frames_THWC[..., 0] = np.arange(side)
    frames_THWC[..., 1] = np.arange(side)[:, None]
    frames_THWC[..., 2] = np.arange(num_frames)[:, None, None]
    return frames_THWC


@pytest.mark.parametrize("shift", [1, 4])
def test_a_displaced_clip_shows_its_middle_so_far_off(shift) -> None:
    for down, across in product((-shift, 0, shift), repeat=2):
        chance = Chance(offsets=(down, across))
        shown = altered(places(), chance, shift=shift, flip=0.0)
        assert chance.asked == [(-shift, shift + 1)]
        assert (shown[0, 0, 0, 1], shown[0, 0, 0, 0]) == (36 + down, 36 + across)
        assert shown.shape == (2, 88, 88, 3)
        assert (shown[0, -1, -1, 1], shown[0, -1, -1, 0]) == (123 + down, 123 + across)


def test_a_clip_moves_as_one() -> None:
    shown = altered(places(num_frames=5), np.random.default_rng(1), shift=4, flip=0.5)
    assert (shown[:, :, :, :2] == shown[:1, :, :, :2]).all()
    assert shown[:, 0, 0, 2].tolist() == [0, 1, 2, 3, 4]


def test_no_clip_moves_further_than_its_frame_reaches() -> None:
    chance = Chance(offsets=(4, -4))
    shown = altered(places(96), chance, shift=30, flip=0.0)
    assert chance.asked == [(-4, 5)]
    assert (shown[0, 0, 0, 1], shown[0, 0, 0, 0]) == (8, 0)
    assert np.array_equal(altered(places(88), Chance(), shift=4, flip=0.0), places(88))


def test_a_clip_is_mirrored_as_often_as_asked() -> None:
    middle_TSSC = places()[:, 36:124, 36:124]
    assert np.array_equal(altered(places(), Chance(share=0.29), shift=0, flip=0.3), middle_TSSC[:, :, ::-1])
    assert np.array_equal(altered(places(), Chance(share=0.31), shift=0, flip=0.3), middle_TSSC)
    assert np.array_equal(altered(places(), Chance(share=0.0), shift=0, flip=0.0), middle_TSSC)


def test_what_travels_is_what_the_reader_looks_at(held) -> None:
    """The middle 88 pixels of whole frames: a third of their bytes, and the same view."""
    (sample,) = list(held())[:1]
    (clip,) = collate([sample], TOKENIZER).clips
    assert clip.shape == (10, 88, 88, 3)
    assert torch.equal(lip_view(clip), lip_view(torch.from_numpy(sample.piece.frames_THWC)))


def test_light_is_what_brighter_frames_would_show() -> None:
    dim = torch.full((1, 90, 90, 3), 100, dtype=torch.uint8)
    bright = torch.full((1, 90, 90, 3), 125, dtype=torch.uint8)
    assert torch.allclose(lit(lip_view(dim), 1.25), lip_view(bright), atol=1e-5)
    assert lit(lip_view(dim), 1.0).equal(lip_view(dim))


def test_clips_are_shown_as_they_are_where_nothing_is_left_to_chance(held) -> None:
    samples = list(held())[:2]
    batch = collate(samples, TOKENIZER, shift=4, flip=1.0, brightness=0.5)
    video_B1TSS, previous_BL, padding_BT, rows_BTF = batch.inputs()
    wanted = stack_views([lip_view(torch.from_numpy(sample.piece.frames_THWC)) for sample in samples])
    assert torch.equal(video_B1TSS, wanted[0])
    assert torch.equal(padding_BT, wanted[1])
    assert torch.equal(previous_BL, tokens(tiny.TEXTS[:2], TOKENIZER).previous_BL)
    assert rows_BTF is None


def test_each_clip_is_altered_by_its_own_chance_and_lit_no_further_than_asked(held) -> None:
    """As it would be alone; the same clip twice is not altered alike."""

    def shown(*seeds: int) -> tuple[Tensor, tuple[float, ...]]:
        chances = [np.random.default_rng(seed) for seed in seeds]
        batch = collate([held()[0]] * len(seeds), TOKENIZER, chances, shift=4, flip=0.5, brightness=0.2)
        return torch.stack(batch.clips), batch.gains

    clips, gains = shown(0, 1)
    assert not torch.equal(clips[0], clips[1])
    assert torch.equal(clips, torch.cat([shown(0)[0], shown(1)[0]]))
    assert gains == shown(0)[1] + shown(1)[1]
    assert all(0.8 <= gain <= 1.2 and gain != 1.0 for gain in gains)


def test_clips_are_altered_as_the_settings_say(task, held) -> None:
    as_they_are = [altered(sample.piece.frames_THWC) for sample in held()]

    def shown(**settings: object) -> list[np.ndarray]:
        asked = replace(CONFIG, steps=3, **settings)
        return [clip.numpy() for batch in batches(task(asked)) for clip in batch.clips]

    def one_of(clip: np.ndarray, all_clips: list[np.ndarray]) -> bool:
        return any(np.array_equal(clip, other) for other in all_clips)

    assert all(one_of(clip, as_they_are) for clip in shown(shift=0))
    mirrored = DataConfig(clips=2, flip=1.0)
    assert all(one_of(clip[:, :, ::-1], as_they_are) for clip in shown(shift=0, data=mirrored))
    moved = shown(shift=2)
    assert not all(one_of(clip, as_they_are) for clip in moved)
    assert {clip.shape[1:] for clip in moved} == {(88, 88, 3)}
    lit_by = [gain for batch in batches(task(replace(CONFIG, steps=3))) for gain in batch.gains]
    assert set(lit_by) == {1.0}


def test_a_clip_that_is_heard_brings_the_row_of_each_frames_time(held) -> None:
    samples = list(held(voice=Voice.GLOBAL))[1:3]
    batch = heard(samples, TOKENIZER)
    video_B1TSS, previous_BL, padding_BT, rows_BTF = batch.inputs()
    assert video_B1TSS is None
    assert rows_BTF.shape == (2, 12, 104)
    for clip, sample in enumerate(samples):
        own_TF = sample.voice.features_AF[: sample.piece.num_frames]
        np.testing.assert_array_equal(rows_BTF[clip, : len(own_TF)].numpy(), own_TF)
    assert padding_BT.tolist() == [[False] * 11 + [True], [False] * 12]
    assert torch.equal(previous_BL, tokens(tiny.TEXTS[1:3], TOKENIZER).previous_BL)


def test_a_clip_at_twice_the_frame_rate_hears_every_row_twice(held, talking) -> None:
    piece = talking(num_frames=20, text="dead")
    fast = replace(piece, pts_T=piece.pts_T // 2)
    (sample,) = held([fast], voice=Voice.GLOBAL)
    rows_TF = heard([sample], TOKENIZER).inputs()[3][0]
    np.testing.assert_array_equal(rows_TF.numpy(), np.repeat(sample.voice.features_AF[:10], 2, axis=0))


def test_some_batches_are_heard_the_same_ones_by_all_workers(task) -> None:
    config = replace(CONFIG, steps=100, hearing=0.3)
    places = [Place(), Place(rank=0, world=2), Place(rank=1, world=2)]
    by_ear = [[batch.rows_BTF is not None for batch in batches(task(config, place=place))] for place in places]
    assert by_ear[0] == by_ear[1] == by_ear[2]
    assert 15 < sum(by_ear[0]) < 45
    assert not any(batch.rows_BTF is not None for batch in batches(task()))


@pytest.mark.parametrize("hearing", [0.0, 0.5])
def test_one_batch_can_be_learnt_by_heart(task, hearing) -> None:
    """By sight or by ear, the reader comes to say what is said, and says so."""
    reader = task(replace(CONFIG, hearing=hearing))
    batch = next(b for b in batches(reader) if (b.rows_BTF is not None) == bool(hearing))
    told = [reader.update([batch], None, 3e-3) for _ in range(120 if hearing else 70)]
    assert told[-1]["lip"] < 0.5 * told[0]["lip"]
    assert told[-1]["right"] == 1.0


def test_the_loss_is_told_by_the_token(task) -> None:
    reader = task()
    batch = next(batches(reader))
    with torch.no_grad():
        logits_BLV, _ = reader.reader.train()(*batch.inputs())
    summed = reading(logits_BLV, batch.texts.targets_BL, pad=PAD)
    assert torch.allclose(reader.update([batch], None, 0.0)["lip"], summed / batch.texts.num_tokens)


def test_micro_batches_together_lose_what_the_whole_batch_loses(held) -> None:
    """A clip with a long text beside one with a short text: tokens count, not micro-batches."""
    samples = list(held())
    given = {"samples": held(), "train": range(3), "valid": [3], "tokenizer": TOKENIZER}

    def told(parts: int) -> dict[str, float]:
        engine = EngineConfig(kind=EngineKind.PLAIN, micro_batches=parts)
        reader = LipReading(replace(CONFIG, engine=engine), Materials(**given))
        reader.reader.eval()
        batch = (
            [collate(samples[:2], TOKENIZER)] if parts == 1 else [collate([each], TOKENIZER) for each in samples[:2]]
        )
        return {name: float(term) for name, term in reader.update(batch, None, 0.0).items()}

    assert told(2) == pytest.approx(told(1), rel=1e-5)


def texts_of(batch_texts: Texts) -> list[str]:
    return [TOKENIZER.decode(row) for row in batch_texts.targets_BL.tolist()]


def test_clips_that_are_too_long_give_their_place_to_the_next(task) -> None:
    """Rows 0 to 3 have 10 to 13 frames; of the three to train on two are short enough."""
    reader = task(replace(CONFIG, most_frames=11, steps=6))
    told = [text for batch in batches(reader) for text in texts_of(batch.texts)]
    assert set(told) == set(tiny.TEXTS[:2])
    assert len(told) == 12


def test_where_every_clip_is_too_long_the_setting_is_named(task) -> None:
    reader = task(replace(CONFIG, most_frames=9))
    with pytest.raises(ConfigError, match="`most_frames` leaves no clip: all have more than 9 frames"):
        next(batches(reader))
    assert reader.validate() == {}


def test_only_rows_whose_text_is_known_are_shown(task, held, talking) -> None:
    texts = ("", "dead", "  ", "a bed")
    pieces = [talking(f"clip-{n}", num_frames=10, text=text) for n, text in enumerate(texts)]
    reader = task(samples=held(pieces), train=range(4), valid=[0, 2])
    told = {text for batch, _ in zip(batches(reader), range(6), strict=False) for text in texts_of(batch.texts)}
    assert told == {"dead", "a bed"}
    assert reader.validate() == {}


def test_without_any_text_there_is_nothing_to_learn_from(task, held, talking) -> None:
    with pytest.raises(ConfigError, match="needs rows with text, found none; give `text` in the manifest"):
        task(samples=held([talking()]), train=[0], valid=[])


def test_validation_is_the_loss_a_token_and_the_share_of_tokens_right(task) -> None:
    reader = task(valid=[1, 2])
    losses: list[Tensor] = []
    hits = counted = 0
    reader.reader.eval()
    for number in (1, 2):
        batch = collate([reader.materials.samples[number]], TOKENIZER)
        with torch.no_grad():
            logits_BLV, _ = reader.reader(*batch.inputs())
        losses.append(reading(logits_BLV, batch.texts.targets_BL, pad=PAD))
        hits += int((logits_BLV.argmax(-1) == batch.texts.targets_BL).sum())
        counted += batch.texts.num_tokens
    reader.reader.train()
    found = reader.validate()
    assert list(found) == ["lip", "right"]
    assert found["lip"] == pytest.approx(float(sum(losses)) / counted, rel=1e-5)
    assert found["right"] == pytest.approx(hits / counted)
    assert reader.reader.training
    assert task(valid=[]).validate() == {}


def test_padding_is_neither_right_nor_wrong() -> None:
    logits_BLV = torch.eye(5)[torch.tensor([[4, 2, 1], [3, 4, 2]])]
    targets_BL = torch.tensor([[4, 2, PAD], [4, 4, 2]])
    assert float(right(logits_BLV, Texts(previous_BL=targets_BL, targets_BL=targets_BL))) == pytest.approx(4 / 5)


def test_a_new_reader_has_a_row_for_each_symbol_there_is(task) -> None:
    """A few texts give fewer symbols than asked for; no row is left that nothing would ever teach."""
    tokenizer = train_tokenizer(tiny.TEXTS, 1000)
    assert tokenizer.size < 50
    asked = replace(CONFIG, network=replace(CONFIG.network, vocabulary=1000))
    reader = task(asked, tokenizer=tokenizer)
    assert reader.reader.config == replace(CONFIG.network, vocabulary=tokenizer.size)


@pytest.fixture
def start(tmp_path):
    torch.manual_seed(5)
    network = CONFIG.network.build()
    save_weights(tmp_path / "start.safetensors", network, Header(licence="none"), TOKENIZER)
    return tmp_path / "start.safetensors", network.state_dict()


def test_a_reader_goes_on_from_weights_with_the_tokenizer_they_bring(task, start) -> None:
    path, state = start
    other = train_tokenizer(tiny.TEXTS, 12)
    asked = replace(CONFIG, network=replace(CONFIG.network, vocabulary=64))
    reader = task(asked, start=path, tokenizer=other)
    assert reader.tokenizer.symbols == TOKENIZER.symbols
    assert all(torch.equal(tensor, state[name]) for name, tensor in reader.reader.state_dict().items())


def test_weights_of_another_reader_are_refused(task, start) -> None:
    path, _ = start
    with pytest.raises(ConfigError, match=r"`network` must be that of `start`, .*decoder_layers=1.*decoder_layers=2"):
        task(replace(CONFIG, network=replace(CONFIG.network, decoder_layers=2)), start=path)


def test_the_same_seed_builds_the_same_reader(task) -> None:
    first, same, other = (task(config).reader.state_dict() for config in (CONFIG, CONFIG, replace(CONFIG, seed=1)))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_batch_moves_to_the_device_whole(held) -> None:
    samples = list(held(voice=Voice.GLOBAL))[:2]
    for batch in (collate(samples, TOKENIZER), heard(samples, TOKENIZER)):
        moved = batch.to(torch.device("meta"))
        given = [moved.texts.previous_BL, moved.texts.targets_BL, *moved.clips, moved.rows_BTF, moved.padding_BT]
        assert {tensor.device.type for tensor in given if tensor is not None} == {"meta"}
        assert moved.gains == batch.gains
