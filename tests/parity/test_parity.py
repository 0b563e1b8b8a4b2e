"""The networks and features against the released code's own numbers (golden members a, b, c and k).

A thinned copy of the numbers is in data/; beside a checkout with the whole golden folder, everything is
compared.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from talklip_ray.models.talklip import released
from tests.parity.compact import FIGURES, INPUTS, KEPT, LAYOUTS, golden, layout_digest, released_layout
from tests.parity.fill import released_shapes
from tests.parity.leftovers import leftovers
from tests.parity.members import Members, audio_features, networks, tolerance

GOLDEN = Path(__file__).parents[2].parent / "shared" / "golden"
LISTENERS = {"talklip_generator": "gc", "wav2lip_generator": "l"}

here_is_golden = pytest.mark.skipif(not GOLDEN.exists(), reason=f"needs the golden vectors in {GOLDEN}")


@pytest.fixture(scope="module")
def figures() -> Members:
    with np.load(FIGURES) as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def computed(figures: Members) -> Members:
    return audio_features() | networks(figures[INPUTS[0]])


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape
    return float(np.abs(ours.astype(np.float64) - theirs).max())


@pytest.mark.parametrize("member", sorted(KEPT))
def test_a_member_matches_the_figures_kept_here(member: str, computed: Members, figures: Members) -> None:
    assert difference(computed[member][KEPT[member]], figures[member]) <= tolerance(member)


@here_is_golden
@pytest.mark.parametrize("file", ["a_audio_frontend", "b_audio_encoder", "c_generator", "k_wav2lip"])
def test_every_member_matches_the_golden_file(file: str, computed: Members) -> None:
    members = [member for member in computed if member.startswith(file)]
    differences = {member: difference(computed[member], golden(GOLDEN, member)) for member in members}
    assert members
    assert {m: d for m, d in differences.items() if d > tolerance(m)} == {}


@here_is_golden
def test_the_figures_kept_here_are_the_golden_ones(figures: Members) -> None:
    assert all((golden(GOLDEN, member)[kept] == figures[member]).all() for member, kept in KEPT.items())


@pytest.mark.parametrize("kind", LISTENERS)
def test_the_released_layout_is_ours_renamed_plus_known_leftovers(kind: str) -> None:
    shapes = released_shapes(released(LISTENERS[kind]).build())  # type: ignore[arg-type]
    if kind == "talklip_generator":
        shapes |= leftovers()
    assert {"tensors": len(shapes), "sha256": layout_digest(shapes.items())} == json.loads(LAYOUTS.read_text())[kind]


@here_is_golden
@pytest.mark.parametrize("kind", LISTENERS)
def test_the_layout_kept_here_is_the_golden_one(kind: str) -> None:
    layout = released_layout(GOLDEN, kind)
    assert layout_digest(layout.items()) == json.loads(LAYOUTS.read_text())[kind]["sha256"]
