from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from talklip_ray.errors import ConfigError
from talklip_ray.models.critic import SLOPE
from talklip_ray.models.mouth import at_the_mouth
from talklip_ray.models.talklip import small
from talklip_ray.training.batches import assemble
from talklip_ray.training.config import EngineConfig, EngineKind, OptimizerConfig, Precision
from talklip_ray.training.engine import PlainEngine, build_engine
from talklip_ray.training.engine_state import read_parts, write_part
from talklip_ray.training.losses import LossWeights, forged, genuine, reconstruction
from talklip_ray.training.reading import Sample, listen
from talklip_ray.training.step import Cast, improve_critic, objective, step, validate
from talklip_ray.training.windows import Window
from tests.training import tiny

CPU = torch.device("cpu")


def plain(variant: str = "l", **engine) -> PlainEngine:
    torch.manual_seed(0)
    config = EngineConfig(kind=EngineKind.PLAIN, **engine)
    built = build_engine(small(variant).build(), config, OptimizerConfig(betas=(0.9, 0.999)), CPU)
    assert isinstance(built, PlainEngine)
    return built


@pytest.fixture
def batch_for(talking):
    def make(variant: str = "l", *, num_windows: int = 4):
        network = small(variant)
        piece = talking(num_frames=40, seed=5)
        windows = [Window(pose=7 * n, identity=39 - n, length=1) for n in range(num_windows)]
        return assemble([(Sample(piece=piece, voice=listen(piece, network.voice)), windows)], network)

    return make


def test_l1_of_a_picture_with_itself_is_nothing_and_of_black_with_white_is_one():
    black, white = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    assert reconstruction(white, white).item() == 0.0
    assert reconstruction(black, white).item() == 1.0


def test_reconstruction_takes_what_lip_reading_and_the_critic_leave():
    assert LossWeights().reconstruction == 1.0
    assert LossWeights(lip=1e-5, critic=0.07).reconstruction == pytest.approx(0.92999)


@pytest.mark.parametrize("weights", [LossWeights(critic=-0.1), LossWeights(lip=0.5, critic=0.5)])
def test_weights_that_leave_nothing_to_reconstruct_or_are_negative_are_refused(weights):
    with pytest.raises(ConfigError, match=r"losses\.critic"):
        weights.check("recipe x")


@pytest.mark.parametrize("precision", list(Precision))
def test_a_few_steps_on_one_batch_bring_the_l1_down(batch_for, precision):
    engine, batch = plain(precision=precision), batch_for()
    losses = [step(Cast(generator=engine), [batch], LossWeights(), 3e-3).floats()["l1"] for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(("variant", "listener"), [("l", "local_listener"), ("g", "global_listener")])
def test_both_encoders_are_told_how_to_improve(batch_for, variant, listener):
    engine, batch = plain(variant), batch_for(variant)
    terms = reconstruction(engine(*batch.inputs()).patches_N3SS, batch.targets_N3SS)
    engine.backward(terms)
    for name in ("video_encoder", listener, "generator"):
        norms = [p.grad.norm() for p in getattr(engine.network, name).parameters() if p.grad is not None]
        assert norms, name
        assert sum(norms) > 0, name


def test_the_learning_rate_given_is_the_one_used(batch_for):
    engine, batch = plain(), batch_for()
    before = [p.clone() for p in engine.network.parameters()]
    step(Cast(generator=engine), [batch], LossWeights(), 0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, engine.network.parameters(), strict=True))
    step(Cast(generator=engine), [batch], LossWeights(), 1e-3)
    assert not all(torch.equal(a, b) for a, b in zip(before, engine.network.parameters(), strict=True))


def test_gradients_are_cleared_between_steps(batch_for):
    """Without it the second of two equal steps would go twice as far as Adam's own momentum takes it."""
    engine, batch = plain(), batch_for()
    step(Cast(generator=engine), [batch], LossWeights(), 1e-3)
    assert all(p.grad is None for p in engine.network.parameters())


def test_weights_scale_the_gradient_but_not_the_logged_terms(batch_for):
    batch = batch_for()
    all_weights = LossWeights(), LossWeights(critic=0.5)
    whole, half = (step(Cast(generator=plain()), [batch], weights, 0.0) for weights in all_weights)
    assert whole.floats() == half.floats()
    assert LossWeights(critic=0.5).total(half) == 0.5 * half.l1


def test_validation_counts_frames_and_leaves_the_network_training(batch_for):
    engine = plain()
    few, many = batch_for(num_windows=1), batch_for(num_windows=5)
    one, five = validate(engine, [few]), validate(engine, [many])
    assert validate(engine, [few, many]) == pytest.approx((one + 5 * five) / 6)
    assert engine.network.training


def test_an_engine_read_back_goes_on_where_it_was_saved(batch_for, tmp_path):
    batch = batch_for()
    engine, other = plain(), plain()
    step(Cast(generator=engine), [batch], LossWeights(), 1e-3)
    write_part(tmp_path, 0, 1, engine.kept(0, 1))
    other.restore(read_parts(tmp_path), "here")
    on = [step(Cast(generator=e), [batch], LossWeights(), 1e-3).floats() for e in (engine, other) for _ in range(2)]
    assert on[:2] == on[2:]


def test_clipping_bounds_the_update(batch_for):
    batch = batch_for()
    config = OptimizerConfig(betas=(0.9, 0.999), eps=1.0, clip_norm=1e-3)
    moved = []
    for optimizer in (config, replace(config, clip_norm=0.0)):
        torch.manual_seed(0)
        engine = build_engine(small("l").build(), EngineConfig(kind=EngineKind.PLAIN), optimizer, CPU)
        before = torch.cat([p.detach().flatten() for p in engine.network.parameters()])
        step(Cast(generator=engine), [batch], LossWeights(), 1.0)
        moved.append((torch.cat([p.detach().flatten() for p in engine.network.parameters()]) - before).norm())
    assert moved[0] < 0.5 * moved[1]


WATCHED = LossWeights(critic=0.5)


def against_a_critic(*, learning_rate: float = 1e-3) -> Cast:
    """A tiny generator and its critic, the same ones each time.

    The critic's weights let a picture through: with torch's own, its first thousand steps would go into that.
    """
    torch.manual_seed(3)
    optimizer = OptimizerConfig(learning_rate=learning_rate, betas=(0.9, 0.999))
    generator, critic = (
        build_engine(config.build(), EngineConfig(kind=EngineKind.PLAIN), optimizer, CPU)
        for config in (tiny.generator("l"), tiny.CRITIC)
    )
    for layer in critic.network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, SLOPE)
    return Cast(generator=generator, critic=critic)


def gradients_at_step(cast: Cast, batch, **how) -> list[Tensor]:
    """The critic's gradients as its optimizer meets them."""
    met: list[Tensor] = []
    assert cast.critic is not None
    cast.critic.step = lambda learning_rate: met.extend(p.grad.clone() for p in cast.critic.network.parameters())
    step(cast, [batch], WATCHED, 0.0, **how)
    return met


def test_the_critic_learns_from_its_own_verdicts_alone(batch_for):
    batch, cast, other = batch_for(), against_a_critic(), against_a_critic()
    painted_N3SS = other.generator(*batch.inputs()).patches_N3SS.detach()
    verdicts = genuine(other.critic.network(batch.targets_N3SS)) + forged(other.critic.network(painted_N3SS))
    wanted = torch.autograd.grad(verdicts, list(other.critic.network.parameters()))
    for met, due in zip(gradients_at_step(cast, batch), wanted, strict=True):
        assert torch.allclose(met, due, rtol=1e-3, atol=1e-6)
        assert due.abs().max() > 1e-4


def test_the_released_leak_adds_the_weighted_perceptual_gradient_to_the_critics_own(batch_for):
    batch, other = batch_for(), against_a_critic()
    clean = gradients_at_step(against_a_critic(), batch)
    leaked = gradients_at_step(against_a_critic(), batch, released_discriminator_leak=True)
    painted_N3SS = other.generator(*batch.inputs()).patches_N3SS.detach()
    perceptual = WATCHED.critic * genuine(other.critic.network(painted_N3SS))
    extra = torch.autograd.grad(perceptual, list(other.critic.network.parameters()))
    for met, own, due in zip(leaked, clean, extra, strict=True):
        assert torch.allclose(met, own + due, rtol=1e-3, atol=1e-6)
        assert due.abs().max() > 1e-4


def test_the_generator_is_told_by_a_critic_that_holds_still(batch_for):
    cast = against_a_critic()
    _, terms = objective(cast, batch_for(), WATCHED)
    assert terms.critic is not None
    terms.critic.backward()
    assert all(p.grad is None for p in cast.critic.network.parameters())
    assert all(p.requires_grad for p in cast.critic.network.parameters())
    assert all(p.grad.abs().sum() > 0 for p in cast.generator.network.video_encoder.levels[0].parameters())


def test_the_critic_judges_what_was_painted_before_the_generators_update(batch_for):
    batch, cast, other = batch_for(), against_a_critic(), against_a_critic()
    with torch.no_grad():
        verdict = forged(other.critic.network(other.generator(*batch.inputs()).patches_N3SS))
    terms = step(cast, [batch], WATCHED, 0.5)
    assert terms.critic_fake is not None
    assert torch.allclose(terms.critic_fake, verdict)


def test_a_critic_learns_to_tell_painted_from_real(batch_for):
    critic, real_N3SS = against_a_critic().critic, batch_for().targets_N3SS
    told = [improve_critic(critic, 0.5 * real_N3SS, real_N3SS, 3e-3).floats() for _ in range(30)]
    first, last = (said["critic_real"] + said["critic_fake"] for said in (told[0], told[-1]))
    assert last < 0.5 * first


@pytest.mark.parametrize(("critic", "weight"), [(True, 0.0), (False, 0.5)])
def test_a_critic_that_is_not_asked_or_not_there_says_nothing_and_stays_as_it_is(batch_for, critic, weight):
    cast = against_a_critic()
    before = [p.detach().clone() for p in cast.critic.network.parameters()]
    asked = cast if critic else Cast(generator=cast.generator)
    assert list(step(asked, [batch_for()], LossWeights(critic=weight), 1e-3).floats()) == ["l1"]
    assert all(torch.equal(a, b) for a, b in zip(before, cast.critic.network.parameters(), strict=True))


def test_the_mouth_is_reported_and_pulls_only_where_it_is(batch_for):
    engine, batch = plain(), batch_for()
    patches_N3SS, terms = objective(Cast(generator=engine), batch, LossWeights(mouth=2.0))
    patches_N3SS.retain_grad()
    assert terms.mouth is not None
    terms.mouth.backward()
    pull_SS = patches_N3SS.grad.abs().sum(dim=(0, 1))
    assert float(pull_SS[60:80, 30:60].min()) > 0
    assert float(pull_SS[:50].max()) == float(pull_SS[:, :15].max()) == 0
    assert "mouth" not in step(Cast(generator=engine), [batch], LossWeights(), 1e-3).floats()


def test_motion_is_reported_by_clip_and_pulls_only_at_the_mouth(batch_for):
    engine = plain()
    batch = replace(batch_for(), frames_of_clip_B=(2, 2), positions_B=(0, 1))
    patches_N3SS, terms = objective(Cast(generator=engine), batch, LossWeights(motion=2.0))
    patches_N3SS.retain_grad()
    apart_NCSS = at_the_mouth(patches_N3SS - batch.targets_N3SS).detach()
    own = [part - part.mean(0) for part in apart_NCSS.split(2)]
    assert terms.motion.item() == pytest.approx(float(torch.cat(own).abs().mean()), rel=1e-5)
    terms.motion.backward()
    assert float(patches_N3SS.grad[..., :50, :].abs().max()) == 0
    assert "motion" not in step(Cast(generator=engine), [batch], LossWeights(), 1e-3).floats()


def test_twins_are_held_to_what_sets_them_apart_and_only_at_the_mouth(batch_for):
    engine, batch = plain(), batch_for()
    twins = torch.flip(batch.poses_NSSC, (2,))
    batch = replace(
        batch, twins_NSSC=twins, voice=torch.cat((batch.voice, batch.voice.flip(0))), frames_of_clip_B=(4, 4)
    )
    patches_N3SS, terms = objective(Cast(generator=engine), batch, LossWeights(twins=2.0))
    assert len(patches_N3SS) == 8
    patches_N3SS.retain_grad()
    wrong_NCSS = at_the_mouth(patches_N3SS - batch.targets_N3SS).detach()
    assert terms.twins.item() == pytest.approx(float((wrong_NCSS[:4] - wrong_NCSS[4:]).square().mean()), rel=1e-5)
    terms.twins.backward()
    assert float(patches_N3SS.grad[..., :50, :].abs().max()) == 0
    assert "twins" not in step(Cast(generator=engine), [batch], LossWeights(), 1e-3).floats()


def test_twins_and_a_lip_reader_do_not_go_together():
    with pytest.raises(ConfigError, match=r"`losses\.twins` paints each frame twice"):
        LossWeights(twins=1.0, contrast=1e-3).check("recipe x")
