"""Typed, frozen settings of a training run. Recipes (recipes.py) return complete ones.

A global batch is ``clips`` clips times the windows drawn from each times ``window`` frames. It does not
depend on how many workers share it: each takes its slice.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from talklip_ray.errors import ConfigError
from talklip_ray.media.features import Voice
from talklip_ray.models.critic import CriticConfig
from talklip_ray.models.lip_reader import LipReaderConfig
from talklip_ray.models.syncnet import SyncNetConfig
from talklip_ray.models.talklip import NetworkConfig
from talklip_ray.training.curriculum import CurriculumConfig, Phase
from talklip_ray.training.losses import LossWeights
from talklip_ray.training.shards import SAMPLE_RATE, SOUND_MARGIN


class EngineKind(StrEnum):
    """Who holds the parameters."""

    DEEPSPEED = "deepspeed"
    PLAIN = "plain"
    """torch alone, one process: for tests and notebooks."""


class Precision(StrEnum):
    FP32 = "fp32"
    BF16 = "bf16"
    """Autocast: parameters and sums stay float32."""


class Norm(StrEnum):
    """Over which frames batch normalisation takes its statistics."""

    WORKER = "worker"
    """Those of one worker's micro-batch, as the released code: results depend on how many workers share a batch."""
    TOGETHER = "together"
    """Those of all workers' micro-batches."""


class FeedKind(StrEnum):
    """Where batches are made."""

    DIRECT = "direct"
    """In threads of each worker."""
    RAY = "ray"
    """In actors anywhere on the cluster, as a Ray Data stream."""


class Decay(StrEnum):
    CONSTANT = "constant"
    COSINE = "cosine"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """What a batch is made of."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    clips: int = 8
    """Clips in a global batch."""
    windows: int = 0
    """Windows drawn from each clip; 0: one for every 12.5 frames, those too close to another left out."""
    window: int = 5
    """Consecutive frames in a window."""
    flip: float = 0.0
    """Probability that a window is mirrored left to right."""
    brightness: float = 0.0
    """Largest change of a window's brightness, as a share of it."""
    move_identity: float = 0.0
    """Who it is, is shown shifted by up to this share of its side, turned and scaled by as much: so that it can only
    be told from, not copied."""
    hide_identity: float = 0.0
    """Probability that the lower half of who it is, is hidden as well: a mouth that is not shown must be heard."""
    twins: float = 0.0
    """How often who it is, is shown by the frame itself with another mouth, as in dubbing: of rows that bring such
    frames along (jobs/synthesize.py --twins)."""
    hold_out: float = 0.0
    """Share of the clips, chosen by their names, that is only ever used to validate."""
    cache_bytes: int = 4 << 30
    """Rows kept in memory between epochs by each process that makes batches."""
    pool: int = 8
    """Batches whose clips are sorted by length together, so that those of one batch are of like length; 0: none."""
    feed: FeedKind = FeedKind.DIRECT
    feeders: int = 2
    """Actors that make batches for all workers, or threads of each worker that do."""
    feeder_cpus: float = 0.25
    """Processors that Ray reckons with for each actor. Small machines have no whole one to spare."""
    ahead_bytes: int = 1 << 30
    """Of batches made by actors and not yet taken, all together: room in the cluster's object stores."""
    most_bad: float = 0.01
    """Share of the rows that may turn out unreadable before the run stops; a few may in any case, unless it is 0."""

    def __post_init__(self) -> None:
        least = {"pool": 0, "feeders": 1, "feeder_cpus": 0, "ahead_bytes": 1, "most_bad": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ConfigError("data", f"`data.{name}` must be at least {low}, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """Adam, and how its learning rate moves over the run."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    learning_rate: float = 1e-4
    betas: tuple[float, float] = (0.5, 0.999)
    eps: float = 1e-8
    warmup: float = 0.0
    """Share of the run over which the rate climbs from zero."""
    decay: Decay = Decay.CONSTANT
    clip_norm: float = 0.0
    """Largest gradient norm; 0 does not clip."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """How parameters, gradients and optimizer state are kept."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    kind: EngineKind = EngineKind.DEEPSPEED
    zero_stage: int = 0
    offload: bool = False
    """Adam's state, and its sums, in the memory and on the processors of the node (ZeRO 1 to 3)."""
    precision: Precision = Precision.FP32
    channels_last: bool = False
    micro_batches: int = 1
    """Parts a worker's share of a batch is shown in, one after another, for less memory; the update is one."""
    batch_norm: Norm = Norm.WORKER
    checkpoint_activations: bool = False
    """Compute inner values of what is trained, and of the expert, again on the way back instead of keeping them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkersConfig:
    """Processes of the run and what each needs."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    count: int = 1
    cpus: int = 1
    """CPUs, and threads, of each worker."""
    gpus: int = 0
    """GPUs of each worker: 0 or 1."""
    gpu_gib: float = 0.0
    """Memory of each GPU, for the check that a run will fit; 0 unknown."""
    least: int = 0
    """The run goes on with as few workers where nodes are lost, and takes more as they come; 0: always ``count``."""
    max_failures: int = 2
    """Worker failures after which the run gives up; it resumes from the last checkpoint until then. Nodes taken away
    with notice do not count.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class KeepConfig:
    """Checkpoints, validation and reports, all counted in steps."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    checkpoint_every: int = 3000
    validate_every: int = 3000
    """Only with ``data.hold_out``. The best validation of a phase brings a checkpoint of its own."""
    report_every: int = 50
    last: int = 2
    """How many checkpoints stay, beside the best."""
    explosion: float = 100.0
    """The run stops where a term is so many times its median; 0: only where it is no number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """What every training run has, whatever it trains."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    steps: int
    seed: int = 0
    start: str = ""
    """Path or URI of weights of the same network to go on from; "": from nothing."""
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    workers: WorkersConfig = field(default_factory=WorkersConfig)
    keep: KeepConfig = field(default_factory=KeepConfig)

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raises ConfigError for settings that cannot work together."""
        for ok, rule in (
            (self.steps > 0, f"`steps` must be positive, got {self.steps}"),
            (
                self.workers.count * self.engine.micro_batches <= self.data.clips,
                f"`data.clips` must be at least `workers.count` x `engine.micro_batches`, a clip for each, got "
                f"{self.data.clips}, {self.workers.count} and {self.engine.micro_batches}",
            ),
            (
                0 <= self.workers.least <= self.workers.count,
                f"`workers.least` must be 0 to `workers.count`, got {self.workers.least}",
            ),
            (self.engine.micro_batches >= 1, f"`engine.micro_batches` must be at least 1: {self.engine.micro_batches}"),
            (
                not self.engine.offload or self.engine.zero_stage > 0,
                "`engine.offload` needs `engine.zero_stage` 1, 2 or 3, got 0",
            ),
            (self.data.window > 0, f"`data.window` must be positive, got {self.data.window}"),
            (0 <= self.data.hold_out < 1, f"`data.hold_out` must be in [0, 1), got {self.data.hold_out}"),
            (
                0 <= self.data.move_identity < 1,
                f"`data.move_identity` must be in [0, 1), got {self.data.move_identity}",
            ),
            (0 <= self.data.hide_identity <= 1, f"`data.hide_identity` must be 0 to 1, got {self.data.hide_identity}"),
            (0 <= self.data.twins <= 1, f"`data.twins` must be 0 to 1, got {self.data.twins}"),
            (
                0 <= self.engine.zero_stage <= 3,
                f"`engine.zero_stage` must be 0 to 3, got {self.engine.zero_stage}",
            ),
            (
                self.engine.kind == EngineKind.DEEPSPEED or self.workers.count == 1,
                f"`engine.kind: plain` works in one process, got `workers.count: {self.workers.count}`",
            ),
            (self.workers.gpus in (0, 1), f"`workers.gpus` must be 0 or 1, got {self.workers.gpus}"),
        ):
            if not ok:
                raise ConfigError(self.where, rule)

    @property
    def where(self) -> str:
        return f"recipe {self.name}"

    @property
    def voice(self) -> Voice | None:
        """The audio features it needs of its rows."""
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(RunSettings):
    """Trains a generator: the network that dubs."""

    network: NetworkConfig
    losses: LossWeights = field(default_factory=LossWeights)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    critic: CriticConfig = field(default_factory=CriticConfig)
    """Sizes of the critic; there is one where ``losses.critic`` is not 0."""
    critic_start: str = ""
    """Path or URI of a critic's weights to go on from; "": from nothing."""
    expert: str = ""
    """Path or URI of a lip reader's weights (``talklip weights import``, or a reader trained here). Lip reading and
    contrast need it, and the global listener starts as its listener where the sizes agree.
    """
    listener_layers: int = 3
    """How many upper layers of a listener that came from the expert learn in phase ``tune_listener`` and after."""
    listener_learns: bool = True
    """False: the listener of ``start``, taught before (training/hearing.py), stays as it is. It has heard more voices
    than there are faces to train on.
    """
    released_discriminator_leak: bool = False
    """As the released code: the gradient that the perceptual loss leaves in the critic is added to the critic's own.
    Only to reproduce published numbers; plain engine only.
    """

    def check(self) -> None:
        RunSettings.check(self)
        self.losses.check(self.where)
        self.curriculum.check(self.where)
        reads = self.losses.lip or self.losses.contrast
        for ok, rule in (
            (
                not self.losses.contrast or self.network.contrastive,
                f"`losses.contrast` needs `network.variant` lc or gc, got {self.network.variant}",
            ),
            (
                not reads or not (self.data.flip or self.data.brightness),
                "`data.flip` and `data.brightness` change single windows and must be 0 where the expert watches "
                "whole clips (`losses.lip`, `losses.contrast`)",
            ),
            (
                not self.released_discriminator_leak or self.engine.kind == EngineKind.PLAIN,
                "`released_discriminator_leak` needs `engine.kind: plain`",
            ),
            (
                not self.watches
                or self.curriculum.phases[0] == Phase.READ_LIPS
                or bool(self.curriculum.most_steps or self.data.hold_out),
                "`losses.lip` and `losses.contrast` wait for the phases before `read_lips` to end: set "
                "`data.hold_out`, for validation to end them, or `curriculum.most_steps`, found neither",
            ),
            (
                self.listener_learns or bool(self.start),
                "`listener_learns: false` needs `start`, weights whose listener has learnt; found none",
            ),
            (self.listener_layers >= 0, f"`listener_layers` must not be negative, got {self.listener_layers}"),
        ):
            if not ok:
                raise ConfigError(self.where, rule)

    @property
    def voice(self) -> Voice | None:
        return self.network.voice

    @property
    def watches(self) -> bool:
        """Whether any phase needs the expert's eyes."""
        asked = bool(self.losses.lip or self.losses.contrast)
        return asked and Phase.READ_LIPS in self.curriculum.phases


@dataclass(frozen=True, kw_only=True, slots=True)
class ReaderTrainConfig(RunSettings):
    """Trains a lip reader: video and text, sequence to sequence."""

    network: LipReaderConfig
    tokenizer: str = ""
    """Path or URI of a SentencePiece model of ``network.vocabulary`` symbols; "": one is made from the texts. A few
    texts may not give as many: the network then has a row for each there is. ``start`` brings its own.
    """
    most_frames: int = 400
    """Longer clips are left out: their text cannot be cut with them."""
    shift: int = 4
    """Largest random displacement of the 88 x 88 crop while training, in pixels."""
    hearing: float = 0.0
    """Share of the batches in which the reader hears the clips instead of seeing them. A generator's global listener
    that starts as this reader's needs one that can hear (AV-HuBERT's pre-training sees to that).
    """

    def check(self) -> None:
        RunSettings.check(self)
        if not 0 <= self.hearing < 1:
            raise ConfigError(self.where, f"`hearing` must be in [0, 1), got {self.hearing}")

    @property
    def voice(self) -> Voice | None:
        return Voice.GLOBAL if self.hearing else None


@dataclass(frozen=True, kw_only=True, slots=True)
class SyncTrainConfig(RunSettings):
    """Trains SyncNet: which of several shifted stretches of sound belongs to five frames."""

    network: SyncNetConfig
    most_shift: int = 15
    """Wrong stretches begin up to this many frames away, either way."""
    wrong: int = 8
    """Wrong stretches set against each right one."""

    def check(self) -> None:
        RunSettings.check(self)
        if not 1 <= self.most_shift <= _MARGIN or not 1 <= self.wrong <= 2 * self.most_shift:
            raise ConfigError(
                self.where,
                f"`most_shift` must be 1 to {_MARGIN}, as far as rows have sound around their frames, and `wrong` 1 "
                f"to twice that, found {self.most_shift} and {self.wrong}",
            )


T = TypeVar("T")
_MARGIN = SOUND_MARGIN * 25 // SAMPLE_RATE


def override(config: T, assignments: dict[str, str], where: str = "--set") -> T:
    """The same kind of config with ``{"data.clips": "16"}`` style values laid over it.

    Raises ConfigError naming the key, what was found and what is allowed.
    """
    raw = asdict(config)  # type: ignore[call-overload]
    for dotted, text in assignments.items():
        _assign(raw, dotted, yaml.safe_load(text), where)
    try:
        return TypeAdapter(type(config)).validate_python(raw)
    except ValidationError as error:
        raise ConfigError(where, "; ".join(_sentence(e) for e in error.errors())) from error


def to_json(config: RunSettings) -> str:
    """The whole config as JSON; ``from_json`` with its type gives an equal one back."""
    return TypeAdapter(type(config)).dump_json(config).decode()


def from_json(text: str, kind: type[T]) -> T:
    return TypeAdapter(kind).validate_json(text)


def _assign(raw: dict[str, Any], dotted: str, value: Any, where: str) -> None:
    *path, last = dotted.split(".")
    group = raw
    for key in path:
        if not isinstance(group.get(key), dict):
            raise ConfigError(f"{where} {dotted}", f"no group of settings `{key}`; there are {sorted(group)}")
        group = group[key]
    if last not in group:
        raise ConfigError(f"{where} {dotted}", f"no such setting `{last}`; there are {sorted(group)}")
    group[last] = value


def _sentence(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    return f"`{key}`: {error['msg'][:1].lower()}{error['msg'][1:]}, found {error['input']!r}"
