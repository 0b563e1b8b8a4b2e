from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from talklip_ray.errors import NotFoundError
from talklip_ray.storage.artifacts import fetch
from talklip_ray.storage.store import Store
from talklip_ray.telemetry import STORE_BYTES, Tally, install


def test_a_local_file_is_used_where_it_is(store: Store, tmp_path: Path) -> None:
    weights = tmp_path / "some weights.safetensors"
    weights.write_bytes(b"w")
    assert fetch(store, str(weights), tmp_path / "cache") == weights
    assert fetch(store, weights.as_uri(), tmp_path / "cache") == weights


@pytest.mark.parametrize("scheme", ["", "s3"])
def test_missing_weights_are_named(store: Store, folder: str, tmp_path: Path, scheme: str) -> None:
    uri = f"{folder}/w" if scheme else str(tmp_path / "w")
    with pytest.raises(NotFoundError) as caught:
        fetch(store, uri, tmp_path / "cache")
    assert caught.value.where == uri


def test_many_at_once_fetch_one_copy_and_keep_its_name(store: Store, folder: str, tmp_path: Path) -> None:
    store.write(f"{folder}/w.safetensors", b"w" * 1000)
    tally = Tally()
    before = install(tally)
    try:
        with ThreadPoolExecutor(8) as pool:
            paths = set(pool.map(lambda _: fetch(store, f"{folder}/w.safetensors", tmp_path), range(8)))
    finally:
        install(before)
    assert [(path.name, path.read_bytes()) for path in paths] == [("w.safetensors", b"w" * 1000)]
    assert tally.total(STORE_BYTES, direction="read") == 1000


def test_new_content_under_the_same_uri_is_fetched_anew(store: Store, folder: str, tmp_path: Path) -> None:
    contents = []
    for content in (b"old", b"new"):
        store.write(f"{folder}/w", content)
        contents.append(fetch(store, f"{folder}/w", tmp_path).read_bytes())
    assert contents == [b"old", b"new"]
