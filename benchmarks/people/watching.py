"""Dubbing a file in this process, and looking at what came of it, frame by frame beside the source.

Shapes: T frames of the file; H x W pixels, C = 3 (RGB, uint8).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from talklip_ray.config import LocateConfig, load
from talklip_ray.errors import TitleError
from talklip_ray.evaluation.flicker import Flicker, FlickerMeter
from talklip_ray.evaluation.mouth import MouthMeter, correlation
from talklip_ray.evaluation.mouth_twins import MouthTwins
from talklip_ray.faces.crops import located
from talklip_ray.faces.detect import Detector, detector_of
from talklip_ray.faces.shots import is_cut, miniature
from talklip_ray.media.audio import sound_stream
from talklip_ray.media.container import open_source
from talklip_ray.media.picture import Picture
from talklip_ray.media.video import VideoInfo, probe_video, read_pictures
from talklip_ray.pipeline.one import dub_here
from talklip_ray.pipeline.preflight import prepare_run
from talklip_ray.records import Dub, Title, Verdict

Image = NDArray[np.uint8]
Doubles = NDArray[np.float64]

LIPS = (61, 291, 0, 17)
"""Corners and outer edges of the lips, of the 468-point mesh."""
AROUND = 0.6
"""Of a box's side, what is kept around it for a contact sheet."""


@dataclass
class Tools:
    """What looking takes; one a process."""

    meter: MouthMeter = field(default_factory=MouthMeter)
    locate: LocateConfig = field(default_factory=LocateConfig)

    def __post_init__(self) -> None:
        self.detector: Detector = detector_of(self.locate, None)


@dataclass(kw_only=True)
class Watched:
    """A source (``""``) and its dubs, by name."""

    times_T: Doubles
    """Seconds on the title's clock."""
    openings: dict[str, Doubles]
    """[T] of each by the face mesh; NaN where the source shows no face."""
    by_twins: dict[str, Doubles]
    """[T] of each by comparison with twins (twins.py), likewise; {} where there are none."""
    psnr: dict[str, float]
    """Of the box's lower half, each dub against the source, over all of its frames at once; dB."""
    ssim: dict[str, float]
    psnr_above: dict[str, float]
    """Of the upper half, which nothing repaints: what encoding anew costs."""
    flicker: dict[str, Flicker | None]
    shown: dict[str, list[Image]]
    """Faces of a few frames spread over the file, for a contact sheet."""

    @property
    def faces(self) -> float:
        """Share of frames with a face."""
        return float(np.isfinite(self.openings[""]).mean())


def dub(weights: str, video: Path, audios: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Dubs a file with each sound as ``talklip dub`` would; the products. Raises TitleError where one failed."""
    run = prepare_run(load(None, {"generate.weights": weights}), str(folder))
    title = Title(
        id="clip", video=str(video), dubs=tuple(Dub(language=name, audio=str(a)) for name, a in audios.items())
    )
    summary = dub_here(run, title)
    if summary.failures:
        raise TitleError(str(video), "; ".join(str(failure["message"]) for failure in summary.failures))
    return {row["language"]: Path(row["uri"]) for row in summary.rows}


def watch(
    video: Path,
    products: Mapping[str, Path],
    tools: Tools,
    *,
    twins: Iterator[MouthTwins] | None = None,
    alike: Sequence[str] = (),
    columns: int = 0,
) -> Watched:
    """Looks at all frames of a source and of its dubs at once. ``twins``: of each frame; ``alike``: dubs compared with
    the source pixel by pixel; ``columns``: frames kept for a contact sheet. ValueError where a dub has other frames
    than its source.
    """
    info = probe_video(video, video.name)
    names = ["", *products]
    openings = {name: np.full(info.num_frames, np.nan) for name in names}
    by_twins = {name: np.full(info.num_frames, np.nan) for name in names} if twins else {}
    flickers = {name: FlickerMeter(load().compose.feather) for name in products}
    errors = {name: np.zeros((2, 2)) for name in alike}
    alikeness: dict[str, list[float]] = {name: [] for name in alike}
    wanted = set(np.linspace(0, info.num_frames - 1, columns).round().astype(int).tolist())
    shown: dict[str, list[Image]] = {name: [] for name in names}
    before: Image | None = None
    for pictures, box_4 in _together(video, info, products, tools):
        at = pictures[""].index
        frames = {name: whole(picture) for name, picture in pictures.items()}
        small = miniature(frames[""])
        cut = before is not None and is_cut(before, small, tools.locate.cut_threshold)
        before = small
        lips = {name: _seen(frame, box_4, at, openings[name], tools.meter) for name, frame in frames.items()}
        for name, flicker in flickers.items():
            if cut or box_4 is None:
                flicker.see(frames[""], frames[name], None)
            flicker.see(frames[""], frames[name], box_4, [one for one in (lips[""], lips[name]) if one])
        twin = next(twins) if twins else None
        if box_4 is not None:
            if twin:
                for name, frame in frames.items():
                    by_twins[name][at] = twin.opening(frame)
            for name in alike:
                errors[name] += _errors(frames[""], frames[name], box_4)
                alikeness[name].append(_ssim(frames[""], frames[name], box_4))
        if at in wanted:
            for name, frame in frames.items():
                shown[name].append(_close(frame, box_4))
    return Watched(
        times_T=info.pts_N.astype(np.float64) * float(info.time_base) - float(info.origin),
        openings=openings,
        by_twins=by_twins,
        psnr={name: _psnr(total_22[0]) for name, total_22 in errors.items()},
        psnr_above={name: _psnr(total_22[1]) for name, total_22 in errors.items()},
        ssim={name: float(np.mean(values)) if values else float("nan") for name, values in alikeness.items()},
        flicker={name: _score(flicker) for name, flicker in flickers.items()},
        shown=shown,
    )


def follows(measured_T: Doubles, truth_T: Doubles, times_T: Doubles, during: tuple[float, float]) -> float | None:
    """Pearson's r of two openings over the frames that show a face ``during`` these seconds; None for too few."""
    counted_T = np.isfinite(measured_T) & (times_T >= during[0]) & (times_T < during[1])
    if counted_T.sum() < 10:
        return None
    return round(correlation(measured_T[counted_T], truth_T[counted_T]), 4)


def whole(picture: Picture) -> Image:
    return picture.crop((0, 0, *picture.size))


def pictures_of(video: Path, info: VideoInfo) -> Iterator[Picture]:
    return read_pictures(video, pts=info.pts_N.tolist(), first=0, start=0, stop=info.num_frames, where=video.name)


def sound_begins(video: Path) -> Fraction:
    """Second, on the file's own clock, at which its own first sample sounds."""
    with open_source(video, video.name) as source:
        stream = sound_stream(source)
        return max(Fraction(0), (stream.start_time or 0) * (stream.time_base or Fraction(0)))


def _together(
    video: Path, info: VideoInfo, products: Mapping[str, Path], tools: Tools
) -> Iterator[tuple[dict[str, Picture], tuple[int, int, int, int] | None]]:
    """Each frame of the source and of its dubs, and where the source shows the face that is repainted."""
    found = located(
        tools.locate,
        tools.detector,
        pictures_of(video, info),
        start=0,
        stop=info.num_frames,
        num_frames=info.num_frames,
        display_size=(info.display_width, info.display_height),
    )
    others = [pictures_of(path, probe_video(path, path.name)) for path in products.values()]
    for (picture, face), *several in zip(found, *others, strict=True):
        x0, y0, x1, y1 = (int(v) for v in face.box_4)
        box_4 = (x0, y0, x1, y1) if face.verdict is Verdict.FACE else None
        yield {"": picture, **dict(zip(products, several, strict=True))}, box_4


def _seen(
    frame: Image, box_4: tuple[int, int, int, int] | None, at: int, openings_T: Doubles, meter: MouthMeter
) -> tuple[float, float, float, float] | None:
    """Notes the mouth's opening; a box around the lips."""
    if box_4 is None:
        return None
    openings_T[at] = meter(frame, box_4).opening
    lips_P2 = meter.points(frame, box_4)[0][list(LIPS)]
    (left, top), (right, bottom) = lips_P2.min(axis=0), lips_P2.max(axis=0)
    return float(left), float(top), float(right), float(bottom)


def _halves(frame: Image, box_4: tuple[int, int, int, int]) -> tuple[Image, Image]:
    """Lower and upper half of the face's box."""
    x0, y0, x1, y1 = box_4
    middle = (y0 + y1) // 2
    return frame[middle:y1, x0:x1], frame[y0:middle, x0:x1]


def _errors(source: Image, shown: Image, box_4: tuple[int, int, int, int]) -> Doubles:
    """[2, 2] of both halves: summed squares of differences, and of how many values."""
    pairs = zip(_halves(source, box_4), _halves(shown, box_4), strict=True)
    return np.array([[float(((a.astype(np.float64) - b) ** 2).sum()), a.size] for a, b in pairs])


def _psnr(total_2: Doubles) -> float:
    squares, count = (float(v) for v in total_2)
    return round(float(10 * np.log10(255**2 / max(squares / max(count, 1), 1e-9))), 2)


def _ssim(source: Image, shown: Image, box_4: tuple[int, int, int, int]) -> float:
    lower, shown_lower = _halves(source, box_4)[0], _halves(shown, box_4)[0]
    return float(structural_similarity(lower, shown_lower, channel_axis=2))


def _score(flicker: FlickerMeter) -> Flicker | None:
    return flicker.score() if flicker.frames else None


def _close(frame: Image, box_4: tuple[int, int, int, int] | None) -> Image:
    """The face and a little around it; all of the frame where there is none."""
    if box_4 is None:
        return frame
    x0, y0, x1, y1 = box_4
    reach = round(AROUND * max(x1 - x0, y1 - y0)) // 2
    return frame[max(0, y0 - reach) : y1 + reach, max(0, x0 - reach) : x1 + reach]
