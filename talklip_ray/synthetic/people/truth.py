"""All that is known of a clip of people who do not exist, and the Parquet files it is kept in: a row a clip.

    id, kind            string       the clip's name; "plain" or the hard case
    held_out            bool         its people, voice, sentence and language are not among training's
    seed                int64
    width, height       int32        of the picture, pixels
    rate                string       frames a second, an exact fraction such as "30000/1001"
    num_frames          int32
    crf                 int32        of the file's H.264
    duration            double       of the sound, seconds
    sample_rate         int32        of the sound
    text, language      string       what is said; ISO 639-1
    engine, voice       string       who says it
    words_per_minute, pitch, speed   as asked of the voice
    phonemes            list<string> IPA, "" for a pause
    phoneme_times       list<double> start and end of each, seconds of the clip
    words               list<string>
    word_times          list<double> likewise
    frame               list<int32>  from here on an entry for every actor of every frame, in the order of frames
    actor               list<int32>  position in its shot, the furthest first
    person              list<int64>  who: the seed of the person
    speaks              list<bool>   says what is heard, now or in another frame of the shot
    present             list<bool>   at least half of the face is in the picture
    covered             list<bool>   something is held before the mouth
    opening             list<float>  between the lips on the midline, face heights (figure.FACE_HEIGHT)
    width_of_mouth      list<float>  corner to corner, face heights
    protrusion          list<float>  of the lips' edges beyond rest, face heights
    lips                list<float>  12 an entry: x, y in pixels of figure.LIP_POINTS
    turned              list<float>  3 an entry: yaw (to the actor's left), pitch (down) and roll, degrees
    box                 list<float>  4 an entry: x0, y0, x1, y1 in pixels, chin to hairline, may reach outside

Shapes: N entries, P lip points.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from talklip_ray.errors import ConfigError
from talklip_ray.synthetic.people.casting import ClipSpec
from talklip_ray.synthetic.people.figure import LIP_POINTS
from talklip_ray.synthetic.people.film import Seen
from talklip_ray.synthetic.people.voices import Phoneme, Said, Word

SCHEMA_VERSION = 1
_NOTE = b"talklip.people"
_STRINGS, _FLOATS, _FLAGS = pa.list_(pa.string()), pa.list_(pa.float32()), pa.list_(pa.bool_())
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "kind")),
        ("held_out", pa.bool_()),
        ("seed", pa.int64()),
        *((name, pa.int32()) for name in ("width", "height")),
        ("rate", pa.string()),
        *((name, pa.int32()) for name in ("num_frames", "crf")),
        ("duration", pa.float64()),
        ("sample_rate", pa.int32()),
        *((name, pa.string()) for name in ("text", "language", "engine", "voice")),
        *((name, pa.int32()) for name in ("words_per_minute", "pitch")),
        ("speed", pa.float64()),
        ("phonemes", _STRINGS),
        ("phoneme_times", pa.list_(pa.float64())),
        ("words", _STRINGS),
        ("word_times", pa.list_(pa.float64())),
        *((name, pa.list_(pa.int32())) for name in ("frame", "actor")),
        ("person", pa.list_(pa.int64())),
        *((name, _FLAGS) for name in ("speaks", "present", "covered")),
        *((name, _FLOATS) for name in ("opening", "width_of_mouth", "protrusion", "lips", "turned", "box")),
    ]
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sightings:
    """Every actor of every frame, in the order of frames."""

    frame_N: NDArray[np.int32]
    actor_N: NDArray[np.int32]
    person_N: NDArray[np.int64]
    speaks_N: NDArray[np.bool_]
    present_N: NDArray[np.bool_]
    covered_N: NDArray[np.bool_]
    opening_N: NDArray[np.float32]
    width_N: NDArray[np.float32]
    protrusion_N: NDArray[np.float32]
    lips_NP2: NDArray[np.float32]
    turned_N3: NDArray[np.float32]
    box_N4: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.frame_N)

    def where(self, chosen_N: NDArray[Any]) -> Sightings:
        """Some of them, by a mask or by numbers."""
        return Sightings(**{name: getattr(self, name)[chosen_N] for name in Sightings.__dataclass_fields__})

    @classmethod
    def of(cls, seen: Sequence[Sequence[Seen]]) -> Sightings:
        """From what a film tells of each frame."""
        rows = [(at, one) for at, several in enumerate(seen) for one in several]

        def column(name: str, kind: Any, *shape: int) -> NDArray[Any]:
            return np.array([getattr(one, name) for _, one in rows], kind).reshape(len(rows), *shape)

        return cls(
            frame_N=np.array([at for at, _ in rows], np.int32),
            actor_N=column("actor", np.int32),
            person_N=column("person", np.int64),
            speaks_N=column("speaks", np.bool_),
            present_N=column("present", np.bool_),
            covered_N=column("covered", np.bool_),
            opening_N=column("opening", np.float32),
            width_N=column("width", np.float32),
            protrusion_N=column("protrusion", np.float32),
            lips_NP2=column("lips_P2", np.float32, len(LIP_POINTS), 2),
            turned_N3=column("turned", np.float32, 3),
            box_N4=column("box", np.float32, 4),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipTruth:
    """What is known of one clip; see the module for each field's meaning and unit."""

    id: str
    kind: str
    held_out: bool
    seed: int
    size: tuple[int, int]
    rate: Fraction
    num_frames: int
    crf: int
    duration: float
    sample_rate: int
    text: str
    language: str
    engine: str
    voice: str
    words_per_minute: int
    pitch: int
    speed: float
    phonemes: tuple[Phoneme, ...]
    words: tuple[Word, ...]
    seen: Sightings

    @classmethod
    def of(cls, spec: ClipSpec, said: Said, num_frames: int, seen: Sequence[Sequence[Seen]]) -> ClipTruth:
        """``said`` is on the clip's clock, the quiet around it included."""
        return cls(
            id=spec.id,
            kind=spec.kind,
            held_out=spec.held_out,
            seed=spec.seed,
            size=spec.size,
            rate=spec.rate,
            num_frames=num_frames,
            crf=spec.crf,
            duration=said.duration,
            sample_rate=said.rate,
            text=spec.line.text,
            language=spec.line.voice.language,
            engine=spec.line.voice.engine,
            voice=spec.line.voice.name,
            words_per_minute=spec.line.words_per_minute,
            pitch=spec.line.pitch,
            speed=spec.speed,
            phonemes=said.phonemes,
            words=said.words,
            seen=Sightings.of(seen),
        )

    @property
    def people(self) -> tuple[int, ...]:
        """Everybody in it, once."""
        return tuple(dict.fromkeys(self.seen.person_N.tolist()))

    def opening(self, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Opening, in face heights, of whoever speaks at these times; 0 where nobody does and outside the film."""
        opening_T = np.zeros(self.num_frames)
        speaks_N = self.seen.speaks_N
        opening_T[self.seen.frame_N[speaks_N]] = self.seen.opening_N[speaks_N]
        times_T = np.arange(self.num_frames) / float(self.rate)
        return np.asarray(np.interp(seconds, times_T, opening_T, left=0.0, right=0.0), np.float64)


def write_truths(path: Path, truths: Sequence[ClipTruth], note: dict[str, Any] | None = None) -> None:
    """One file of many clips. ``note``: plain values that are kept with it."""
    table = pa.Table.from_pylist([_row(truth) for truth in truths], schema=SCHEMA)
    told = json.dumps({"schema": SCHEMA_VERSION, "note": note or {}}, sort_keys=True)
    pq.write_table(table.replace_schema_metadata({_NOTE: told}), path, compression="zstd", row_group_size=16)


def read_truths(file: BinaryIO | Path, where: str = "") -> tuple[list[ClipTruth], dict[str, Any]]:
    """All of a file, and the note. Raises ConfigError where it is damaged or of another schema."""
    where = where or str(file)
    try:
        table = pq.read_table(file)
        told = json.loads((table.schema.metadata or {})[_NOTE])
        if told["schema"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {told['schema']}, not {SCHEMA_VERSION}")
        return [_truth(row) for row in table.to_pylist()], dict(told["note"])
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            where, f"truth must be Parquet as jobs/synthesize.py writes it, found: {error}; make it again"
        ) from error


_PLAIN = (
    *("id", "kind", "held_out", "seed", "num_frames", "crf", "duration", "sample_rate", "text", "language"),
    *("engine", "voice", "words_per_minute", "pitch", "speed"),
)
_COLUMNS = {
    "frame": "frame_N",
    "actor": "actor_N",
    "person": "person_N",
    "speaks": "speaks_N",
    "present": "present_N",
    "covered": "covered_N",
    "opening": "opening_N",
    "width_of_mouth": "width_N",
    "protrusion": "protrusion_N",
    "lips": "lips_NP2",
    "turned": "turned_N3",
    "box": "box_N4",
}
_SHAPES: dict[str, tuple[int, ...]] = {"lips": (len(LIP_POINTS), 2), "turned": (3,), "box": (4,)}


def _row(truth: ClipTruth) -> dict[str, Any]:
    return {
        **{name: getattr(truth, name) for name in _PLAIN},
        "width": truth.size[0],
        "height": truth.size[1],
        "rate": str(truth.rate),
        "phonemes": [one.symbol for one in truth.phonemes],
        "phoneme_times": [time for one in truth.phonemes for time in (one.start, one.end)],
        "words": [one.text for one in truth.words],
        "word_times": [time for one in truth.words for time in (one.start, one.end)],
        **{name: getattr(truth.seen, field).ravel() for name, field in _COLUMNS.items()},
    }


def _truth(row: dict[str, Any]) -> ClipTruth:
    count = len(row["frame"])
    seen = {
        field: np.array(row[name], SCHEMA.field(name).type.value_type.to_pandas_dtype()).reshape(
            count, *_SHAPES.get(name, ())
        )
        for name, field in _COLUMNS.items()
    }
    sounds = zip(row["phonemes"], _pairs(row["phoneme_times"]), strict=True)
    words = zip(row["words"], _pairs(row["word_times"]), strict=True)
    return ClipTruth(
        **{name: row[name] for name in _PLAIN},
        size=(row["width"], row["height"]),
        rate=Fraction(row["rate"]),
        phonemes=tuple(Phoneme(symbol, *times) for symbol, times in sounds),
        words=tuple(Word(text, *times) for text, times in words),
        seen=Sightings(**seen),
    )


def _pairs(times: Sequence[float]) -> list[tuple[float, float]]:
    return list(zip(times[::2], times[1::2], strict=True))
