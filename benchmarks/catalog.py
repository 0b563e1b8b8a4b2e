"""A catalog of a million titles, the most of them done: how soon the next run makes its first new segment, and in how
much memory.

    python -m benchmarks.catalog [--titles 1000000] [--done 0.9] [--minutes 6] [--folder DIR] [--name catalog]

All titles have the same video and the same sound, and products of those that are done are a few bytes: what is
measured is the manifest, the listing and the records, on a real S3 server. Objects are put through the server's own
back door, which takes no signatures; reading goes through the front. With ``--folder`` the server's data is kept, and
used again by the next measurement with the same titles.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.clip import talking_clip
from benchmarks.machine import describe, own_bytes, save
from talklip_ray.config import load
from talklip_ray.pipeline.plan import fingerprint_of
from talklip_ray.pipeline.preflight import prepare_run
from talklip_ray.records import Dub, Title
from talklip_ray.storage.commit import Commit, product_name, record_name
from talklip_ray.storage.embedded import EmbeddedS3
from talklip_ray.storage.uri import open_store
from tests.elsewhere import no_cluster

LANGUAGE, LANES = "fr", 16
PRODUCT = b"stands for a film"
SETTINGS = {"plan.segment_seconds": "1"}

out = Console()


def title_id(number: int) -> str:
    return f"title-{number:07d}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--titles", type=int, default=1_000_000)
    parser.add_argument("--done", type=float, default=0.9)
    parser.add_argument("--minutes", type=float, default=6.0, help="how long the run is watched")
    parser.add_argument("--folder", type=Path, help="keeps the server's data")
    parser.add_argument("--name", default="catalog")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="talklip-bench-") as scratch:
        folder = args.folder or Path(scratch)
        with EmbeddedS3(folder / "s3") as server:
            os.environ.update(server.environment())
            bucket = server.create_bucket("catalog")
            filled = folder / f"filled-{args.titles}-{args.done}"
            if not filled.exists():
                fill(server, bucket, Path(scratch), args.titles, args.done)
                filled.touch()
            found = measure(bucket, args.minutes)
    found |= {"titles": args.titles, "done": args.done, "machine": describe()}
    out.print_json(json.dumps(found))
    save(args.name, found)
    return 0 if found["first_segment_seconds"] is not None else 1


def fill(server: EmbeddedS3, bucket: str, scratch: Path, titles: int, done: float) -> None:
    """Sources, manifest, and the products and records of the first titles by id."""
    store = open_store()
    video, audio = talking_clip(scratch, seconds=2.0, width=320, height=180)
    store.upload(video, f"{bucket}/in/video.mp4")
    store.upload(audio, f"{bucket}/in/dub.wav")
    manifest = scratch / "manifest.jsonl"
    row = {"video": "in/video.mp4", "language": LANGUAGE, "audio": "in/dub.wav"}
    with manifest.open("w") as file:
        file.writelines(json.dumps({"id": title_id(n)} | row) + "\n" for n in range(titles))
    store.upload(manifest, f"{bucket}/manifest.jsonl")
    run = prepare_run(load(None, SETTINGS), f"{bucket}/out", writes=False)
    one = Title(id="any", video=f"{bucket}/in/video.mp4", dubs=(Dub(language=LANGUAGE, audio=f"{bucket}/in/dub.wav"),))
    name = fingerprint_of(run, one, one.dubs[0], store.stat(one.video).etag, store.stat(one.dubs[0].audio).etag)
    started = time.monotonic()
    asyncio.run(_put_all(server, bucket.removeprefix("s3://"), name, int(titles * done)))
    out.print(f"{int(titles * done)} titles filled in after {time.monotonic() - started:.0f} s")


async def _put_all(server: EmbeddedS3, bucket: str, fingerprint: str, count: int) -> None:
    etag = hashlib.md5(PRODUCT, usedforsecurity=False).hexdigest()

    async def lane(first: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.filer_port)
        for number in range(first, count, LANES):
            commit = Commit(
                title=title_id(number),
                language=LANGUAGE,
                fingerprint=fingerprint,
                num_frames=50,
                product_size=len(PRODUCT),
                product_etag=etag,
            )
            for key, body in (
                (product_name(title_id(number), LANGUAGE), PRODUCT),
                (record_name(title_id(number), LANGUAGE), commit.to_json().encode()),
            ):
                head = f"PUT /buckets/{bucket}/out/{key} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
                writer.write(head.encode() + body)
                answer = await reader.readuntil(b"\r\n\r\n")
                (length,) = [
                    int(line[15:]) for line in answer.split(b"\r\n") if line[:15].lower() == b"content-length:"
                ]
                said = await reader.readexactly(length)
                if not answer.startswith(b"HTTP/1.1 20"):
                    raise SystemExit(f"{key} could not be put: {answer!r} {said!r}")
        writer.close()

    await asyncio.gather(*(lane(first) for first in range(LANES)))


def measure(bucket: str, minutes: float) -> dict[str, Any]:
    """Watches a run from its start; ends it after ``minutes``."""
    store = open_store()
    store.delete_prefix(f"{bucket}/out/_talklip")
    command = [sys.executable, "-m", "talklip_ray.cli", "dub", "run", f"{bucket}/manifest.jsonl", "-o", f"{bucket}/out"]
    for key, value in SETTINGS.items():
        command += ["--set", f"{key}={value}"]
    started = time.monotonic()
    run = subprocess.Popen(command, env=no_cluster(), start_new_session=True)
    first: float | None = None
    memory: list[tuple[float, int]] = []
    try:
        while run.poll() is None and (now := time.monotonic() - started) < 60 * minutes:
            if first is None and next(iter(store.list(f"{bucket}/out/_talklip/parts")), None):
                first = now
                out.print(f"first segment after {now:.1f} s")
            memory.append((now, own_bytes(run.pid)))
            time.sleep(0.5)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGINT)
        run.wait()
    progress = [stat.uri for stat in store.list(f"{bucket}/out/_talklip/runs") if stat.uri.endswith("/progress.json")]
    counts = json.loads(store.read(progress[-1]))["counts"] if progress else {}
    ready = [size for at, size in memory if first is not None and at >= first]
    return {
        "first_segment_seconds": first,
        "watched_seconds": memory[-1][0],
        "counts": counts,
        "driver_mib": {
            "peak": max(size for _, size in memory) >> 20,
            "at_first_segment": ready[0] >> 20 if ready else None,
            "at_end": memory[-1][1] >> 20,
        },
    }


if __name__ == "__main__":
    sys.exit(main())
