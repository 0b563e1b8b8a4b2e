"""Adapting: what is learnt from, what is kept from the learner, and that the result is never worse than the start."""

import math
import time
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from talklip_ray.config import AdaptConfig, LocateConfig
from talklip_ray.errors import ConfigError, TitleError
from talklip_ray.faces.detect import detector_of
from talklip_ray.media.clipwriter import write_video
from talklip_ray.media.features import Voice
from talklip_ray.models.checkpoints import load_network, read_header, save_network
from talklip_ray.models.headers import Header
from talklip_ray.models.talklip import Painted
from talklip_ray.storage.uri import open_store
from talklip_ray.training.adapting import Trainer, adapt, fingerprint
from talklip_ray.training.material import Material, Subject, UnfitTitleError, pieces, scattered, split
from talklip_ray.training.reading import Sample, listen
from tests.talking import rgb_frames, small_clip
from tests.training import tiny

CPU = torch.device("cpu")
STEPS = AdaptConfig(minutes=0.0, steps=12, learning_rate=1e-2, batch_frames=4, checks=2)


@pytest.fixture
def material(talking):
    """Two stretches of stripes: the mouth is as open as the sound is loud."""
    return stretched([talking(f"piece-{n}", seed=n, num_frames=45) for n in range(2)])


def stretched(found, voice=Voice.LOCAL, hold_out=0.2):
    stretches = [
        split(Sample(piece=p, voice=listen(p, voice)), np.zeros(p.num_frames, int), rate=25.0, hold_out=hold_out)
        for p in found
    ]
    return Material(stretches=tuple(stretches), etag="etag", seconds=8.0)


def network(variant="l", seed=0):
    torch.manual_seed(seed)
    return tiny.generator(variant).build()


def trained(material, config=STEPS, *, variant="l", from_nothing=False, started=None):
    """The trainer after its budget, and what it says."""
    trainer = Trainer(started or network(variant), material, config, CPU, from_nothing=from_nothing)
    return trainer, trainer.run(0.0, lambda told: None)


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("variant", ["l", "gc"])
def test_it_paints_held_out_frames_better_than_before(talking, variant):
    found = stretched([talking(f"piece-{n}", seed=n, num_frames=45) for n in range(2)], tiny.generator(variant).voice)
    trainer, done = trained(found, replace(STEPS, steps=16), variant=variant, from_nothing=True)
    assert done.l1_after < 0.9 * done.l1_before
    assert done.l1_after == pytest.approx(trainer.held_out_l1(), abs=1e-6)
    assert (done.steps, done.frames, done.frames_held_out) == (16, 2 * 31, 2 * 9)


def test_training_that_only_does_harm_leaves_the_weights_it_began_with(material):
    started = network()
    before = {name: tensor.clone() for name, tensor in started.state_dict().items()}
    trainer, done = trained(material, replace(STEPS, learning_rate=100.0), started=started)
    assert (done.best_step, done.l1_after) == (0, done.l1_before)
    assert same(before, trainer.network.state_dict())


def test_the_same_steps_give_the_same_weights(material):
    (one, _), (other, _), (different, _) = (
        trained(material, replace(STEPS, steps=2, seed=seed), from_nothing=True) for seed in (1, 1, 2)
    )
    assert same(one.network.state_dict(), other.network.state_dict())
    assert not same(one.network.state_dict(), different.network.state_dict())


@pytest.mark.parametrize(
    ("learns", "changed"),
    [
        ("all", {"generator", "video_encoder", "local_listener"}),
        ("picture", {"generator", "video_encoder"}),
        ("decoder", {"generator"}),
    ],
)
def test_only_what_is_to_learn_changes(material, learns, changed):
    started = network()
    before = {name: tensor.clone() for name, tensor in started.state_dict().items()}
    trainer = Trainer(started, material, replace(STEPS, learns=learns), CPU, from_nothing=False)
    trainer._step(0, 1e-2)
    found = {n for n, tensor in trainer.network.state_dict().items() if not torch.equal(tensor, before[n])}
    assert {name.partition(".")[0] for name in found} == changed
    assert not [name for name in found if "running" in name]


def test_statistics_move_where_they_may(material):
    trainer = Trainer(network(), material, replace(STEPS, still_norms=False), CPU, from_nothing=False)
    before = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items() if "running" in name}
    trainer._step(0, 1e-2)
    assert not same(before, trainer.network.state_dict())


def test_who_it_is_is_shown_by_a_frame_of_the_same_shot_that_is_not_near(talking):
    """A neighbour's mouth is nearly one's own: shown for identity it would teach copying."""
    piece = talking(num_frames=100, faceless=(30,))
    shots_T = np.repeat([0, 1], 50)
    stretch = split(Sample(piece=piece, voice=listen(piece, Voice.LOCAL)), shots_T, rate=25.0, hold_out=0.2)
    found = Material(stretches=(stretch,), etag="", seconds=4.0)
    trainer = Trainer(network(), found, STEPS, CPU, from_nothing=False)
    shown = [
        trainer._window(0, frame, rng=np.random.default_rng(seed)) for _, frame in trainer.train for seed in range(5)
    ] + [trainer._window(0, frame) for _, frame in trainer.valid]
    assert min(abs(window.pose - window.identity) for window in shown) >= 10
    assert all(shots_T[window.pose] == shots_T[window.identity] for window in shown)
    assert all(stretch.train_T[window.identity] for window in shown)
    assert 30 not in {frame for window in shown for frame in (window.pose, window.identity)}


def test_a_network_that_repaints_the_mouth_alone_is_shown_the_very_frame_and_learns(material):
    torch.manual_seed(0)
    started = replace(tiny.generator("l"), repaints="mouth").build()
    trainer, done = trained(material, replace(STEPS, hide_identity=1.0), started=started)
    batch = trainer._drawn(0)
    assert torch.equal(batch.identities_NSSC, batch.poses_NSSC)
    assert done.l1_after < done.l1_before
    assert done.l1_before < 0.1  # all but the mouth is there from the start


def test_the_mouth_of_who_it_is_is_painted_over_as_often_as_asked(material):
    """Dubbing shows it: a network that had learnt to rely on it would dub nothing."""
    for share, least, most in ((0.0, 0, 0), (0.5, 10, 30), (1.0, 40, 40)):
        trainer = Trainer(network(), material, replace(STEPS, hide_identity=share), CPU, from_nothing=False)
        identities = torch.cat([trainer._drawn(step).identities_NSSC for step in range(10)])
        lower = identities[:, 48:].flatten(1, 2).float()
        flat, grey = lower.std(1).sum(1) == 0, lower[:, 0].std(1) == 0  # shut mouths of this material are grey
        assert least <= int((flat & ~grey).sum()) <= most
        assert (identities[:, :48].flatten(1).float().std(1) > 0).all()


class Painter(torch.nn.Module):
    """Paints from what it sees, whatever it hears."""

    def __init__(self, paint):
        super().__init__()
        self.paint = paint

    def forward(self, faces_N6SS, *heard):
        return Painted(self.paint(faces_N6SS), None)


@pytest.mark.parametrize(
    ("paint", "copies"),
    [(lambda faces: faces[:, 3:], 1.0), (lambda faces: faces[:, :3], 0.0), (lambda faces: faces[:, 3:] / 4, 0.25)],
)
def test_a_network_that_copies_the_mouth_it_is_shown_is_found_out(material, paint, copies):
    trainer = Trainer(network(), material, STEPS, CPU, from_nothing=False)
    trainer.engine = Painter(paint)
    trainer.engine.network = network()
    assert trainer.copies() == pytest.approx(copies, abs=1e-5)


def test_the_frames_that_examine_are_the_last_and_no_neighbours_of_those_that_teach(talking):
    stretch = stretched([talking(num_frames=100)]).stretches[0]
    assert np.flatnonzero(stretch.train_T).tolist() == list(range(75))
    assert np.flatnonzero(stretch.valid_T).tolist() == list(range(80, 100))


def test_brightness_changes_what_is_shown_and_what_is_wanted_alike(material):
    trainer = Trainer(network(), material, replace(STEPS, brightness=0.5), CPU, from_nothing=False)
    batch = trainer._drawn(3)
    torch.testing.assert_close(batch.faces_N6SS[:, :3, :48], batch.targets_N3SS[:, :, :48])
    assert batch.targets_N3SS.mean((1, 2, 3)).std() > 0.02
    assert not batch.faces_N6SS[:, :3, 48:].any()


@pytest.mark.slow
def test_sound_from_elsewhere_is_told_from_its_own(material):
    """A network that had learnt to listen paints worse when it hears another moment."""
    trainer, done = trained(material, replace(STEPS, steps=150), from_nothing=True)
    assert done.l1_other_sound == pytest.approx(trainer.held_out_l1(other_sound=True))
    assert done.l1_other_sound > done.l1_after


def test_a_budget_in_minutes_ends_the_training(material):
    config = replace(STEPS, steps=0, minutes=0.15)
    trainer = Trainer(network(), material, config, CPU, from_nothing=False)
    shares, begun = [], time.monotonic()
    done = trainer.run(begun, lambda told: shares.append(told.share))
    assert done.steps > 0
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_budget_that_finding_faces_has_eaten_is_refused(material):
    trainer = Trainer(network(), material, replace(STEPS, steps=0, minutes=1.0), CPU, from_nothing=False)
    with pytest.raises(TitleError, match=r"raise `adapt\.minutes`"):
        trainer.run(time.monotonic() - 55, lambda told: None)


def test_pieces_cover_what_they_may_and_the_first_few_are_spread():
    class Info:
        num_frames, rate = 1000, Fraction(25)

    whole = pieces(Info, (), 10.0)
    assert whole == [(0, 250), (250, 500), (500, 750), (750, 1000)]
    assert pieces(Info, ((10, 20), (990, 2000)), 10.0) == [(10, 20), (990, 1000)]
    assert scattered(8)[:4] == [0, 4, 2, 6]
    assert sorted(scattered(1000)) == list(range(1000))


def test_the_name_of_adapted_weights_is_that_of_everything_they_depend_on():
    names = {
        fingerprint(start, etags, config, locate)
        for start, etags, config, locate in (
            ("a", ["v"], STEPS, LocateConfig()),
            ("b", ["v"], STEPS, LocateConfig()),
            ("a", ["w"], STEPS, LocateConfig()),
            ("a", ["v"], replace(STEPS, steps=41), LocateConfig()),
            ("a", ["v"], STEPS, LocateConfig(smooth=1)),
        )
    }
    assert len(names) == 5
    same_work = replace(STEPS, cpus=4.0, on_failure="fail")
    assert fingerprint("a", ["v"], same_work, LocateConfig()) in names


@pytest.mark.parametrize(
    "settings",
    [{"minutes": 0.0}, {"minutes": -1.0}, {"hold_out": 0.0}, {"learning_rate": 0.0}, {"piece_seconds": 1.0}],
)
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        AdaptConfig(**settings)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("adapt") / "clip.mp4"
    small_clip(path, seed=5)
    return path


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    path = tmp_path_factory.mktemp("adapt") / "start.safetensors"
    save_network(path, network(), Header(licence="Apache-2.0"))
    return path


def adapted(video, start, out, config=STEPS, **subject):
    detector = detector_of(LocateConfig(), None)
    subject = Subject(video=str(video), **subject)
    return adapt(open_store(), subject, start, config, out, locate=LocateConfig(), detector=detector, device=CPU)


def test_a_video_gives_weights_that_load_and_say_how_they_were_made(clip, start, tmp_path):
    out = tmp_path / "adapted.safetensors"
    done = adapted(clip, start, out, replace(STEPS, steps=6))
    assert done.l1_after < done.l1_before
    load_network(out)
    header = read_header(out)
    assert header.tensors_sha256 == done.tensors_sha256
    assert header.notes["adapted"]["steps"] == 6
    assert header.notes["start"] == read_header(start).tensors_sha256
    assert header.licence.endswith("Apache-2.0")
    assert not list(tmp_path.glob(".*"))


def test_from_nothing_needs_no_weights(clip, tmp_path):
    done = adapted(clip, tiny.generator("l"), tmp_path / "adapted.safetensors", replace(STEPS, steps=6))
    assert math.isfinite(done.l1_after)
    assert load_network(tmp_path / "adapted.safetensors")[0].config == tiny.generator("l")


def test_videos_with_nothing_to_adapt_to_say_what_to_do(clip, start, tmp_path):
    frames = rgb_frames(clip)
    mute, silent, scenery = tmp_path / "mute.mp4", tmp_path / "silent.mp4", tmp_path / "scenery.mp4"
    nothing = np.zeros(16_000 * 3, np.float32)
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000 * 3).astype(np.float32)
    blank = [np.full_like(frames[0], 90)] * len(frames)
    for path, shown, sound in ((mute, frames, None), (silent, frames, nothing), (scenery, blank, noise)):
        heard = {} if sound is None else {"sound": (sound, 16_000)}
        write_video(path, shown, rate=Fraction(25), size=(256, 256), **heard)
    for video, subject, words in (
        (mute, {}, "original sound"),
        (silent, {}, "found silence; give it as --audio"),
        (scenery, {}, "found none; do not adapt"),
        (clip, {"within": ((0, 30),)}, "longer video"),
    ):
        with pytest.raises(UnfitTitleError, match=words):
            adapted(video, start, tmp_path / "adapted.safetensors", **subject)
    assert not (tmp_path / "adapted.safetensors").exists()
    adapted(mute, start, tmp_path / "adapted.safetensors", replace(STEPS, steps=1), audio=str(clip))
