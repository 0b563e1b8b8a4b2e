"""From settings to a task: what to fetch, what to check before any worker starts, and which class learns it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from talklip_ray.errors import ConfigError
from talklip_ray.models.headers import read_header
from talklip_ray.models.kinds import Kind
from talklip_ray.models.lip_reader import LipReaderConfig
from talklip_ray.models.tokenizer import Tokenizer, symbols_of, train_tokenizer
from talklip_ray.storage.artifacts import cache_folder, fetch, fetched
from talklip_ray.storage.store import Store
from talklip_ray.training.config import ReaderTrainConfig, RunSettings, SyncTrainConfig, TrainConfig
from talklip_ray.training.dubbing import Dubbing, load_expert
from talklip_ray.training.lipreading import LipReading, check_reader
from talklip_ray.training.syncing import Syncing
from talklip_ray.training.task import Materials, Task


def build_task(config: RunSettings, materials: Materials) -> Task:
    """What a worker of ``config`` learns."""
    match config:
        case TrainConfig():
            return Dubbing(config, materials)
        case ReaderTrainConfig():
            return LipReading(config, materials)
        case SyncTrainConfig():
            return Syncing(config, materials)
    raise TypeError(f"no task for {type(config).__name__}")


def preflight(config: RunSettings, store: Store, texts: Sequence[str]) -> Tokenizer | None:
    """Raises ConfigError, StoreError or WeightsError for what no worker could start with. Returns the tokenizer of a
    reader that starts from nothing.
    """
    start = fetched(config.start, store)
    known = [text for text in texts if text.strip()]
    match config:
        case TrainConfig():
            load_expert(config, fetched(config.expert, store))
            check_start(config, start, Kind.TALKLIP)
            _check_critic(config, fetched(config.critic_start, store))
            if config.watches and config.losses.lip and not known:
                raise ConfigError(
                    config.where, "`losses.lip` needs rows with text, found none; give `text` in the manifest"
                )
        case ReaderTrainConfig():
            if not known:
                raise ConfigError(
                    config.where, "a lip reader needs rows with text, found none; give `text` in the manifest"
                )
            if start is None:
                return _tokenizer(config, store, known)
            _check_told(config, start)
        case SyncTrainConfig():
            check_start(config, start, Kind.SYNCNET)
    return None


def expert_config(config: RunSettings, store: Store) -> LipReaderConfig | None:
    """The sizes of the expert that the settings name; None where they name none."""
    weights = fetched(config.expert, store) if isinstance(config, TrainConfig) else None
    found: LipReaderConfig | None = None if weights is None else read_header(weights, Kind.LIP_READER).network
    return found


def check_start(config: TrainConfig | SyncTrainConfig, start: Path | None, kind: Kind) -> None:
    """Raises ConfigError unless weights to go on from are of the network that is to be trained."""
    if start is None:
        return
    found = read_header(start, kind).network
    if found != config.network:
        raise ConfigError(config.where, f"`network` must be that of `start`, {found}; found {config.network}")


def _check_critic(config: TrainConfig, start: Path | None) -> None:
    if start is not None and (found := read_header(start, Kind.CRITIC).network) != config.critic:
        raise ConfigError(config.where, f"`critic` must be that of `critic_start`, {found}; found {config.critic}")


def _check_told(config: ReaderTrainConfig, start: Path) -> None:
    """Raises ConfigError unless a reader can go on from ``start``, which brings its own tokenizer."""
    header = read_header(start, Kind.LIP_READER)
    check_reader(config, header.network)
    if config.tokenizer:
        raise ConfigError(
            config.where, f"`tokenizer` must be empty where `start` brings its own, found {config.tokenizer}"
        )
    if not header.symbols:
        raise ConfigError(
            config.where,
            f"`start` must bring its tokenizer along, found none in {start}; import the checkpoint again with "
            "`talklip weights import --tokenizer FILE`",
        )


def _tokenizer(config: ReaderTrainConfig, store: Store, texts: Sequence[str]) -> Tokenizer:
    wanted = config.network.vocabulary
    if not config.tokenizer:
        try:
            return train_tokenizer(texts, wanted)
        except ValueError as error:
            raise ConfigError(
                config.where, f"`network.vocabulary` must hold every character of the texts, found {wanted}: {error}"
            ) from error
    model = fetch(store, config.tokenizer, cache_folder()).read_bytes()
    tokenizer = Tokenizer(model, symbols_of(model, config.tokenizer))
    if tokenizer.size != wanted:
        raise ConfigError(
            config.where,
            f"`network.vocabulary` must be the number of symbols of `tokenizer`, {tokenizer.size}, found {wanted}",
        )
    return tokenizer
