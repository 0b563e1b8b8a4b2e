"""Weights and other large inputs on this machine, fetched once for all its processes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from filelock import FileLock

from talklip_ray.storage.address import local_path, scheme
from talklip_ray.storage.atomic import translated
from talklip_ray.storage.store import Store


def cache_folder() -> Path:
    """Where this machine keeps what it has fetched: XDG's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "talklip_ray"


def fetch(store: Store, uri: str, cache: Path) -> Path:
    """A local file with the content of ``uri`` as it is now.

    A local path is returned as it is. Anything else is downloaded under a name made of its URI and ETag, by
    one process while the others wait. Raises what ``store.download`` raises.
    """
    if scheme(uri) in {"", "file"}:
        store.stat(uri)
        return local_path(uri)
    stat = store.stat(uri)
    folder = cache / hashlib.sha256(f"{stat.etag} {stat.size} {uri}".encode()).hexdigest()[:32]
    target = folder / Path(uri).name
    if _is_complete(target, stat.size):
        return target
    with translated(str(cache)):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            if not _is_complete(target, stat.size):
                store.download(uri, target)
    return target


def fetched(uri: str, store: Store) -> Path | None:
    """``fetch`` into this machine's cache; None where settings name nothing ("")."""
    return fetch(store, uri, cache_folder()) if uri else None


def _is_complete(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
