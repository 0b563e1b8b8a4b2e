"""Fine-tunes a network on one title's own picture and sound. Knows neither Ray nor catalogs.

The network learns the title's face from its own frames, with their mouths hidden, and the sound that goes with
them; who it is, is shown by another frame of the same shot, so that no frame gives its own mouth away. Dubbing shows
the very frame instead, and copying its mouth would be dubbing nothing: half of the time the identity's lower half is
painted over, which unlearns that (``Adapted.copies``). A network that repaints the mouth alone covers it itself and is
shown the very frame.

Frames at the end of each piece are never trained on. The weights that paint those best are the result: maybe those it
began with.

Shapes: N frames of a batch, S crop side.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from talklip_ray.config import AdaptConfig, LocateConfig
from talklip_ray.errors import TitleError
from talklip_ray.faces.detect import Detector
from talklip_ray.media.features import Voice
from talklip_ray.models.checkpoints import Header, load_network, save_network
from talklip_ray.models.inputs import picture
from talklip_ray.models.talklip import NetworkConfig, TalkLip
from talklip_ray.storage.store import Store
from talklip_ray.training.batches import Batch, assemble
from talklip_ray.training.config import Decay, EngineConfig, EngineKind, OptimizerConfig
from talklip_ray.training.engine import Engine, build_engine
from talklip_ray.training.losses import reconstruction
from talklip_ray.training.material import Material, Subject, gather
from talklip_ray.training.reading import Sample
from talklip_ray.training.schedule import learning_rate
from talklip_ray.training.windows import Window

FORMAT_VERSION = 1
"""Raised whenever the code makes other weights from the same material and settings."""
WARMUP = 0.05
LEAST_TRAINING = 0.2
"""Share of a budget in minutes that must be left for training when it begins."""
MOST_HELD_OUT = 128
"""Held-out frames looked at, spread evenly."""
MOST_CLIPS = 4
"""Pieces a batch draws from where the network hears whole pieces (variants g and gc)."""
LICENCE = "Adapted to one title by its user: the terms of its footage apply, and those of the weights it began with"

Tell = Callable[["Told"], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """How far an adaptation is."""

    share: float
    """Of the budget, 0 to 1."""
    step: int
    l1: float
    """Of the last batch; NaN before the first."""
    held_out: float
    """L1 on the frames held out, of the best weights so far."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapted:
    """What an adaptation came to. L1 is the mean absolute difference over the patch, pixels in 0 .. 1."""

    steps: int
    best_step: int
    """The update after which the held-out frames were painted best; 0: the weights are those it began with."""
    minutes: float
    """All of it: reading, finding faces, training, looking."""
    l1_before: float
    """On the held-out frames."""
    l1_after: float
    l1_other_sound: float
    """As ``l1_after``, but heard with sound from elsewhere: what is not above it does not listen."""
    copies: float
    """Share of a change of the identity's mouth that comes through when a frame is its own identity, as in dubbing:
    0 is as it should be, at 1 the mouth is the one that is shown, whatever is heard.
    """
    frames: int
    """Frames it could learn from."""
    frames_held_out: int
    seconds: float
    """Length of the pieces they are from."""
    tensors_sha256: str = ""
    etag: str = ""
    """Version of the video."""

    def facts(self) -> dict[str, Any]:
        """For records and headers: plain values, rounded."""
        named = {name: value for name, value in asdict(self).items() if name != "tensors_sha256"}
        return {name: round(value, 5) if isinstance(value, float) else value for name, value in named.items()}


def fingerprint(start: str, etags: Sequence[str], config: AdaptConfig, locate: LocateConfig) -> str:
    """64 hex digits that name the inputs of an adaptation: the digest of the weights it starts from, the versions of
    picture and sound, and what decides what is learnt from them.
    """
    named = {
        "format": FORMAT_VERSION,
        "start": start,
        "sources": list(etags),
        "adapt": config.learning(),
        "locate": asdict(locate),
    }
    return hashlib.sha256(json.dumps(named, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def adapt(
    store: Store,
    subject: Subject,
    start: Path | NetworkConfig,
    config: AdaptConfig,
    out: Path,
    *,
    locate: LocateConfig,
    detector: Detector,
    device: torch.device | None = None,
    tell: Tell = lambda told: None,
) -> Adapted:
    """Adapt ``start``, weights or a network that knows nothing yet, to a title; writes the weights to ``out``.

    With steps alone for a budget the result is the same each time. Raises TitleError where the title cannot be
    adapted to, and says what to do; WeightsError, StoreError.
    """
    begun = time.monotonic()
    torch.manual_seed(config.seed)
    network, header = _begin(start)
    material = gather(store, subject, config, locate, network.config.voice, detector)
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = Trainer(network, material, config, device, from_nothing=isinstance(start, NetworkConfig))
    adapted = trainer.run(begun, tell)
    adapted = replace(adapted, etag=material.etag)
    notes = {"adapted": adapted.facts(), "start": header.tensors_sha256, "settings": config.learning()}
    licence = f"{LICENCE}: {header.licence}" if header.licence else LICENCE
    saved = save_network(out, trainer.network, Header(licence=licence, source=subject.video, notes=notes))
    return replace(adapted, tensors_sha256=saved.tensors_sha256, minutes=(time.monotonic() - begun) / 60)


def _begin(start: Path | NetworkConfig) -> tuple[TalkLip, Header]:
    if isinstance(start, NetworkConfig):
        return start.build(), Header(licence="")
    network, header = load_network(start)
    return network, header


@dataclass(kw_only=True)
class _Best:
    """The weights that painted the held-out frames best."""

    l1: float
    step: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)


class Trainer:
    """A network and the material it is to learn."""

    def __init__(
        self, network: TalkLip, material: Material, config: AdaptConfig, device: torch.device, *, from_nothing: bool
    ) -> None:
        """``from_nothing``: everything must learn, normalisation too, whatever ``config`` says."""
        self.config, self.material, self.device = config, material, device
        self.still = config.still_norms and not from_nothing
        self.learns = "all" if from_nothing else config.learns
        self.optimizer = OptimizerConfig(
            learning_rate=config.learning_rate, betas=(0.9, 0.999), warmup=WARMUP, decay=Decay.COSINE
        )
        _choose(network, self.learns)
        engine = EngineConfig(kind=EngineKind.PLAIN, channels_last=True)
        self.engine: Engine = build_engine(network, engine, self.optimizer, device)
        self.train = material.frames(held_out=False)
        held_out = material.frames(held_out=True)
        spread = np.unique(np.linspace(0, len(held_out) - 1, min(len(held_out), MOST_HELD_OUT)).round().astype(int))
        self.valid = [held_out[at] for at in spread]

    @property
    def network(self) -> TalkLip:
        network = self.engine.network
        assert isinstance(network, TalkLip)
        return network

    def run(self, begun: float, tell: Tell) -> Adapted:
        """Spend the budget; the network ends as the best it was."""
        looked = time.monotonic()
        before = self.held_out_l1()
        clock = _Clock(self.config, begun, reserve=2 * (time.monotonic() - looked))
        best = _Best(l1=before, state=self._state())
        step, l1, checked = 0, math.nan, 0
        tell(Told(share=0.0, step=0, l1=l1, held_out=before))
        while checked < self.config.checks:
            share = clock.share(step)
            if share * self.config.checks >= checked + 1:
                checked = int(share * self.config.checks)
                found = self.held_out_l1()
                if found < best.l1:
                    best = _Best(l1=found, step=step, state=self._state())
                if not math.isfinite(found):
                    break
                continue
            l1 = self._step(step, learning_rate(self.optimizer, share))
            step += 1
            tell(Told(share=min(1.0, share), step=step, l1=l1, held_out=best.l1))
        self.network.load_state_dict(best.state)
        other = self.held_out_l1(other_sound=True)
        tell(Told(share=1.0, step=step, l1=l1, held_out=best.l1))
        return Adapted(
            steps=step,
            best_step=best.step,
            minutes=(time.monotonic() - begun) / 60,
            l1_before=before,
            l1_after=best.l1,
            l1_other_sound=other,
            copies=self.copies(),
            frames=len(self.train),
            frames_held_out=len(self.valid),
            seconds=self.material.seconds,
        )

    def _step(self, step: int, rate: float) -> float:
        self.network.train()
        _hold(self.network, norms=self.still, listener=self.learns != "all")
        batch = self._drawn(step).to(self.device)
        loss = reconstruction(self.engine(*batch.inputs()).patches_N3SS, batch.targets_N3SS)
        self.engine.backward(loss)
        self.engine.step(rate)
        return float(loss.detach())

    def _drawn(self, step: int) -> Batch:
        """The batch of a step: a function of the seed and the step."""
        rng = np.random.default_rng((self.config.seed, step))
        frames = self.train
        if self.network.config.voice is Voice.GLOBAL:
            some = set(rng.choice(len(self.material.stretches), min(MOST_CLIPS, len(self.material.stretches)), False))
            frames = [place for place in frames if place[0] in some] or frames
        chosen = [frames[at] for at in rng.integers(len(frames), size=self.config.batch_frames)]
        batch = self._batch((number, self._window(number, frame, rng=rng)) for number, frame in chosen)
        if self.network.config.mouth_only:
            return batch
        identities_NSSC = batch.identities_NSSC.clone()
        for at in np.flatnonzero(rng.random(len(chosen)) < self.config.hide_identity):
            colour_3 = torch.from_numpy(rng.integers(0, 256, 3, np.uint8))
            identities_NSSC[at, identities_NSSC.shape[1] // 2 :] = colour_3
        return replace(batch, identities_NSSC=identities_NSSC)

    def _window(self, number: int, frame: int, *, rng: np.random.Generator | None = None) -> Window:
        """A frame to paint and one to show who it is: drawn by ``rng``, else the middle one of those there are."""
        own = self.network.config.mouth_only  # its mouth is covered; all else must be the frame's own
        others = np.array([frame]) if own else self.material.stretches[number].identities(frame)
        if rng is None:
            return Window(pose=frame, identity=int(others[len(others) // 2]), length=1)
        gain = 1.0 + rng.uniform(-self.config.brightness, self.config.brightness)
        return Window(pose=frame, identity=int(rng.choice(others)), length=1, gain=float(gain))

    def _batch(self, windows: Iterable[tuple[int, Window]], *, other_sound: bool = False) -> Batch:
        by_stretch: dict[int, list[Window]] = defaultdict(list)
        for number, window in windows:
            by_stretch[number].append(window)
        chosen = [(self._sample(number, other_sound), listed) for number, listed in by_stretch.items()]
        return assemble(chosen, self.network.config)

    def _sample(self, number: int, other_sound: bool) -> Sample:
        sample = self.material.stretches[number].sample
        if not other_sound:
            return sample
        features_AF = sample.voice.features_AF
        return replace(sample, voice=replace(sample.voice, features_AF=np.roll(features_AF, len(features_AF) // 2, 0)))

    @torch.no_grad()
    def held_out_l1(self, *, other_sound: bool = False) -> float:
        """Mean L1 a frame, as the network would dub. ``other_sound``: the piece's, half a piece away."""
        self.network.eval()
        total = 0.0
        for at in range(0, len(self.valid), self.config.batch_frames):
            places = self.valid[at : at + self.config.batch_frames]
            windows = [(number, self._window(number, frame)) for number, frame in places]
            batch = self._batch(windows, other_sound=other_sound).to(self.device)
            l1 = reconstruction(self.engine(*batch.inputs()).patches_N3SS, batch.targets_N3SS)
            total += float(l1) * batch.num_frames
        return total / len(self.valid)

    @torch.no_grad()
    def copies(self) -> float:
        """See ``Adapted.copies``: on the held-out frames, with the lower half of another frame for a change."""
        self.network.eval()
        shared, changed = 0.0, 0.0
        for at in range(0, len(self.valid), self.config.batch_frames):
            places = self.valid[at : at + self.config.batch_frames]
            other = self._batch((number, self._window(number, frame)) for number, frame in places)
            middle = other.poses_NSSC.shape[1] // 2
            mixed_NSSC = other.poses_NSSC.clone()
            mixed_NSSC[:, middle:] = other.identities_NSSC[:, middle:]
            own, mixed = (
                replace(other, identities_NSSC=shown).to(self.device) for shown in (other.poses_NSSC, mixed_NSSC)
            )
            asked = _mouth(own.targets_N3SS - picture(mixed.identities_NSSC))
            given = _mouth(self.engine(*own.inputs()).patches_N3SS - self.engine(*mixed.inputs()).patches_N3SS)
            shared, changed = shared + float((asked * given).sum()), changed + float((asked * asked).sum())
        return shared / max(changed, 1e-9)

    def _state(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()}


class _Clock:
    """How much of the budget is spent."""

    def __init__(self, config: AdaptConfig, begun: float, reserve: float) -> None:
        """``begun``: when the whole adaptation began, on the monotonic clock; ``reserve``: seconds for its end."""
        self.steps, self.started = config.steps, time.monotonic()
        self.seconds = begun + 60 * config.minutes - reserve - self.started if config.minutes else 0.0
        if config.minutes and self.seconds < LEAST_TRAINING * 60 * config.minutes:
            raise TitleError(
                "adapt.minutes",
                f"finding faces and looking at the result must leave time to learn, found {self.seconds:.0f} s left of "
                f"{60 * config.minutes:.0f} s; raise `adapt.minutes` or lower `adapt.most_seconds`",
            )

    def share(self, step: int) -> float:
        by_steps = step / self.steps if self.steps else 0.0
        by_time = (time.monotonic() - self.started) / self.seconds if self.seconds else 0.0
        return max(by_steps, by_time)


def _mouth(pictures_N3SS: Tensor) -> Tensor:
    """The part of a face crop where a mouth is."""
    side = pictures_N3SS.shape[-1]
    return pictures_N3SS[:, :, side * 5 // 8 :, side // 4 : side * 3 // 4].float()


def _choose(network: TalkLip, learns: str) -> None:
    """Let learn what is to learn, and nothing else."""
    painting: list[nn.Module] = [network.generator]
    if learns == "picture":
        painting += [network.video_encoder, *([network.audio_map] if hasattr(network, "audio_map") else [])]
    if learns != "all":
        network.requires_grad_(False)
        for part in painting:
            part.requires_grad_(True)
    network.listener_learns = learns == "all"


def _hold(network: TalkLip, *, norms: bool, listener: bool) -> None:
    """Keep the statistics of all normalisations still, and the listener as it dubs: without dropout."""
    for module in network.modules():
        if norms and isinstance(module, nn.BatchNorm2d):
            module.eval()
    if listener:
        (network.local_listener if hasattr(network, "local_listener") else network.global_listener).eval()
