"""Titles with weights of their own: who is painted with what, and what the records say."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from talklip_ray.errors import WeightsError
from talklip_ray.models.checkpoints import Header, read_header, save_network
from talklip_ray.models.talklip import small
from talklip_ray.pipeline.catalog import Catalog
from talklip_ray.pipeline.generate import KEPT, Generate
from talklip_ray.pipeline.ledger import Ledger, State
from talklip_ray.pipeline.listen import Listen
from talklip_ray.pipeline.locate import Locate
from talklip_ray.pipeline.one import dub_here
from talklip_ray.pipeline.plan import Plan, title_row
from talklip_ray.pipeline.preflight import one_title, prepare_run
from talklip_ray.pipeline.results import write_results
from talklip_ray.records import Adaptation, Segment, SyncMode
from talklip_ray.storage.commit import read_commit
from talklip_ray.storage.uri import open_store
from tests.talking import settings


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Weights that are not the run's."""
    path = tmp_path_factory.mktemp("own") / "own.safetensors"
    torch.manual_seed(1)
    digest = save_network(path, small("l").build(), Header(licence="none: random numbers")).tensors_sha256
    return Adaptation(title="title", uri=str(path), tensors_sha256=digest, fingerprint="a" * 64, facts={"steps": 7})


def run_of(made, folder, **adapted):
    run = prepare_run(settings(made.weights), str(folder))
    return replace(run, adapted={title: one for title, one in adapted.items()})


def segment_row(run, made, title):
    """A located and heard row, as if its title had this name."""
    row = next(Plan(run)([title_row(one_title(str(made.video), str(made.audio), SyncMode.CUT_OFF))]))
    for stage in (Locate(run), Listen(run)):
        row = next(iter(stage([row])))
    segment = replace(Segment.from_json(row["segment"]), title=title)
    return row | {"segment": segment.to_json()}


def test_each_title_of_a_batch_is_painted_with_its_own_weights(made, own, tmp_path):
    run = run_of(made, tmp_path, own=replace(own, title="own"))
    row = segment_row(run, made, "other")
    mine = row | {"segment": replace(Segment.from_json(row["segment"]), title="own").to_json()}
    painted = [out["patches_PTSSC"] for out in Generate(run)([row, mine, row])]
    everyone, _ = (Generate(r)([row]) for r in (run_of(made, tmp_path), run))
    np.testing.assert_array_equal(painted[0], painted[2])
    np.testing.assert_array_equal(painted[0], next(iter(everyone))["patches_PTSSC"])
    assert not np.array_equal(painted[0], painted[1])
    alone = prepare_run(settings(own.uri), str(tmp_path))
    np.testing.assert_array_equal(painted[1], next(iter(Generate(alone)([row])))["patches_PTSSC"])


def test_a_worker_keeps_the_networks_of_the_last_few_titles(made, own, tmp_path):
    titles = [f"title-{n}" for n in range(KEPT + 1)]
    generate = Generate(run_of(made, tmp_path, **{title: own for title in titles}))
    first = generate._network_of(titles[0])
    assert generate._network_of(titles[0]) is first
    for title in titles[1:]:
        generate._network_of(title)
    assert len(generate._own) == KEPT
    assert generate._network_of(titles[0]) is not first


def test_own_weights_that_were_replaced_are_refused(made, own, tmp_path):
    generate = Generate(run_of(made, tmp_path, own=replace(own, tensors_sha256="0" * 64)))
    with pytest.raises(WeightsError, match="start the run again"):
        generate._network_of("own")


def test_records_and_summary_say_whose_weights_and_reruns_know_them(made, own, tmp_path):
    title = one_title(str(made.video), str(made.audio), SyncMode.CUT_OFF)
    store, out = open_store(), str(tmp_path / "out")
    kept = {}
    for name, adapted in (
        ("plain", {}),
        ("own", {"title": own}),
        ("failed", {"title": Adaptation(title="title", kind="UnfitTitleError", message="no sound")}),
    ):
        run = replace(prepare_run(settings(made.weights), out), adapted=adapted)
        summary = dub_here(run, title)
        assert not summary.failures
        assert dub_here(run, title).rows[0]["state"] == State.SKIPPED
        write_results(store, summary, Ledger(Catalog.of([title])))
        kept[name] = summary, read_commit(store, out, "title", "und")
    (plain_summary, plain), (own_summary, mine), (failed_summary, failed) = kept.values()
    assert (plain.adapted, plain_summary.adapted) == ({}, [])
    assert "adapted" not in json.loads(plain.to_json())
    assert mine.adapted == {"steps": 7, "tensors_sha256": own.tensors_sha256, "fingerprint": own.fingerprint}
    assert mine.fingerprint != plain.fingerprint
    assert own_summary.adapted[0]["uri"] == own.uri
    assert failed.fingerprint == plain.fingerprint, "the same weights make the same picture"
    assert failed.adapted == {"failed": "no sound"}
    assert failed_summary.adapted[0]["message"] == "no sound"
    assert read_header(made.weights).tensors_sha256 == plain_summary.weights_digest
