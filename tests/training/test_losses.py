"""Losses at values one can work out by hand, and what they must not depend on."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from talklip_ray.errors import ConfigError
from talklip_ray.models.lip_reader import PAD
from talklip_ray.models.mouth import at_the_mouth
from talklip_ray.training.losses import (
    RELEASED,
    TEMPERATURE,
    LossWeights,
    Terms,
    contrast,
    forged,
    genuine,
    motion,
    negatives,
    others,
    reading,
    reconstruction,
)

TARGETS_BL = torch.tensor([[4, 0, 2], [3, 2, PAD]])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def terms(**given: float) -> Terms:
    return Terms(**{name: torch.tensor(value) for name, value in given.items()})


def test_the_reading_loss_is_the_smoothed_sum_over_tokens_and_clips() -> None:
    logits_BLV, e = random(2, 3, 6), 0.3
    each, wanted = e / 5, 0.0
    for clip, place in product(range(2), range(3)):
        if (target := int(TARGETS_BL[clip, place])) == PAD:
            continue
        scores = [math.exp(x) for x in logits_BLV[clip, place].tolist()]
        surprise = [-math.log(score / sum(scores)) for score in scores]
        wanted += (1 - e - each) * surprise[target] + each * sum(surprise)
    assert float(reading(logits_BLV, TARGETS_BL, pad=PAD, smoothing=e)) == pytest.approx(wanted, rel=1e-5)


def test_without_smoothing_reading_is_cross_entropy() -> None:
    logits_BLV = random(2, 3, 6)
    wanted = F.cross_entropy(logits_BLV.flatten(0, 1), TARGETS_BL.flatten(), ignore_index=PAD, reduction="sum")
    assert torch.allclose(reading(logits_BLV, TARGETS_BL, pad=PAD, smoothing=0.0), wanted)


def test_a_tenth_is_spread_over_the_vocabulary() -> None:
    logits_BLV = random(2, 3, 6)
    asked = reading(logits_BLV, TARGETS_BL, pad=PAD, smoothing=0.1)
    assert torch.equal(reading(logits_BLV, TARGETS_BL, pad=PAD), asked)


def test_padding_counts_nothing_and_learns_nothing() -> None:
    """Not even where the logits behind the end are no numbers."""
    logits_BLV = random(2, 3, 6).requires_grad_()
    loss = reading(logits_BLV, TARGETS_BL, pad=PAD)
    loss.backward()
    assert logits_BLV.grad is not None
    assert not logits_BLV.grad[1, 2].any()
    assert (logits_BLV.grad.abs().sum(2) > 0).sum() == 5
    with torch.no_grad():
        logits_BLV[1, 2] = float("nan")
    assert torch.equal(reading(logits_BLV, TARGETS_BL, pad=PAD), loss)


def test_reading_adds_clips_up_and_does_not_average() -> None:
    logits_BLV = random(2, 3, 6)
    twice = reading(logits_BLV.repeat(2, 1, 1), TARGETS_BL.repeat(2, 1), pad=PAD)
    assert torch.allclose(twice, 2 * reading(logits_BLV, TARGETS_BL, pad=PAD))


def test_a_text_nobody_knows_costs_nothing() -> None:
    assert reading(random(1, 3, 6), torch.full((1, 3), PAD), pad=PAD) == 0.0


def test_a_critic_without_an_opinion_costs_log_two_either_way() -> None:
    assert float(genuine(torch.zeros(3))) == pytest.approx(math.log(2))
    assert float(forged(torch.zeros(3))) == pytest.approx(math.log(2))


def test_the_critics_losses_are_binary_cross_entropy_against_real_and_painted() -> None:
    logits_N = 5 * random(7)
    ones, zeros = torch.ones(7), torch.zeros(7)
    assert torch.allclose(genuine(logits_N), F.binary_cross_entropy_with_logits(logits_N, ones))
    assert torch.allclose(forged(logits_N), F.binary_cross_entropy_with_logits(logits_N, zeros))


def test_a_critic_beyond_doubt_costs_what_it_is_sure_of() -> None:
    """The logarithm of a rounded probability would be infinite."""
    assert (genuine(torch.tensor([-200.0])), forged(torch.tensor([200.0]))) == (200.0, 200.0)
    assert (genuine(torch.tensor([200.0])), forged(torch.tensor([-200.0]))) == (0.0, 0.0)


def test_reconstruction_is_measured_on_the_whole_patch() -> None:
    painted, target = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    painted[0, :, 0] = 1.0
    assert reconstruction(painted, target) == 1 / 8


@pytest.mark.parametrize("loss", [genuine, forged])
def test_losses_of_half_precision_come_in_full(loss) -> None:
    assert loss(torch.zeros(2, dtype=torch.bfloat16)).dtype == torch.float32
    assert reading(random(2, 3, 6).bfloat16(), TARGETS_BL, pad=PAD).dtype == torch.float32


def test_contrast_sets_each_voice_against_its_own_lips_and_other_voices() -> None:
    anchors_ND, expert_ND = F.normalize(random(4, 5), dim=1), random(4, 5, seed=1)
    negatives = [[1, 3], [0, 2], [3, 0], [2, 1]]
    wanted = 0.0
    for row, against in enumerate(negatives):
        lips_D = expert_ND[row] / expert_ND[row].norm()
        candidates = [lips_D, *(anchors_ND[other] for other in against)]
        scores = [math.exp(float(anchors_ND[row] @ candidate) / 0.07) for candidate in candidates]
        wanted -= math.log(scores[0] / sum(scores)) / 4
    assert TEMPERATURE == 0.07
    assert float(contrast(anchors_ND, expert_ND, torch.tensor(negatives))) == pytest.approx(wanted, rel=1e-4)


def drawn(num: int, seed: int = 0) -> Tensor:
    return negatives(torch.arange(num), num, (seed,))


def test_how_strongly_the_expert_answers_does_not_matter_only_what() -> None:
    anchors_ND, expert_ND = F.normalize(random(4, 5), dim=1), random(4, 5, seed=1)
    negatives_NK = drawn(4)
    near, far = (contrast(anchors_ND, factor * expert_ND, negatives_NK) for factor in (1.0, 30.0))
    assert torch.allclose(near, far)


def test_where_all_voices_sound_alike_contrast_is_the_log_of_the_candidates() -> None:
    anchors_ND = F.normalize(torch.ones(7, 5), dim=1)
    assert float(contrast(anchors_ND, anchors_ND, drawn(7))) == pytest.approx(math.log(1 + 3), rel=1e-5)


def test_a_frame_alone_has_nothing_to_be_told_from() -> None:
    assert drawn(1).shape == (1, 0)
    assert contrast(torch.ones(1, 5), random(1, 5), drawn(1)) == 0.0


@pytest.mark.parametrize(("num", "most"), [(2, 1), (3, 1), (9, 4), (199, 99), (230, 100)])
def test_negatives_are_different_other_rows_at_most_a_hundred_and_at_most_half(num, most) -> None:
    found = drawn(num, seed=num).tolist()
    assert len(found) == num
    for row, against in enumerate(found):
        assert len(against) == len(set(against)) == most
        assert row not in against
        assert set(against) <= set(range(num))


def test_every_other_row_gets_its_turn_and_the_seed_decides() -> None:
    met = {
        (row, other) for seed in range(40) for row, against in enumerate(drawn(6, seed).tolist()) for other in against
    }
    assert met == {(row, other) for row in range(6) for other in range(6) if row != other}
    assert torch.equal(drawn(6, 3), drawn(6, 3))
    assert not torch.equal(drawn(60, 3), drawn(60, 4))


def test_whoever_holds_a_row_draws_the_same_for_it() -> None:
    rows_N = torch.tensor([4, 1])
    assert torch.equal(negatives(rows_N, 9, (3,)), drawn(9, 3)[rows_N])


def test_rows_of_others_count_as_ones_own_do() -> None:
    """Half of the batch here, half elsewhere: the two halves' means are the whole's."""
    anchors_ND, expert_ND = F.normalize(random(8, 5), dim=1), random(8, 5, seed=1)
    whole = contrast(anchors_ND, expert_ND, drawn(8))
    halves = [contrast(anchors_ND[at], expert_ND[at], drawn(8)[at], anchors_ND) for at in (slice(4), slice(4, 8))]
    assert float(sum(halves) / 2) == pytest.approx(float(whole), rel=1e-6)


def test_draws_skip_ones_own_row() -> None:
    assert others(torch.arange(3).repeat(4, 1)).tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]


def test_the_released_weights_add_up_as_the_paper_has_it() -> None:
    total = RELEASED.total(terms(l1=0.5, lip=300.0, critic=2.0, contrast=4.0, critic_real=9.0, critic_fake=9.0))
    wanted = 1e-5 * 300 + 0.07 * 2 + (1 - 1e-5 - 0.07) * 0.5 + 1e-3 * 4
    assert float(total) == pytest.approx(wanted, rel=1e-6)


def test_terms_that_are_missing_count_nothing_and_give_nothing_back_to_reconstruction() -> None:
    assert float(RELEASED.total(terms(l1=1.0))) == pytest.approx(1 - 1e-5 - 0.07)
    assert float(LossWeights(lip=0.25, critic=0.25).total(terms(l1=1.0, critic=2.0))) == pytest.approx(1.0)


def test_terms_tell_what_was_computed_and_hold_on_to_no_graph() -> None:
    asked = Terms(l1=torch.tensor(0.5, requires_grad=True), critic_fake=torch.tensor(2.0))
    assert asked.floats() == {"l1": 0.5, "critic_fake": 2.0}
    assert not asked.tensors()["l1"].requires_grad


def test_the_mouth_is_below_the_middle_and_keeps_off_the_sides() -> None:
    rows_SS = torch.arange(96.0).expand(96, 96)
    across, down = at_the_mouth(rows_SS[None, None]), at_the_mouth(rows_SS.T[None, None])
    assert (float(across.min()), float(across.max())) == (19, 76)
    assert (float(down.min()), float(down.max())) == (54, 91)


def test_the_mouth_counts_on_top_of_everything_else() -> None:
    assert float(LossWeights(mouth=2.0).total(terms(l1=1.0, mouth=0.5))) == pytest.approx(2.0)
    with pytest.raises(ConfigError, match=r"losses\.mouth"):
        LossWeights(mouth=-1.0).check("here")


def test_motion_forgives_each_clip_its_own_shade_and_asks_for_what_moves():
    targets_N1SS = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(3))
    shade_N = torch.tensor([0.2, 0.2, 0.2, -0.1, -0.1])[:, None, None, None]
    assert float(motion(targets_N1SS + shade_N, targets_N1SS, (3, 2))) == pytest.approx(0.0, abs=1e-7)
    assert float(motion(targets_N1SS + shade_N, targets_N1SS, (5,))) > 0.1  # another clip's shade is not its own
    wrong_N1SS = targets_N1SS.clone()
    wrong_N1SS[3] += 0.4
    # The clip of two is 0.2 off its mean in both, of five pictures
    assert float(motion(wrong_N1SS, targets_N1SS, (3, 2))) == pytest.approx(2 * 0.2 / 5)
    assert float(motion(wrong_N1SS, targets_N1SS, (1, 1, 1, 1, 1))) == 0.0


def test_motion_tells_an_open_mouth_from_a_closed_one_where_l1_only_asks_for_light():
    targets_N1SS = torch.tensor([0.2, 0.4])[:, None, None, None]
    losses = ((lambda x: F.l1_loss(x, targets_N1SS), [-1, -1]), (lambda x: motion(x, targets_N1SS, (2,)), [1, -1]))
    for loss, pulls in losses:
        dark_N1SS = torch.zeros(2, 1, 1, 1, requires_grad=True)
        loss(dark_N1SS).backward()
        assert torch.sign(dark_N1SS.grad).flatten().tolist() == pulls
