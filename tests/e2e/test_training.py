"""All of TalkLip trained in small, through Ray Train and DeepSpeed: a reader, then a generator under its eyes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import ray

from jobs import train
from talklip_ray.models.checkpoints import load_network, load_reader, load_weights
from talklip_ray.models.headers import read_header
from talklip_ray.models.kinds import Kind
from talklip_ray.models.repaint import Repainter
from talklip_ray.synthetic.commands import command_utterances
from talklip_ray.synthetic.pieces import render_pieces
from talklip_ray.training.shards import Origin, Piece, write_shard

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
]

SMALL = ("--set", "data.clips=2", "--set", "workers.cpus=1", "--set", "keep.report_every=1")


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="warning")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Eight spoken commands."""
    folder = tmp_path_factory.mktemp("shards")
    pieces = [Piece(**rendered.fields()) for rendered in render_pieces(command_utterances(8, 3), 3, 1)]
    write_shard(folder / "shard.parquet", pieces, Origin(recipe="commands"))
    return folder


@pytest.fixture(scope="module")
def reader(shards, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("reader") / "reader.safetensors"
    steps = ("--set", "steps=3", "--set", "keep.checkpoint_every=100", "--set", "data.hold_out=0")
    argv = ["--recipe", "lip_reader_small", "--data", str(shards), "--out", str(path), *SMALL, *steps]
    assert train.main([*argv, "--set", "network.vocabulary=40"]) == 0
    return path


def test_a_reader_trained_here_brings_its_tokenizer_and_reads_something(reader):
    network, tokenizer, header = load_reader(reader)
    assert header.kind is Kind.LIP_READER
    assert network.config.vocabulary == tokenizer.size
    assert tokenizer.decode(tokenizer.encode("move blue baby")) == "move blue baby"


def test_a_generator_goes_through_all_phases_under_the_reader_and_dubs(reader, shards, tmp_path, capsys):
    """Two workers, ZeRO 1, critic, expert, contrast: one step a phase is reported with the phase's own terms."""
    out = tmp_path / "gc.safetensors"
    settings = ("steps=6", "curriculum.most_steps=2", "data.windows=2", "data.hold_out=0", "workers.count=2")
    settings += ("engine.zero_stage=1", f"expert={reader}", "network.listener.layer_drop=0.0")
    argv = ["--recipe", "small_gc", "--data", str(shards), "--out", str(out), *SMALL]
    assert train.main([*argv, *(part for setting in settings for part in ("--set", setting))]) == 0
    reports = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step")]
    assert ["lip" in line for line in reports[:6]] == [False] * 4 + [True] * 2
    assert all("critic_fake" in line for line in reports[:6])
    network, header = load_network(out)
    assert header.notes["phase"] == "read_lips"
    start = load_reader(reader)[0].listener.state_dict()
    learnt = network.global_listener.state_dict()
    assert all(np.array_equal(learnt[name], start[name]) for name in learnt if name.startswith("audio."))
    assert not np.array_equal(learnt["blocks.1.widen.weight"], start["blocks.1.widen.weight"])
    assert Repainter(out).config.variant == "gc"


def test_syncnet_trains_and_says_what_it_is(shards, tmp_path):
    out = tmp_path / "syncnet.safetensors"
    argv = ["--recipe", "syncnet_small", "--data", str(shards), "--out", str(out), *SMALL]
    assert train.main([*argv, "--set", "steps=2", "--set", "data.hold_out=0"]) == 0
    assert read_header(out).kind is Kind.SYNCNET
    load_weights(out, Kind.SYNCNET)


def test_a_recipe_that_needs_an_expert_says_so_before_any_worker_starts(shards, tmp_path, capsys):
    argv = ["--recipe", "talklip_gc", "--data", str(shards), "--out", str(tmp_path / "x.safetensors")]
    assert train.main(argv) == 2
    assert "need the weights of a lip reader in `expert`" in capsys.readouterr().err
    assert json.dumps(list(tmp_path.iterdir())) == "[]"
