"""What stops a run, and what does not."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor

from talklip_ray.training.alarm import Alarm, DivergedError, finite


def terms(**values: float) -> dict[str, Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def watching(explosion: float = 10.0, *, calm: int = 60) -> Alarm:
    """An alarm that has seen ``calm`` steps of the usual kind."""
    alarm = Alarm(explosion, lambda step: f"`rows of {step}`")
    for step in range(1, calm + 1):
        alarm.note(step, terms(lip=2.0 + step % 2, critic=0.001))
    alarm.check()
    return alarm


def test_the_first_bad_step_is_named_with_its_rows_though_others_follow() -> None:
    alarm = watching()
    for step, value in ((61, 2.0), (62, float("inf")), (63, float("nan"))):
        alarm.note(step, terms(lip=value))
    with pytest.raises(DivergedError, match=r"step 62: `lip` must be a finite number, found inf .*`rows of 61`"):
        alarm.check()


def test_a_term_far_from_its_median_stops_the_run() -> None:
    alarm = watching()
    alarm.note(61, terms(lip=40.0, critic=0.001))
    with pytest.raises(DivergedError, match=r"step 61: `lip` must stay under 10 times its median of 2.5, found 40"):
        alarm.check()


@pytest.mark.parametrize(
    ("alarm", "values"),
    [
        (watching(), {"lip": 20.0, "critic": 0.001}),
        (watching(), {"lip": 2.0, "critic": 0.9}),
        (watching(explosion=0.0), {"lip": 1e9, "critic": 0.001}),
        (watching(calm=20), {"lip": 1e9, "critic": 0.001}),
    ],
    ids=["not so far", "small numbers", "switched off", "too early to tell"],
)
def test_what_is_not_far_or_cannot_be_judged_goes_on(alarm, values) -> None:
    alarm.note(61, terms(**values))
    assert alarm.check() == pytest.approx(values)


def test_nothing_noted_is_nothing_found() -> None:
    assert watching().check() == {}


def test_a_measure_that_is_no_number_says_where() -> None:
    finite({"l1": 0.2}, "validation")
    with pytest.raises(DivergedError, match="validation: `l1` must be a finite number, found nan; look at the rows"):
        finite({"l1": float("nan")}, "validation")


def test_it_crosses_processes_with_its_words() -> None:
    assert str(pickle.loads(pickle.dumps(DivergedError("step 1", "why")))) == "step 1: why"
