"""What "done" means, and that no interleaving of two writers breaks it."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from talklip_ray.config import ComposeConfig, DubConfig, GenerateConfig
from talklip_ray.errors import ConfigError, StoreError
from talklip_ray.records import SyncMode
from talklip_ray.storage import commit as commits
from talklip_ray.storage.commit import (
    Commit,
    fingerprint,
    is_done,
    product_uri,
    publish,
    read_commit,
)
from talklip_ray.storage.store import PreconditionFailedError, Stat, Store

FILM = ("show/ep 1", "es-419")


def record(**other: Any) -> Commit:
    fields: dict[str, Any] = {
        "title": FILM[0],
        "language": FILM[1],
        "fingerprint": "f" * 64,
        "num_frames": 250,
    }
    return Commit(**fields | {"verdicts": {"face": 240, "no_face": 10}, "timings": {"compose": 1.5}} | other)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"film" * 1000)
    return path


def test_what_is_published_is_done_and_nothing_else_is(store: Store, base: str, film: Path) -> None:
    assert not is_done(store, base, *FILM, "f" * 64)
    standing = publish(store, base, film, record())
    assert is_done(store, base, *FILM, "f" * 64)
    assert not is_done(store, base, *FILM, "0" * 64)
    assert not is_done(store, base, FILM[0], "fr", "f" * 64)
    assert read_commit(store, base, *FILM) == standing
    assert (standing.product_size, standing.verdicts["face"]) == (4000, 240)
    assert store.read(product_uri(base, *FILM)) == film.read_bytes()


@pytest.mark.parametrize("damage", ["product replaced", "product deleted", "record deleted", "record garbled"])
def test_what_is_damaged_is_not_done_and_publishing_again_repairs_it(
    store: Store, base: str, film: Path, damage: str
) -> None:
    publish(store, base, film, record())
    uri = commits.record_uri(base, *FILM) if "record" in damage else product_uri(base, *FILM)
    if "deleted" in damage:
        store.delete(uri)
    else:
        store.write(uri, b"{}")
    assert not is_done(store, base, *FILM, "f" * 64)
    publish(store, base, film, record())
    assert is_done(store, base, *FILM, "f" * 64)


def test_publishing_other_settings_replaces_product_and_record(store: Store, base: str, film: Path) -> None:
    publish(store, base, film, record())
    film.write_bytes(b"other")
    publish(store, base, film, record(fingerprint="0" * 64))
    assert [is_done(store, base, *FILM, digit * 64) for digit in "f0"] == [False, True]


class Interleaved:
    """A store in which something else happens right before or after the first upload."""

    def __init__(self, store: Store, before: Any = None, after: Any = None) -> None:
        self._store, self._before, self._after = store, before, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def upload(self, path: Path, uri: str) -> Stat:
        if self._before:
            self._before()
        stat = self._store.upload(path, uri)
        if self._after:
            self._after()
        return stat


@pytest.fixture
def other_film(tmp_path: Path) -> Path:
    path = tmp_path / "other.mp4"
    path.write_bytes(b"another film")
    return path


def test_the_writer_whose_product_was_replaced_by_its_equal_stands_back(
    store: Store, base: str, film: Path, other_film: Path
) -> None:
    late = Interleaved(store, after=lambda: publish(store, base, other_film, record(num_frames=7)))
    assert publish(late, base, film, record()).num_frames == 7
    assert is_done(store, base, *FILM, "f" * 64)


def test_the_writer_whose_product_was_replaced_under_other_settings_says_so(
    store: Store, base: str, film: Path, other_film: Path
) -> None:
    late = Interleaved(store, after=lambda: publish(store, base, other_film, record(fingerprint="0" * 64)))
    with pytest.raises(PreconditionFailedError, match="another run"):
        publish(late, base, film, record())
    assert is_done(store, base, *FILM, "0" * 64)


def test_the_writer_whose_product_stands_makes_the_record_follow(
    store: Store, base: str, film: Path, other_film: Path
) -> None:
    """The other uploads first but writes its record in between."""
    mine: list[Any] = []

    def i_upload_and_the_other_commits() -> None:
        late = Interleaved(store, after=write_the_others_record)
        mine.append(publish(late, base, film, record()))

    def write_the_others_record() -> None:
        uploaded.set()
        other_is_done.wait(20)

    uploaded, other_is_done = threading.Event(), threading.Event()

    class Slow(Interleaved):
        """Uploads, then waits until I have uploaded too."""

        def upload(self, path: Path, uri: str) -> Stat:
            stat = self._store.upload(path, uri)
            with_me.append(pool.submit(i_upload_and_the_other_commits))
            uploaded.wait(20)
            return stat

    with_me: list[Any] = []
    with ThreadPoolExecutor(1) as pool:
        publish(Slow(store), base, other_film, record(fingerprint="0" * 64))
        other_is_done.set()
        with_me[0].result()
    assert is_done(store, base, *FILM, "f" * 64)
    assert store.read(product_uri(base, *FILM)) == film.read_bytes()


def test_however_many_publish_at_once_the_record_describes_the_product(store: Store, base: str, tmp_path: Path) -> None:
    num_writers = 5
    films = [tmp_path / f"{i}.mp4" for i in range(num_writers)]
    for i, film in enumerate(films):
        film.write_bytes(b"%d" % i * 100)
    start = threading.Barrier(num_writers)

    def attempt(i: int) -> None:
        start.wait()
        try:
            publish(store, base, films[i], record(fingerprint=f"{i}" * 64))
        except StoreError:
            return

    with ThreadPoolExecutor(num_writers) as pool:
        list(pool.map(attempt, range(num_writers)))
    winner = int(store.read(product_uri(base, *FILM))[:1])
    assert [is_done(store, base, *FILM, f"{i}" * 64) for i in range(num_writers)] == [
        i == winner for i in range(num_writers)
    ]


def test_a_record_survives_the_way_to_json_and_back() -> None:
    whole = record(made_at="2031-02-03T04:05:06+00:00", versions={"av": "18"}, product_size=3, product_etag="é")
    assert Commit.from_json(whole.to_json()) == whole


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"title": 3}', "\xff"])
def test_what_is_not_a_record_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="Commit"):
        Commit.from_json(text.encode("latin-1"))


INPUTS: dict[str, Any] = {
    "video_etag": "v",
    "audio_etag": "a",
    "weights": "w",
    "pixels": DubConfig().pixels(),
    "sync_mode": SyncMode.CUT_OFF,
    "offset": Fraction(0),
}


@pytest.mark.parametrize(
    "change",
    [
        {"video_etag": "a", "audio_etag": "v"},
        {"audio_etag": "b"},
        {"weights": "x"},
        {"pixels": DubConfig(generate=GenerateConfig(precision="bf16")).pixels()},
        {"pixels": DubConfig(compose=ComposeConfig(crf=19)).pixels()},
        {"sync_mode": SyncMode.LOOP},
        {"offset": Fraction(1, 3)},
    ],
)
def test_a_fingerprint_changes_with_each_input(change: dict[str, Any]) -> None:
    assert fingerprint(**INPUTS | change) != fingerprint(**INPUTS)


def test_a_fingerprint_does_not_depend_on_the_order_of_settings_or_the_process() -> None:
    """The digest is written out: a change of it redoes every catalog ever dubbed and must be meant."""
    backwards = dict(reversed(INPUTS["pixels"].items()))
    assert fingerprint(**INPUTS | {"pixels": backwards}) == fingerprint(**INPUTS)
    plain = fingerprint(**INPUTS | {"pixels": {"crf": 18, "feather": 0.12}})
    assert plain == "156626208fa410db4c4503786646e6b577bb39dfb59bb390facc833134a8b298"


def test_the_format_version_is_part_of_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(**INPUTS)
    monkeypatch.setattr(commits, "FORMAT_VERSION", commits.FORMAT_VERSION + 1)
    assert fingerprint(**INPUTS) != before


def test_the_layout_is_the_documented_one() -> None:
    assert product_uri("s3://out/run/", "film", "es") == "s3://out/run/film/es.mp4"
    assert commits.record_uri("s3://out/run", "film", "es") == "s3://out/run/film/es.json"
    assert commits.run_uri("out", "r1", "results.parquet") == "out/_talklip/runs/r1/results.parquet"
    assert commits.faces_uri("out", "abc", "0.npz") == "out/_talklip/faces/abc/0.npz"
    assert commits.parts_uri("out", "fff", "film", "es") == "out/_talklip/parts/fff/film/es"


@pytest.mark.parametrize(
    "title", ["..", ".", "../x", "/etc/passwd", "_talklip", "a\0b", "a/../..", "C:\\x", "x" * 9999]
)
def test_no_title_leads_out_of_its_folder(store: Store, tmp_path: Path, title: str) -> None:
    uri = product_uri(str(tmp_path / "out"), title, title)
    path = Path(uri)
    assert path.parent.parent == tmp_path / "out"
    assert path.parent.name != "_talklip"
    store.write(uri, b"")
    assert [stat.uri for stat in store.list(str(tmp_path))] == [uri]


@settings(deadline=None)
@given(
    st.lists(
        st.text(min_size=1, alphabet=st.characters(exclude_categories=["Cs"])),
        min_size=2,
        max_size=2,
        unique=True,
    )
)
def test_different_titles_have_different_places(titles: list[str]) -> None:
    places = {product_uri("out", title, "es") for title in titles}
    assert len(places) == 2
    assert all(place.count("/") == 2 and place.isascii() for place in places)


def test_titles_that_differ_late_have_different_places() -> None:
    assert product_uri("out", "x" * 500 + "1", "es") != product_uri("out", "x" * 500 + "2", "es")


def test_an_empty_title_is_refused() -> None:
    with pytest.raises(ConfigError, match="must not be empty"):
        product_uri("out", "", "es")


def test_a_record_is_readable_by_other_programs(store: Store, base: str, film: Path) -> None:
    publish(store, base, film, replace(record(), versions={"talklip_ray": "0.1"}))
    found = json.loads(store.read(commits.record_uri(base, *FILM)))
    assert (found["title"], found["product_size"], found["versions"]) == (
        FILM[0],
        4000,
        {"talklip_ray": "0.1"},
    )
    assert found["made_at"].endswith("+00:00")
