"""Pictures computed in bf16 are those of fp32 to 50 dB, in training and in dubbing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.parity import bf16
from tests.parity.golden import golden_at
from tests.parity.inputs import Inputs
from tests.parity.networks import Networks

COMPUTED_IN_BF16 = 100.0
"""Decibels that nothing with any bf16 in it reaches."""


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return Inputs(golden_at())


def test_pictures_of_listener_and_generator_are_those_of_fp32_to_fifty_decibels(
    inputs: Inputs, networks: Networks
) -> None:
    found = bf16.psnr(inputs, networks)
    assert all(bf16.LEAST <= decibels < COMPUTED_IN_BF16 for decibels in found.values()), found


def test_anchors_of_the_contrastive_head_point_the_same_way(inputs: Inputs, networks: Networks) -> None:
    batch = bf16.batch(inputs, networks)
    half = bf16.as_training_runs(networks, batch).anchors_ND
    with torch.no_grad():
        whole = networks.talklip(*batch).anchors_ND
    assert half is not None
    assert F.cosine_similarity(half.float(), whole).min() > 0.9995


def test_the_worst_picture_counts() -> None:
    white, worse = torch.ones(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    worse[1] = 0.9
    assert bf16.worst(worse, white) == pytest.approx(20.0, abs=1e-3)
    assert bf16.worst(white, white) > COMPUTED_IN_BF16
