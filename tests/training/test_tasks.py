"""Which task a config asks for, and what is refused before any worker starts, each by the name of its setting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from talklip_ray.config import StorageConfig
from talklip_ray.errors import ConfigError, StoreError, WeightsError
from talklip_ray.models.checkpoints import Header, save_weights
from talklip_ray.models.tokenizer import Tokenizer, train_tokenizer
from talklip_ray.storage.uri import open_store
from talklip_ray.training.config import (
    DataConfig,
    EngineConfig,
    EngineKind,
    ReaderTrainConfig,
    RunSettings,
    SyncTrainConfig,
    TrainConfig,
)
from talklip_ray.training.curriculum import CurriculumConfig, Phase
from talklip_ray.training.dubbing import Dubbing
from talklip_ray.training.lipreading import LipReading
from talklip_ray.training.losses import LossWeights
from talklip_ray.training.syncing import Syncing
from talklip_ray.training.task import Materials
from talklip_ray.training.tasks import build_task, fetched, preflight
from tests.training import tiny
from tests.training.tiny import TEXTS, TOKENIZER

SETTINGS = {"name": "tiny", "steps": 4, "data": DataConfig(clips=2), "engine": EngineConfig(kind=EngineKind.PLAIN)}
PLAIN = TrainConfig(network=tiny.generator("l"), **SETTINGS)
WATCHED = TrainConfig(
    network=tiny.generator("gc"),
    losses=LossWeights(lip=1e-5, contrast=1e-3),
    curriculum=CurriculumConfig(most_steps=2),
    critic=tiny.CRITIC,
    **SETTINGS,
)
READER = ReaderTrainConfig(network=tiny.reader(), **SETTINGS)
SYNC = SyncTrainConfig(network=tiny.SYNCNET, **SETTINGS)


def check(config: RunSettings, texts: Sequence[str] = TEXTS) -> Tokenizer | None:
    return preflight(config, open_store(StorageConfig()), texts)


@pytest.fixture
def weights(tmp_path) -> Callable[..., str]:
    def save(network: nn.Module, tokenizer: Tokenizer | None = None) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.safetensors"
        save_weights(path, network, Header(licence="none"), tokenizer)
        return str(path)

    return save


@pytest.mark.parametrize(("config", "kind"), [(PLAIN, Dubbing), (READER, LipReading), (SYNC, Syncing)])
def test_each_config_has_its_task(config, kind, held) -> None:
    materials = Materials(samples=held(voice=config.voice), train=range(4), tokenizer=TOKENIZER)
    assert type(build_task(config, materials)) is kind


def test_settings_that_train_nothing_have_none(held) -> None:
    with pytest.raises(TypeError, match="no task for RunSettings"):
        build_task(RunSettings(name="x", steps=1), Materials(samples=held(), train=[0]))


def test_what_can_start_is_let_through(expert_file, weights) -> None:
    assert check(PLAIN, []) is None
    assert check(replace(WATCHED, expert=str(expert_file))) is None
    assert check(replace(PLAIN, start=weights(PLAIN.network.build()))) is None
    assert check(replace(WATCHED, expert=str(expert_file), critic_start=weights(tiny.CRITIC.build()))) is None
    assert check(replace(SYNC, start=weights(tiny.SYNCNET.build())), []) is None
    assert check(replace(READER, start=weights(tiny.reader().build(), TOKENIZER))) is None


def test_lip_reading_without_an_expert_is_refused() -> None:
    for losses in (LossWeights(lip=1e-5), LossWeights(contrast=1e-3)):
        with pytest.raises(ConfigError, match=r"recipe tiny: .*need the weights of a lip reader in `expert`"):
            check(replace(WATCHED, losses=losses))
    never = CurriculumConfig(phases=(Phase.RECONSTRUCT,))
    assert check(replace(WATCHED, curriculum=never)) is None


def test_an_expert_whose_rows_the_contrast_does_not_meet_is_refused(expert_file) -> None:
    config = replace(WATCHED, expert=str(expert_file), network=replace(WATCHED.network, contrast_width=12))
    with pytest.raises(ConfigError, match=r"`network\.contrast_width` must be .* rows, 16, found 12"):
        check(config)
    assert check(replace(config, losses=LossWeights(lip=1e-5))) is None


def test_an_expert_that_is_no_start_for_the_listener_is_refused(expert_file) -> None:
    deeper = replace(tiny.LISTENER, layers=4)
    with pytest.raises(ConfigError, match=r"`network\.listener` must be the expert's, .*layers=3.*found .*layers=4"):
        check(replace(WATCHED, expert=str(expert_file), network=replace(WATCHED.network, listener=deeper)))
    local = replace(tiny.generator("lc"), listener=deeper)
    assert check(replace(WATCHED, expert=str(expert_file), network=local)) is None


def test_an_expert_that_lets_no_gradient_through_is_refused(weights) -> None:
    deaf = weights(replace(tiny.reader(), front_gradient=0.0).build(), TOKENIZER)
    with pytest.raises(ConfigError, match=r"`front_gradient` .* must not be 0"):
        check(replace(WATCHED, expert=deaf))


def test_dropout_is_no_part_of_what_a_listener_is(expert_file) -> None:
    calm = replace(tiny.LISTENER, dropout=0.0, layer_drop=0.0)
    config = replace(WATCHED, expert=str(expert_file), network=replace(WATCHED.network, listener=calm))
    assert check(config) is None


def test_lip_reading_without_texts_is_refused(expert_file) -> None:
    config = replace(WATCHED, expert=str(expert_file))
    with pytest.raises(ConfigError, match=r"`losses\.lip` needs rows with text, found none; give `text`"):
        check(config, ["", " "])
    assert check(config, ["", "dead"]) is None
    assert check(replace(config, losses=LossWeights(contrast=1e-3)), ["", ""]) is None


def test_an_expert_without_its_tokenizer_is_refused(weights) -> None:
    with pytest.raises(WeightsError, match="reading text needs the lip reader's tokenizer"):
        check(replace(WATCHED, expert=weights(tiny.reader().build())))


@pytest.mark.parametrize("config", [PLAIN, READER, SYNC])
def test_weights_of_another_kind_are_refused(config, weights) -> None:
    with pytest.raises(WeightsError, match=r"must be weights of kind \w+, .* found critic"):
        check(replace(config, start=weights(tiny.CRITIC.build())))


def test_an_expert_or_critic_of_another_kind_is_refused(expert_file, weights) -> None:
    with pytest.raises(WeightsError, match=r"kind lip_reader, .* found syncnet"):
        check(replace(WATCHED, expert=weights(tiny.SYNCNET.build())))
    with pytest.raises(WeightsError, match=r"kind critic, .* found syncnet"):
        check(replace(WATCHED, expert=str(expert_file), critic_start=weights(tiny.SYNCNET.build())))


@pytest.mark.parametrize(
    ("config", "other"),
    [
        (PLAIN, replace(PLAIN.network, output_width=5)),
        (READER, replace(READER.network, decoder_layers=2)),
        (SYNC, replace(SYNC.network, hidden=12)),
    ],
)
def test_weights_of_other_sizes_are_refused(config, other, weights) -> None:
    tokenizer = TOKENIZER if config is READER else None
    with pytest.raises(ConfigError, match=r"recipe tiny: `network` must be that of `start`, .*; found"):
        check(replace(config, start=weights(other.build(), tokenizer)))


def test_a_critic_of_other_sizes_is_refused(expert_file, weights) -> None:
    other = replace(tiny.CRITIC, widths=(2, 2, 4, 4, 8, 8, 12))
    with pytest.raises(ConfigError, match=r"`critic` must be that of `critic_start`, .*12.*found .*8, 8, 8"):
        check(replace(WATCHED, expert=str(expert_file), critic_start=weights(other.build())))


def test_a_reader_without_texts_is_refused() -> None:
    with pytest.raises(ConfigError, match="a lip reader needs rows with text, found none; give `text`"):
        check(READER, ["", "\t"])


def test_a_reader_from_nothing_gets_a_tokenizer_made_of_the_known_texts() -> None:
    made = check(READER, ["", *TEXTS, ""])
    assert made is not None
    assert (made.model, made.symbols) == (TOKENIZER.model, TOKENIZER.symbols)


def test_a_few_texts_make_a_smaller_vocabulary_and_a_reader_that_fits_it(held) -> None:
    config = replace(READER, network=tiny.reader(1000))
    tokenizer = check(config)
    assert tokenizer is not None
    assert tokenizer.size < 50
    task = build_task(config, Materials(samples=held(), train=range(4), tokenizer=tokenizer))
    assert isinstance(task, LipReading)
    assert task.reader.config.vocabulary == tokenizer.size


def test_a_vocabulary_too_small_for_the_letters_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"`network\.vocabulary` must hold every character of the texts, found 8"):
        check(replace(READER, network=tiny.reader(8)))


@pytest.fixture
def model_file(tmp_path) -> str:
    path = tmp_path / "spm.model"
    path.write_bytes(TOKENIZER.model)
    return str(path)


def test_a_given_tokenizer_is_taken_as_it_is(model_file) -> None:
    found = check(replace(READER, tokenizer=model_file), ["something else"])
    assert found is not None
    assert found.symbols == TOKENIZER.symbols


def test_a_given_tokenizer_of_another_size_is_refused(model_file) -> None:
    with pytest.raises(ConfigError, match=r"`network\.vocabulary` must be .* symbols of `tokenizer`, 14, found 64"):
        check(replace(READER, tokenizer=model_file, network=tiny.reader(64)))


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path) -> None:
    (tmp_path / "spm.model").write_bytes(b"no model")
    with pytest.raises(WeightsError, match=r"spm\.model: must be a SentencePiece model"):
        check(replace(READER, tokenizer=str(tmp_path / "spm.model")))


def test_a_reader_that_goes_on_keeps_its_own_tokenizer(weights, model_file) -> None:
    start = weights(tiny.reader().build(), TOKENIZER)
    assert check(replace(READER, start=start, network=tiny.reader(64))) is None
    with pytest.raises(ConfigError, match=r"`tokenizer` must be empty where `start` .*, found .*spm\.model"):
        check(replace(READER, start=start, tokenizer=model_file))
    with pytest.raises(ConfigError, match="`start` must bring its tokenizer along, found none in"):
        check(replace(READER, start=weights(tiny.reader().build())))


def test_a_tokenizer_that_does_not_fit_its_reader_never_gets_into_a_file(weights) -> None:
    with pytest.raises(WeightsError, match="as many symbols as the decoder has rows"):
        weights(tiny.reader().build(), train_tokenizer(TEXTS, 12))


@pytest.mark.parametrize(
    "config", [replace(PLAIN, start="gone"), replace(WATCHED, expert="gone"), replace(READER, tokenizer="gone")]
)
def test_a_file_that_is_not_there_is_named(config, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((StoreError, WeightsError), match="gone"):
        check(config)


def test_weights_that_nobody_asked_for_are_not_fetched() -> None:
    assert fetched("", open_store(StorageConfig())) is None
    assert fetched(str(Path(__file__)), open_store(StorageConfig())) == Path(__file__)
