"""Typed, frozen settings of a dubbing run, and the one place that reads them from a file.

Inside the program settings are plain frozen dataclasses, each beside the sentence that explains it. A settings
file (YAML or JSON) is checked by pydantic on the way in: unknown keys, wrong types and impossible values are a
ConfigError that names the key.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from talklip_ray.errors import ConfigError

STARTER = "starter"
"""The name of the weights that come with the package."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanConfig:
    """How a title is cut into segments. Any cut gives the same frames; only speed and memory differ."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    segment_seconds: float = 10.0
    """Aim for segments of this length; a cut falls on a keyframe where one is near. 0: never cut."""
    lead_minutes: float = 10.0
    """How long before a run's deadline (`--until`) no more title is begun: about what its longest takes."""
    shard_titles: int = 1000
    """A catalog of more titles is planned in shards of so many: those without a product first."""

    def __post_init__(self) -> None:
        if self.shard_titles < 1:
            raise ConfigError("settings", f"`plan.shard_titles` must be 1 or more, found {self.shard_titles}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LocateConfig:
    """Where the face is in every frame."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    detector: Literal["centerface", "s3fd", "blazeface"] = "centerface"
    detector_weights: str = ""
    """Path or URI of the detector's weights; only CenterFace brings its own."""
    detect_every: int = 5
    """Detect on frames whose number in the title is a multiple of this, and on both sides of a cut."""
    detect_side: int = 640
    """Longer side of the picture the detector sees, in pixels."""
    min_score: float = 0.5
    min_face: int = 32
    """Faces lower than this many pixels are left alone."""
    smooth: int = 4
    """Boxes are averaged over this many frames to either side, never across a cut."""
    cut_threshold: float = 27.0
    """Mean change of hue, saturation and value (0 to 255) between two frames that makes a shot cut."""
    crop_side: int = 96


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateConfig:
    """Which weights repaint the crops, and how."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    weights: str = STARTER
    """``starter``, or the path or URI of a safetensors file made by ``talklip weights import`` or training."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the processor or GPU computes it natively, else fp32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: on Ray a GPU where `pools.generate` has any, which then must work, else the processor; without Ray a GPU if
    there is one."""
    batch_frames: int = 64
    """Crops that go through the network at once; halved where memory does not suffice."""
    deterministic: bool = False
    """Makes a product byte for byte the same whatever dies and is done again, however segments were batched and
    whichever languages were done before, as long as settings, versions and kind of processor or GPU stay the same
    (and every run that had a part in it had this set). The network works on one segment and language at a time, in
    batches of `batch_frames`, which lack of memory does not lower; on a processor with one thread a worker. x265, which
    encodes 10-bit pictures, does not repeat itself where their width is no multiple of eight; all else does.
    Without it patches may differ by rounding (1 of 255), so it is no part of a product's fingerprint: setting it
    does not redo a catalog.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class ComposeConfig:
    """How patches go back and parts are encoded."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    crf: int = 18
    """x264/x265 quality; 0 is lossless."""
    preset: str = "veryfast"
    feather: float = 0.12
    """Width of the mask's soft edge, as a share of the box's side."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AssembleConfig:
    """The final file."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    audio_bitrate_per_channel: int = 96_000
    """Bits per second and channel, where the dub has to be encoded (AAC)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaptConfig:
    """Fine-tuning of the network on one title's own picture and original sound, before that title is dubbed."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    minutes: float = 3.0
    """Budget of a title, wall-clock, from opening the video to the finished weights; 0: ``steps`` alone decides."""
    steps: int = 0
    """Most updates; 0: ``minutes`` alone decides. With minutes 0 the result is the same each time."""
    learns: Literal["all", "picture", "decoder"] = "all"
    """What is trained: everything, everything but the listener, or the part that paints."""
    still_norms: bool = True
    """Batch normalisation keeps the statistics of the weights it starts from; those of one face are few and alike."""
    learning_rate: float = 1e-3
    batch_frames: int = 8
    hide_identity: float = 0.5
    """How often, while training, the lower half of the frame that shows who it is is painted over. Dubbing shows it
    whole, mouth and all, and a network that has seen but a little of a face is quick to copy what it is shown.
    """
    brightness: float = 0.1
    """Largest change of a frame's brightness while training, as a share of it."""
    most_seconds: float = 60.0
    """Material held in memory, spread over the title; 3 MB a second at 25 frames a second."""
    piece_seconds: float = 10.0
    """Material is taken in pieces of this length."""
    hold_out: float = 0.15
    """The end of each piece, as a share of it, that is never trained on: the best weights on it are kept."""
    checks: int = 8
    """How often over the budget that is looked at."""
    seed: int = 0
    on_failure: Literal["dub", "fail"] = "dub"
    """A title that cannot be adapted to is dubbed with the run's own weights, and reported, or not dubbed."""
    cpus: float = 1.0
    """Of each title's task in a catalog run."""
    gpus: float = 0.0

    def __post_init__(self) -> None:
        for ok, rule in (
            (self.minutes > 0 or self.steps > 0, "`minutes` or `steps` must be positive: adapting needs a budget"),
            (self.minutes >= 0 and self.steps >= 0, "`minutes` and `steps` must not be negative"),
            (0 < self.hold_out <= 0.5, f"`hold_out` must be above 0 and at most 0.5, found {self.hold_out}"),
            (self.piece_seconds >= 2, f"`piece_seconds` must be at least 2, found {self.piece_seconds}"),
            (self.most_seconds >= 2, f"`most_seconds` must be at least 2, found {self.most_seconds}"),
            (self.batch_frames >= 2, f"`batch_frames` must be at least 2, found {self.batch_frames}"),
            (self.learning_rate > 0, f"`learning_rate` must be positive, found {self.learning_rate}"),
            (0 <= self.hide_identity <= 1, f"`hide_identity` must be in [0, 1], found {self.hide_identity}"),
            (0 <= self.brightness < 1, f"`brightness` must be in [0, 1), found {self.brightness}"),
            (self.checks >= 1, f"`checks` must be at least 1, found {self.checks}"),
        ):
            if not ok:
                raise ConfigError("adapt", rule)

    def learning(self) -> dict[str, Any]:
        """The settings that decide what is learnt: part of the adapted weights' name."""
        named = asdict(self)
        return {name: named[name] for name in named if name not in {"on_failure", "cpus", "gpus"}}


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """What a stage's workers need. Where they run is said here and nowhere in the stage."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    cpus: float = 1.0
    gpus: float = 0.0
    workers: tuple[int, int] = (1, 1)
    """Fewest and most workers."""
    first: int = 0
    """Workers a run begins with, for which an autoscaling cluster is asked for nodes; 0: the fewest, or, where the
    cluster may grow (``scale``), as many as its titles can keep busy.
    """
    memory: int = 0
    """Bytes to reserve for one worker, 0 for no reservation."""
    rows: int = 1
    """Segments handed to a worker at once."""

    def __post_init__(self) -> None:
        fewest, most = self.workers
        if not (1 <= fewest <= most and (not self.first or fewest <= self.first <= most)):
            found = f"{fewest} to {most}" + (f", first {self.first}" if self.first else "")
            rule = "`workers` must be fewest and most, 1 or more, and `first` between them"
            raise ConfigError("pools", f"{rule}, found {found}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pools:
    """Sizes of the stages' worker pools."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    plan: Pool = Pool(cpus=0.25, workers=(1, 4))
    locate: Pool = Pool(cpus=1.0, workers=(1, 64))
    listen: Pool = Pool(cpus=0.25, workers=(1, 16))
    generate: Pool = Pool(cpus=1.0, gpus=1.0, workers=(1, 16), rows=2)
    compose: Pool = Pool(cpus=1.0, workers=(1, 64))
    assemble: Pool = Pool(cpus=0.25, workers=(1, 16))


Encryption = Literal["", "AES256", "aws:kms"]
CannedAcl = Literal[
    "",
    "private",
    "public-read",
    "public-read-write",
    "authenticated-read",
    "aws-exec-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
]
_ROLE = re.compile(r"arn:[\w-]+:iam:[\w-]*:\d*:role/[\w+=,.@/-]+")
_SESSION_NAME = re.compile(r"[\w+=,.@-]{2,64}", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class StorageConfig:
    """How to reach S3, and how objects are written to it; other clouds take theirs from the environment.

    Credentials come from the usual AWS chain, never from here. None of this is kept in what a run records: it may
    name private things.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    endpoint_url: str = ""
    """S3 endpoint when it is not AWS's; "" leaves it to AWS_ENDPOINT_URL and the AWS config file."""
    region: str = ""
    attempts: int = 6
    """How often a request is tried, with growing random pauses, before its failure counts."""
    role_arn: str = ""
    """Role to assume with the credentials that the chain finds; what it gives is renewed before it expires."""
    role_session_name: str = "talklip"
    """Names the session in the logs of the account that owns the role."""
    external_id: str = ""
    """What the role's trust policy asks of other accounts."""
    sts_endpoint_url: str = ""
    """Where roles are assumed when it is not AWS's; "" leaves it to AWS_ENDPOINT_URL_STS and the AWS config file."""
    encryption: Encryption = ""
    """Server-side encryption to ask for with every object written; "" leaves it to the bucket."""
    kms_key: str = ""
    """Key of ``aws:kms``, as ID or ARN; "" for the account's own."""
    acl: CannedAcl = ""
    """Canned ACL of every object written; "" sends none, as buckets without ACLs want it."""
    request_payer: bool = False
    """Pay for requests to buckets whose owner lets the requester pay."""

    def __post_init__(self) -> None:
        of_a_role = [name for name in ("external_id", "sts_endpoint_url") if getattr(self, name) and not self.role_arn]
        encryptions, acls = get_args(Encryption), get_args(CannedAcl)
        for ok, rule in (
            (self.attempts >= 1, f"`attempts` must be 1 or more, found {self.attempts}"),
            (
                not self.role_arn or _ROLE.fullmatch(self.role_arn),
                f"`role_arn` must read as `arn:aws:iam::<account>:role/<name>`, found {self.role_arn!r}",
            ),
            (not of_a_role, f"`{'`, `'.join(of_a_role)}` must come with a `role_arn`, found none"),
            (
                self.sts_endpoint_url.startswith(("http://", "https://")) or not self.sts_endpoint_url,
                "`sts_endpoint_url` must begin with http:// or https://, found something else",
            ),
            (
                _SESSION_NAME.fullmatch(self.role_session_name),
                f"`role_session_name` must be 2 to 64 letters, digits and `_+=,.@-`, found {self.role_session_name!r}",
            ),
            (self.encryption in encryptions, f"`encryption` must be {_listed(encryptions)}, found {self.encryption!r}"),
            (
                not self.kms_key or self.encryption == "aws:kms",
                f"`kms_key` must come with `encryption` aws:kms, found {self.encryption or 'none'}",
            ),
            (self.acl in acls, f"`acl` must be {_listed(acls)}, found {self.acl!r}"),
        ):
            if not ok:
                raise ConfigError("storage", rule)


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultsConfig:
    """What is done about work that fails."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    attempts: int = 3
    """How often a stage is tried on a segment where another try may help: throttling, resets, lack of memory."""
    pause_seconds: float = 1.0
    """Longest pause before the second try; it doubles with every further one, and is drawn at random."""
    stage_seconds: float = 900.0
    """Longest a stage of a run may take over what it works on at once; then its process is killed. 0: for ever."""
    most_failed: float = 1.0
    """Stop the run once more than this share of titles has failed (after the first 20); 1 never stops."""

    def __post_init__(self) -> None:
        for ok, rule in (
            (self.attempts >= 1, f"`faults.attempts` must be 1 or more, found {self.attempts}"),
            (self.pause_seconds >= 0, f"`faults.pause_seconds` must not be negative, found {self.pause_seconds}"),
            (self.stage_seconds >= 0, f"`faults.stage_seconds` must not be negative, found {self.stage_seconds}"),
        ):
            if not ok:
                raise ConfigError("settings", rule)


@dataclass(frozen=True, kw_only=True, slots=True)
class BoundsConfig:
    """How much a run may hold, in 10^9 bytes; 0: as much as there is."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    process_gb: float = 0.0
    """Memory a worker may allocate; the object store and a GPU's memory do not count. More is a MemoryError of the
    segment's, and not the end of the machine."""
    object_store_gb: float = 0.0
    """Of Ray's object store, for all that is between the stages. 0: what Ray Data takes for itself, half of it."""
    scratch_gb: float = 0.0
    """Temporary disk for the assembly of one title and language, which takes twice its size. At most
    `pools.assemble.workers` are assembled at once."""

    def __post_init__(self) -> None:
        for name in ("process_gb", "object_store_gb", "scratch_gb"):
            if not getattr(self, name) >= 0:
                raise ConfigError("settings", f"`bounds.{name}` must not be negative, found {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleConfig:
    """How far a run may grow a cluster that scales itself: Ray's autoscaler tells nobody how far that can be. What is
    there as the run begins it may use in any case.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    cpus: float = 0.0
    """Most CPUs; 0: those there are, or as many as a cluster says itself that it can get."""
    gpus: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PricesConfig:
    """What machines cost; nothing is known where both are 0."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    core_hour: float = 0.0
    gpu_hour: float = 0.0
    currency: str = "USD"


@dataclass(frozen=True, kw_only=True, slots=True)
class DubConfig:
    """A whole dubbing run."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    plan: PlanConfig = field(default_factory=PlanConfig)
    locate: LocateConfig = field(default_factory=LocateConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    compose: ComposeConfig = field(default_factory=ComposeConfig)
    assemble: AssembleConfig = field(default_factory=AssembleConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    adapt: AdaptConfig | None = None
    """None: every title is dubbed with the run's weights as they are."""
    pools: Pools | None = None
    """None: sized to the machine or cluster the run finds itself on, or to what that may grow to."""
    scale: ScaleConfig = field(default_factory=ScaleConfig)
    faults: FaultsConfig = field(default_factory=FaultsConfig)
    prices: PricesConfig = field(default_factory=PricesConfig)
    bounds: BoundsConfig = field(default_factory=BoundsConfig)
    logs: Literal["text", "json"] = "text"
    """json: every process of a run says what it does in JSON, a line an object, with the ids of run, stage, title,
    segment and attempt.
    """

    def pixels(self) -> dict[str, Any]:
        """The settings that change picture or sound: part of every fingerprint.

        Weights count by their digest, not by where they lie. Batches, and whether their making is deterministic, move
        a patch by rounding at most.
        """
        whole = asdict(self)
        named = {name: whole[name] for name in ("locate", "compose", "assemble")}
        return named | {"generate": {"precision": self.generate.precision}}


def load(path: Path | None = None, overrides: dict[str, str] | None = None) -> DubConfig:
    """Settings from a YAML or JSON file, with ``{"compose.crf": "20"}`` style overrides on top.

    Raises ConfigError naming the key, what was found and what is allowed.
    """
    raw: Any = {}
    where = str(path) if path else "settings"
    if path is not None:
        try:
            raw = yaml.safe_load(path.read_text()) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(where, f"settings must be a readable YAML or JSON file: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(where, f"settings must be a mapping of keys to values, found {type(raw).__name__}")
    for dotted, value in (overrides or {}).items():
        _assign(raw, dotted, yaml.safe_load(value))
    try:
        return TypeAdapter(DubConfig).validate_python(raw)
    except ValidationError as error:
        raise ConfigError(where, "; ".join(_sentence(e) for e in error.errors())) from error


def _assign(raw: dict[str, Any], dotted: str, value: Any) -> None:
    *path, last = dotted.split(".")
    for key in path:
        raw = raw.setdefault(key, {})
        if not isinstance(raw, dict):
            raise ConfigError(f"--set {dotted}", f"`{key}` is a value, not a group of settings")
    raw[last] = value


def _listed(values: tuple[str, ...]) -> str:
    return "empty, " + ", ".join(values[1:-1]) + f" or {values[-1]}"


def _sentence(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    return f"`{key}`: {error['msg'][:1].lower()}{error['msg'][1:]}, found {error['input']!r}"
