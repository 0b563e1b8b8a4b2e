"""Measure finished videos, or training shards: how well lips fit the sound, and what a lip reader reads in them.

    python jobs/evaluate.py sync VIDEO... [--weights syncnet.safetensors] [--audio FILE] [--json FILE]
    python jobs/evaluate.py read VIDEO... --weights reader.safetensors [--view frame] [--texts FILE.jsonl]
    python jobs/evaluate.py shards FOLDER --weights FILE.safetensors [--held-out 0.1]

Files are paths or URIs. One that cannot be measured is a row with its error; the others go on.
Exit codes: 0 all measured, 3 some were not, 2 settings or weights that cannot work.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from rich.progress import track

from talklip_ray.config import LocateConfig, StorageConfig, load
from talklip_ray.errors import ConfigError, MediaError, StoreError, TalklipError
from talklip_ray.evaluation.clips import Clip, View, check_length, face_clip, middle_clip
from talklip_ray.evaluation.reading import read_lips
from talklip_ray.evaluation.scoring import ReadRow, SyncRow, read_report, sync_report
from talklip_ray.evaluation.sync import score_file, speech_under
from talklip_ray.evaluation.tables import read_table, sync_table
from talklip_ray.faces.detect import detector_of
from talklip_ray.media.video import File
from talklip_ray.models.checkpoints import load_reader, load_weights, read_header
from talklip_ray.models.crop_sync import score_crops
from talklip_ray.models.expert_view import SIDE
from talklip_ray.models.kinds import Kind
from talklip_ray.models.offsets import RATE, SyncScore
from talklip_ray.models.syncnet import SyncNet
from talklip_ray.pipeline.results import EXIT_CONFIG, EXIT_DONE, EXIT_PARTIAL
from talklip_ray.pipeline.weights import SYNCNET, local_weights
from talklip_ray.storage.address import local_path, scheme
from talklip_ray.storage.artifacts import fetched
from talklip_ray.storage.store import Store
from talklip_ray.storage.uri import open_store
from talklip_ray.terminal import assignment, err, out
from talklip_ray.training.reading import Samples, hold_out
from talklip_ray.training.shards import SAMPLE_RATE, Piece
from talklip_ray.training.talking import read_manifest

Rows = Sequence[SyncRow] | Sequence[ReadRow]
Read = Callable[[Clip], str]


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        store = open_store(StorageConfig(endpoint_url=args.endpoint_url))
        rows = _MEASURES[args.measure](args, store)
        report = show(rows)
        if args.json:
            told = {"measure": args.measure, "weights": args.weights} | report
            store.write(args.json, json.dumps(told, indent=1, allow_nan=False).encode())
    except (ConfigError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_CONFIG
    return EXIT_PARTIAL if any(row.error for row in rows) else EXIT_DONE


def sync(args: argparse.Namespace, store: Store) -> Rows:
    """Each video with its own sound, with the one given, or with its own of those given."""
    score: Callable[[File, File | None, SyncNet, str, str], SyncScore] = _whole_frames
    if (args.view or (View.CROP if args.weights == SYNCNET else View.FRAME)) is View.CROP:
        score = partial(_faces, _face_view(args, store))
    audio = args.audio * len(args.videos) if len(args.audio) == 1 else args.audio or [""] * len(args.videos)
    _check_count("--audio", audio, args.videos)
    network = _syncnet(args, store)
    pairs = list(zip(args.videos, audio, strict=True))
    return [_sync_row(store, network, score, *pair) for pair in _slowly(pairs, "scoring")]


def _whole_frames(file: File, sound: File | None, network: SyncNet, where: str, audio_where: str) -> SyncScore:
    return score_file(file, sound, network, where=where, audio_where=audio_where)


def _faces(
    look: Callable[[File, str], Clip], file: File, sound: File | None, network: SyncNet, where: str, audio_where: str
) -> SyncScore:
    crops_TSSC = look(file, where).frames_THWC
    speech_N = speech_under(file, sound, len(crops_TSSC), where=where, audio_where=audio_where)
    return score_crops(crops_TSSC, speech_N, network, where=where)


def _face_view(args: argparse.Namespace, store: Store) -> Callable[[File, str], Clip]:
    config = locate_settings(args.set)
    return partial(face_clip, config=config, detector=detector_of(config, fetched(config.detector_weights, store)))


def _sync_row(store: Store, network: SyncNet, score: Callable[..., SyncScore], video: str, audio: str) -> SyncRow:
    try:
        with _opened(store, video) as file, _opened(store, audio) if audio else nullcontext() as sound:
            return SyncRow.of(video, score(file, sound, network, video, audio), audio)
    except TalklipError as error:
        return SyncRow(clip=video, audio=audio, error=str(error))


def read(args: argparse.Namespace, store: Store) -> Rows:
    """What is said in each video, silently."""
    texts = truths(args, store)
    look: Callable[[File, str], Clip] = middle_clip
    if args.view is View.CROP:
        look = _face_view(args, store)
    reads = _reader(args, store)
    pairs = list(zip(args.videos, texts, strict=True))
    return [_read_row(store, look, reads, *pair) for pair in _slowly(pairs, "reading")]


def _read_row(store: Store, look: Callable[[File, str], Clip], reads: Read, video: str, text: str) -> ReadRow:
    try:
        with _opened(store, video) as file:
            clip = look(file, video)
        return ReadRow(clip=video, read=reads(clip), text=text, faces=clip.faces, note=clip.note)
    except TalklipError as error:
        return ReadRow(clip=video, text=text, error=str(error))


def shards(args: argparse.Namespace, store: Store) -> Rows:
    """Rows of training shards, by a lip reader or SyncNet, whichever the weights are."""
    samples = Samples(store, args.folder, None, 0)
    numbers = hold_out(samples.ids, args.held_out)[1] if args.held_out else list(range(len(samples)))
    if not numbers:
        raise ConfigError("--held-out", f"must leave rows to measure, found none of {len(samples)}; give more")
    kind = read_header(local_weights(store, args.weights)).kind
    pieces = (samples[number].piece for number in _slowly(numbers, "measuring"))
    if kind is Kind.SYNCNET:
        network = _syncnet(args, store)
        return [_sync_piece(network, piece) for piece in pieces]
    reads = _reader(args, store)
    return [_read_piece(reads, piece) for piece in pieces]


def _sync_piece(network: SyncNet, piece: Piece) -> SyncRow:
    name = _name(piece)
    try:
        _check_rate(piece, name)
        zero = round(piece.seconds(0) * SAMPLE_RATE)
        sound_N = piece.sound[max(0, zero - piece.first_sample) : max(0, piece.num_samples - piece.first_sample)]
        return SyncRow.of(name, score_crops(piece.crops_TSSC, sound_N, network, where=name))
    except TalklipError as error:
        return SyncRow(clip=name, error=str(error))


def _read_piece(reads: Read, piece: Piece) -> ReadRow:
    """Frame by frame, as training shows it."""
    name = _name(piece)
    try:
        check_length(piece.num_frames / RATE, name)
        clip = Clip(frames_THWC=piece.frames_THWC, faces=float(piece.usable_T.mean()))
        return ReadRow(clip=name, read=reads(clip), text=piece.text, faces=clip.faces)
    except TalklipError as error:
        return ReadRow(clip=name, text=piece.text, error=str(error))


_MEASURES = {"sync": sync, "read": read, "shards": shards}


def truths(args: argparse.Namespace, store: Store) -> list[str]:
    """What is said in each video, "" where nobody knows. ConfigError where texts and videos do not go together."""
    if args.text:
        _check_count("--text", args.text, args.videos)
        return list(args.text)
    if not args.texts:
        return [""] * len(args.videos)
    known = {_place(row.video): row.text for row in read_manifest(store, args.texts)}
    found = [known.get(_place(video), "") for video in args.videos]
    if not any(found):
        raise ConfigError(
            args.texts,
            f"a row's `video` (relative to the file's folder) must be one of the videos given, found none with a "
            f"`text`, among {len(known)} rows; check the paths",
        )
    return found


def locate_settings(pairs: Sequence[tuple[str, str]]) -> LocateConfig:
    """How faces are found: dubbing's settings, with ``locate.min_face=16`` and the like on top."""
    others = [key for key, _ in pairs if not key.startswith("locate.")]
    if others:
        raise ConfigError(f"--set {others[0]}", "must be a setting of finding faces, as locate.min_face=16")
    config = load(None, dict(pairs)).locate
    if config.crop_side < SIDE:
        raise ConfigError("locate.crop_side", f"must be at least {SIDE} for a lip reader, found {config.crop_side}")
    return config


def show(rows: Rows) -> dict[str, Any]:
    """The table on the terminal; returns what goes into the JSON file."""
    scores = [row for row in rows if isinstance(row, SyncRow)]
    if scores:
        out.print(sync_table(scores))
        return sync_report(scores)
    readings = [row for row in rows if isinstance(row, ReadRow)]
    out.print(read_table(readings))
    report = read_report(readings)
    if report["num_with_text"]:
        of = f"{report['num_with_text']} of {len(rows)} clips, those read whose text is known"
        out.print(f"word error rate {report['word_error_rate']:.1%} over {of}", highlight=False)
    return report


def _check_count(option: str, values: Sequence[str], videos: Sequence[str]) -> None:
    if len(values) != len(videos):
        raise ConfigError(
            option, f"must be given once for each video, in their order, found {len(values)} for {len(videos)} videos"
        )


def _check_rate(piece: Piece, name: str) -> None:
    seconds = float(piece.seconds(piece.num_frames - 1) - piece.seconds(0))
    if abs(seconds * RATE - (piece.num_frames - 1)) > 0.5:
        rate = (piece.num_frames - 1) / seconds if seconds > 0 else 0.0
        raise MediaError(
            name, f"a row must have {RATE} frames a second to be scored, found {rate:.2f}; score its video instead"
        )


def _syncnet(args: argparse.Namespace, store: Store) -> SyncNet:
    return load_weights(local_weights(store, args.weights), Kind.SYNCNET, _device(args.device))[0]


def _reader(args: argparse.Namespace, store: Store) -> Read:
    reader, tokenizer, _ = load_reader(local_weights(store, args.weights), _device(args.device))
    return lambda clip: read_lips(reader, tokenizer, [clip.frames_THWC], beam=args.beam)[0]


def _device(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name or ("cuda" if torch.cuda.is_available() else "cpu")).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError("--device", f"must be a device torch can use, found `{name}`: {reason}") from error


def _opened(store: Store, uri: str) -> Any:
    """One version of a file, whatever takes its place meanwhile."""
    return store.open(uri, etag=store.stat(uri).etag)


def _slowly(values: Sequence[Any], doing: str) -> Iterable[Any]:
    return track(values, doing, console=err, transient=True)


def _name(piece: Piece) -> str:
    return f"{piece.id}, piece {piece.piece}"


def _place(uri: str) -> str:
    """One name for one file, however it is written."""
    return str(local_path(uri).resolve()) if scheme(uri) in {"", "file"} else uri


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure videos: lip-sync error, and what a lip reader reads.")
    measures = parser.add_subparsers(dest="measure", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", default="", metavar="FILE", help="write everything measured there, too")
    common.add_argument("--device", default="", help="as torch names it (default: a GPU where there is one)")
    common.add_argument("--endpoint-url", default="", help="S3 endpoint, where it is not AWS's")
    given = argparse.ArgumentParser(add_help=False)
    given.add_argument("--weights", required=True, help="a .safetensors file: path or URI")
    faces = argparse.ArgumentParser(add_help=False)
    where = "a setting of finding faces, as locate.min_face=16"
    faces.add_argument("--set", action="append", default=[], type=assignment, metavar="KEY=VALUE", help=where)
    beam = argparse.ArgumentParser(add_help=False)
    beam.add_argument("--beam", type=_beam, default=50, help="hypotheses kept while reading (default 50)")
    scored = measures.add_parser("sync", parents=[common, faces], help="LSE-D and LSE-C by SyncNet")
    scored.add_argument("videos", nargs="+", metavar="VIDEO")
    come = "a SyncNet: path or URI (default: the small one that comes with the package; weights/MODEL_CARD.md)"
    scored.add_argument("--weights", default=SYNCNET, help=come)
    view = "crop: the face, as dubbing finds it (default with the SyncNet that comes along); frame: the whole picture,"
    view += " as the literature scores (default with another)"
    scored.add_argument("--view", type=View, choices=list(View), default=None, help=view)
    audio = "sound instead of the videos' own: once for all, or once for each"
    scored.add_argument("--audio", action="append", default=[], metavar="FILE", help=audio)
    seen = measures.add_parser("read", parents=[common, given, faces, beam], help="read lips, and count wrong words")
    seen.add_argument("videos", nargs="+", metavar="VIDEO")
    view = "crop: the face, as dubbing finds it; frame: the frames' middle, as released readers are tested"
    seen.add_argument("--view", type=View, choices=list(View), default=View.CROP, help=view)
    told = seen.add_mutually_exclusive_group()
    told.add_argument("--texts", default="", metavar="FILE", help="JSONL of id, video and text, as jobs/prepare.py's")
    told.add_argument("--text", action="append", default=[], help="what is said: once for each video, in order")
    made = "the same of shards made by jobs/prepare.py"
    rows = measures.add_parser("shards", parents=[common, given, beam], help=made)
    rows.add_argument("folder", metavar="FOLDER")
    share = "only the rows that training with this data.hold_out validates on"
    rows.add_argument("--held-out", type=float, default=0.0, metavar="SHARE", help=share)
    return parser.parse_args(argv)


def _beam(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to 1000, found `{text}`")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
