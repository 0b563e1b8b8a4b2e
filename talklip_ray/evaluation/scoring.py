"""What was measured of several clips, a row each, and of all of them together.

A clip that could not be measured is a row with its error: it counts in no mean, and stops nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from talklip_ray.evaluation.reading import word_error_rate
from talklip_ray.models.offsets import SyncScore


@dataclass(frozen=True, kw_only=True, slots=True)
class SyncRow:
    """The lip-sync error of one clip; None where there is none."""

    clip: str
    audio: str = ""
    """Whose sound it was; "": its own."""
    distance: float | None = None
    """LSE-D."""
    confidence: float | None = None
    """LSE-C."""
    offset: int | None = None
    """Frames by which the best fitting sound comes early."""
    windows: int | None = None
    error: str = ""

    @classmethod
    def of(cls, clip: str, score: SyncScore, audio: str = "") -> SyncRow:
        return cls(
            clip=clip,
            audio=audio,
            distance=score.distance,
            confidence=score.confidence,
            offset=score.offset,
            windows=score.num_windows,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadRow:
    """What a lip reader read in one clip."""

    clip: str
    read: str = ""
    text: str = ""
    """What was said; "" where nobody knows."""
    faces: float | None = None
    """Share of its frames that show a face, where one was looked for."""
    note: str = ""
    error: str = ""

    @property
    def counts(self) -> bool:
        """Whether its words can be held against what was said."""
        return not self.error and bool(self.text.split())

    @property
    def word_error_rate(self) -> float | None:
        return word_error_rate([self.text], [self.read]) if self.counts else None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"word_error_rate": self.word_error_rate}


def mean_scores(rows: Sequence[SyncRow]) -> tuple[float, float] | None:
    """LSE-D and LSE-C as the paper gives them: means over clips, each counting once however long."""
    distances = [row.distance for row in rows if row.distance is not None]
    confidences = [row.confidence for row in rows if row.confidence is not None]
    if not distances:
        return None
    return sum(distances) / len(distances), sum(confidences) / len(confidences)


def total_word_error_rate(rows: Sequence[ReadRow]) -> float | None:
    """Wrong words of all clips over all words said, so a long sentence counts more; None where no text is known."""
    known = [row for row in rows if row.counts]
    return word_error_rate([row.text for row in known], [row.read for row in known]) if known else None


def sync_report(rows: Sequence[SyncRow]) -> dict[str, Any]:
    """For a JSON file."""
    means = mean_scores(rows)
    return {
        "clips": [asdict(row) for row in rows],
        "num_scored": sum(not row.error for row in rows),
        "mean_distance": means and means[0],
        "mean_confidence": means and means[1],
    }


def read_report(rows: Sequence[ReadRow]) -> dict[str, Any]:
    """For a JSON file."""
    return {
        "clips": [row.to_dict() for row in rows],
        "num_read": sum(not row.error for row in rows),
        "num_with_text": sum(row.counts for row in rows),
        "word_error_rate": total_word_error_rate(rows),
    }
