"""The harness of `make faults`: two of its runs, and that its reader and its judge see what must not be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from talklip_ray.config import StorageConfig
from talklip_ray.storage.commit import Commit, parts_uri, product_uri, publish, record_uri
from talklip_ray.storage.store import Store
from talklip_ray.storage.uri import join, open_store
from tests.faults.disturbances import KINDS, MOMENTS, deck
from tests.faults.harness import Harness, Outcome, repeated, table
from tests.faults.proxy import Exchange
from tests.faults.reader import Reader, Reference, frames, pictures, verdict
from tests.talking import small_clip

WANTED = ("t", "fr")


@pytest.mark.slow
def test_a_catalog_survives_the_driver_s_death_and_lost_replies(tmp_path):
    (tmp_path / "log").mkdir()
    with Harness(tmp_path, 3, tmp_path / "log").ready() as site:
        outcomes = [site.disturb(n, kind) for n, kind in enumerate(("kill driver", "lost reply of a write"))]
    assert [one.good for one in outcomes] == [True, True], outcomes
    assert [one.struck for one in outcomes] == [True, True]
    assert len(outcomes[0].codes) == 2
    assert outcomes[1].codes == [0], "a lost reply needs no second run"


@pytest.fixture(scope="module")
def product(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("product") / "product.mp4"
    small_clip(path, says="Oui.", size=(64, 64), seed=5)
    return path


@pytest.fixture
def store() -> Store:
    return open_store(StorageConfig())


@pytest.fixture
def reference(product: Path) -> Reference:
    return Reference(products={WANTED: product.read_bytes()})


def published(store: Store, output: str, product: Path) -> Commit:
    num_frames = frames(product.read_bytes())
    return publish(
        store, output, product, Commit(title="t", language="fr", fingerprint="f" * 64, num_frames=num_frames)
    )


def seen(store: Store, output: str, reference: Reference) -> list[str]:
    reader = Reader(store, output, reference)
    reader.look()
    assert reader.polls == 1
    return reader.violations


def test_a_whole_output_is_good(store, reference, product, tmp_path):
    published(store, str(tmp_path), product)
    store.write(join(str(tmp_path), "_talklip/runs/r/summary.json"), b"{}")
    assert seen(store, str(tmp_path), reference) == []
    found = verdict(store, str(tmp_path), reference)
    assert (found.lost, found.differing, found.other) == ((), (), ())


def test_half_a_product_is_seen(store, reference, product, tmp_path):
    whole = product.read_bytes()
    store.write(product_uri(str(tmp_path), *WANTED), whole[: len(whole) // 2])
    (violation,) = seen(store, str(tmp_path), reference)
    assert violation.startswith("/t/fr.mp4: ")
    assert verdict(store, str(tmp_path), reference).lost == (WANTED,), "it has no record"


def test_a_product_without_its_last_frames_is_seen_though_nobody_knows_its_bytes(store, reference, product, tmp_path):
    """Its index comes first and promises more."""
    whole = product.read_bytes()
    store.write(product_uri(str(tmp_path), *WANTED), whole[: -len(whole) // 4])
    (violation,) = seen(store, str(tmp_path), replace(reference, exact=False))
    assert "frames" in violation or "opened" in violation


def test_a_record_of_another_product_is_seen(store, reference, product, tmp_path):
    commit = published(store, str(tmp_path), product)
    other = replace(commit, product_size=commit.product_size + 1)
    store.write(record_uri(str(tmp_path), *WANTED), other.to_json().encode())
    assert seen(store, str(tmp_path), reference) == ["/t/fr.json: describes another product"]
    assert len(verdict(store, str(tmp_path), reference).other) == 1


def test_a_record_that_is_none_is_seen(store, reference, product, tmp_path):
    published(store, str(tmp_path), product)
    store.write(record_uri(str(tmp_path), *WANTED), b'{"title": "t"')
    (violation,) = seen(store, str(tmp_path), reference)
    assert "no commit record" in violation
    assert verdict(store, str(tmp_path), reference).lost == (WANTED,)


def test_a_record_before_its_product_is_seen(store, reference, product, tmp_path):
    published(store, str(tmp_path), product)
    store.delete(product_uri(str(tmp_path), *WANTED))
    assert seen(store, str(tmp_path), reference) == ["/t/fr.json: describes a product that is not there"]


def test_a_product_that_goes_again_is_seen(store, reference, product, tmp_path):
    published(store, str(tmp_path), product)
    reader = Reader(store, str(tmp_path), reference)
    reader.look()
    store.delete(product_uri(str(tmp_path), *WANTED))
    store.delete(record_uri(str(tmp_path), *WANTED))
    reader.look()
    assert sorted(reader.violations) == ["/t/fr.json: has gone again", "/t/fr.mp4: has gone again"]


def test_a_part_that_is_cut_off_and_one_that_is_left_are_seen(store, reference, product, tmp_path):
    published(store, str(tmp_path), product)
    part = join(parts_uri(str(tmp_path), "f" * 64, *WANTED), "000-000000000-000000025-25.0.0.0.0.nut")
    store.write(part, product.read_bytes()[:500])
    (violation,) = seen(store, str(tmp_path), reference)
    assert violation.endswith("holds -1 frames, its name says 25")
    (left,) = verdict(store, str(tmp_path), reference).other
    assert left.endswith("25.0.0.0.0.nut is left")


def test_what_nobody_wanted_is_seen(store, reference, product, tmp_path):
    published(store, str(tmp_path), product)
    store.write(join(str(tmp_path), "t/fr (1).mp4"), product.read_bytes())
    assert seen(store, str(tmp_path), reference) == ["/t/fr (1).mp4: nobody wanted it"]
    assert len(verdict(store, str(tmp_path), reference).other) == 1


def test_other_bytes_are_told_and_in_the_fast_setting_other_pixels(store, reference, tmp_path):
    small_clip(tmp_path / "other.mp4", says="Oui.", size=(64, 64), seed=6)
    other = (tmp_path / "other.mp4").read_bytes()
    assert pictures(other).shape == pictures(reference.products[WANTED]).shape
    assert "bytes" in reference.differs(WANTED, other)
    assert "pixels" in replace(reference, exact=False).differs(WANTED, other)


def test_the_reader_says_so_when_it_can_see_no_more(reference, tmp_path):
    class Blind:
        def list(self, prefix):
            raise ValueError("no eyes")

    with Reader(Blind(), str(tmp_path), reference) as reader:
        reader._thread.join(10)
    assert reader.violations == ["the reader failed: ValueError: no eyes"]


def put(part: str, mark: str, at: float, status: int = 200) -> Exchange:
    target = f"/b/out/_talklip/parts/f/t/fr/{part}"
    return Exchange(at=at, method="PUT", target=target, fault="", status=status, mark=mark)


def test_a_part_counts_as_made_again_when_another_write_of_it_succeeds():
    traffic = [put("a", "1", 1), put("a", "1", 2), put("b", "2", 3), put("b", "3", 4, 503), put("c", "4", 5)]
    assert repeated(traffic, [0]) == (0, [])
    assert repeated([*traffic, put("b", "5", 6)], [0]) == (1, [])


def test_what_was_staged_before_the_second_run_must_not_be_made_by_it():
    traffic = [put("a", "1", 1), put("b", "2", 12), put("b", "3", 14)]
    assert repeated(traffic, [0, 10]) == (1, []), "b came from a worker that outlived its driver"
    assert repeated([*traffic, put("a", "4", 15)], [0, 10])[1] == [put("a", "", 0).target]


def test_a_moment_is_one_request_of_its_kind():
    part = next(one for one in MOMENTS if one.name == "part")
    traffic = [put("a", "1", 1), replace(put("a", "1", 1), method="GET"), put("b", "2", 2)]
    assert part.count(traffic) == 2
    held = part.hold(2)
    assert (held.kind, held.skip) == ("delay", 1)
    assert {one.count(traffic) for one in MOMENTS if one.name in {"product", "record", "removal of parts"}} == {0}


def test_the_same_seed_deals_the_same_kinds_and_each_as_often_as_any_other():
    kinds = deck(7, 2 * len(KINDS))
    assert kinds == deck(7, 2 * len(KINDS)) != deck(8, 2 * len(KINDS))
    assert {kind: kinds.count(kind) for kind in KINDS} == dict.fromkeys(KINDS, 2)
    assert deck(7, 10) == kinds[:10], "a run keeps its kind when there are more or fewer of them"
    assert set(deck(7, 5, "flip")) == {"flip"}


@pytest.mark.parametrize("name", ["lost", "differing", "partial", "other", "needless"])
def test_whatever_is_wrong_with_a_run_makes_it_bad(name):
    fine = Outcome(number=0, kind="reset", codes=[0])
    assert fine.good
    assert not replace(fine, **{name: ["t0/fr"]}).good
    assert table([fine]).row_count == 2
