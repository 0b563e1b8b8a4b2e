"""When a phase ends: by patience, by steps, and against which best."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from talklip_ray.errors import ConfigError
from talklip_ray.training.curriculum import CurriculumConfig, Phase, Standing, begin, judge, pace

DEFAULT = CurriculumConfig()


def after(validations: Iterable[float], config: CurriculumConfig = DEFAULT) -> Standing:
    """The standing after one validation every ten steps."""
    standing = begin(config)
    for number, validation in enumerate(validations, start=1):
        standing = judge(standing, config, validation, 10 * number)
    return standing


def test_a_run_goes_from_pictures_over_the_listener_to_lips() -> None:
    assert DEFAULT.phases == (Phase.RECONSTRUCT, Phase.TUNE_LISTENER, Phase.READ_LIPS)
    assert begin(DEFAULT) == Standing(phase=Phase.RECONSTRUCT)


def test_the_sixth_miss_ends_a_phase_and_no_earlier_one() -> None:
    assert after([0.5, *[0.6] * 5]) == Standing(phase=Phase.RECONSTRUCT, best=0.5, waited=5)
    assert after([0.5, *[0.6] * 6]) == Standing(phase=Phase.TUNE_LISTENER, since=70)


def test_as_good_as_the_best_is_a_miss() -> None:
    assert after([0.5, 0.5]).waited == 1


def test_the_wait_begins_anew_with_every_improvement() -> None:
    assert after([0.5, *[0.6] * 5, 0.4, *[0.5] * 5]) == Standing(phase=Phase.RECONSTRUCT, best=0.4, waited=5)


def test_without_patience_the_first_miss_ends_the_phase() -> None:
    assert after([0.5, 0.6], CurriculumConfig(patience=0)).phase == Phase.TUNE_LISTENER


def test_a_new_phase_is_measured_against_itself() -> None:
    """Its terms cost reconstruction, so the old phase's best may never come back."""
    standing = after([0.5, *[0.6] * 6, 0.9, 0.8])
    assert standing == Standing(phase=Phase.TUNE_LISTENER, since=70, best=0.8)


def test_the_released_code_keeps_its_best_from_phase_to_phase_and_starts_at_a_hundred() -> None:
    config = CurriculumConfig(released_best=True)
    assert after([100.0], config) == Standing(phase=Phase.RECONSTRUCT, best=100.0, waited=1)
    standing = after([0.5, *[0.6] * 6, 0.55], config)
    assert standing == Standing(phase=Phase.TUNE_LISTENER, since=70, best=0.5, waited=1)


def test_after_the_last_phase_the_run_is_over() -> None:
    config = CurriculumConfig(phases=(Phase.RECONSTRUCT,), patience=0)
    assert after([0.5, 0.4], config).over is False
    standing = after([0.5, 0.6], config)
    assert (standing.phase, standing.over, standing.best) == (Phase.RECONSTRUCT, True, 0.5)


def test_a_phase_has_its_steps_counted_from_where_it_began() -> None:
    config = CurriculumConfig(most_steps=3)
    standing, phases = begin(config), []
    for step in range(10):
        standing = pace(standing, config, step)
        phases.append("over" if standing.over else standing.phase)
    assert phases == [*["reconstruct"] * 3, *["tune_listener"] * 3, *["read_lips"] * 3, "over"]


def test_a_phase_that_patience_ended_early_gives_the_next_one_all_its_steps() -> None:
    config = CurriculumConfig(most_steps=30, patience=0)
    standing = after([0.5, 0.6], config)
    assert standing == Standing(phase=Phase.TUNE_LISTENER, since=20)
    assert pace(standing, config, 49).phase == Phase.TUNE_LISTENER
    assert pace(standing, config, 50) == Standing(phase=Phase.READ_LIPS, since=50)


def test_without_a_limit_steps_end_nothing() -> None:
    assert pace(begin(DEFAULT), DEFAULT, 10**9) == begin(DEFAULT)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"phases": ()}, "at least one, each once, found none"),
        ({"phases": (Phase.READ_LIPS, Phase.READ_LIPS)}, "each once, found read_lips, read_lips"),
        ({"patience": -1}, r"`curriculum\.patience` .* must not be negative"),
        ({"most_steps": -1}, r"`curriculum\.most_steps` must not be negative"),
    ],
)
def test_what_is_no_curriculum_is_refused(given, words) -> None:
    with pytest.raises(ConfigError, match=rf"recipe x: .*{words}"):
        CurriculumConfig(**given).check("recipe x")
