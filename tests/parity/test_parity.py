"""The networks, features and the training step against the released code's own numbers (golden files a to k).

A thinned copy of the numbers is in data/; beside a checkout with the whole golden folder, all of them are compared.
Every step of golden i takes ten seconds and more: here two that cover all losses, both modes and Adam; ``make
parity`` takes them all.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from talklip_ray.models.critic import CriticConfig
from talklip_ray.models.kinds import AnyConfig, Kind, layout
from talklip_ray.models.lip_reader import expert_base
from talklip_ray.models.names import leftover_shapes, to_released
from talklip_ray.models.syncnet import SyncNetConfig
from talklip_ray.models.talklip import released
from tests.parity.compact import KINDS, LAYOUTS, kept
from tests.parity.compare import Verdict, group_rows
from tests.parity.golden import BESIDE, HERE, WholeFolder, golden_at, layout_digest, released_layout
from tests.parity.inputs import Inputs
from tests.parity.members.group import Group
from tests.parity.members.training import FROZEN, RECONSTRUCT, STEEP
from tests.parity.networks import Networks
from tests.parity.run import GROUPS

PUBLISHED: dict[str, tuple[Kind, AnyConfig]] = {
    "talklip_generator": (Kind.TALKLIP, released("gc")),
    "wav2lip_generator": (Kind.TALKLIP, released("l")),
    "talklip_discriminator": (Kind.CRITIC, CriticConfig()),
    "avhubert_seq2seq_expert": (Kind.LIP_READER, expert_base()),
    "syncnet_v2": (Kind.SYNCNET, SyncNetConfig()),
    "s3fd": (Kind.S3FD, None),
}
FAST = [group for group in GROUPS if not group.slow]
LEFT_TO_MAKE_PARITY = {scenario.name for scenario in (RECONSTRUCT, STEEP, FROZEN)}
SLOW = [group for group in GROUPS if group.slow and group.file.split("/")[-1] not in LEFT_TO_MAKE_PARITY]

here_is_golden = pytest.mark.skipif(not BESIDE.is_dir(), reason="needs the golden files in ../shared")


def name(group: Group) -> str:
    return group.members[0].replace("/", "-")


@cache
def inputs(folder: Path) -> Inputs:
    """One for all, so that a step that several groups look at is made once."""
    return Inputs(golden_at(folder))


def missed(group: Group, folder: Path, networks: Networks) -> list[str]:
    """Members of the group that are not there or not what they should be."""
    found = group_rows(group, inputs(folder), networks)
    assert len(found) == len(group.members)
    wrong = [row for row in found if row.verdict != Verdict.EQUAL]
    return [f"{row.member} {row.verdict} {row.difference} {row.remark}" for row in wrong]


@pytest.mark.parametrize("group", FAST, ids=name)
def test_members_match_the_figures_kept_here(group: Group, networks: Networks) -> None:
    assert missed(group, HERE, networks) == []


@here_is_golden
@pytest.mark.parametrize("group", FAST, ids=name)
def test_members_match_the_golden_files(group: Group, networks: Networks) -> None:
    assert missed(group, BESIDE, networks) == []


@pytest.mark.slow
@pytest.mark.parametrize("group", SLOW, ids=name)
def test_the_training_step_has_the_released_terms_gradients_and_updates(group: Group, networks: Networks) -> None:
    assert missed(group, BESIDE if BESIDE.is_dir() else HERE, networks) == []


@here_is_golden
def test_the_figures_kept_here_are_the_golden_ones() -> None:
    arrays, shapes = kept(WholeFolder(BESIDE))
    with np.load(HERE / "figures.npz") as ours:
        assert arrays.keys() == set(ours)
        assert [member for member in arrays if not np.array_equal(arrays[member], ours[member])] == []
    assert json.loads((HERE / "shapes.json").read_text()) == shapes
    assert json.loads((HERE / "i_train_step.json").read_text()) == json.loads(
        (BESIDE / "i_train_step.json").read_text()
    )


@pytest.mark.parametrize("published", KINDS)
def test_the_released_layout_is_ours_renamed_plus_known_leftovers(published: str) -> None:
    kind, config = PUBLISHED[published]
    shapes = {str(to_released(ours, kind)): tuple(tensor.shape) for ours, tensor in layout(kind, config).items()}
    if published != "wav2lip_generator":
        shapes |= leftover_shapes(kind)
    found = {"tensors": len(shapes), "sha256": layout_digest(shapes.items())}
    assert found == json.loads((HERE / LAYOUTS).read_text())[published]


@here_is_golden
@pytest.mark.parametrize("published", KINDS)
def test_the_layout_kept_here_is_the_golden_one(published: str) -> None:
    digest = layout_digest(released_layout(BESIDE, published).items())
    assert digest == json.loads((HERE / LAYOUTS).read_text())[published]["sha256"]
