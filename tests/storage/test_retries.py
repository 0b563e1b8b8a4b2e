"""A budget for repeats: what a store that is down is asked, and that a healthy one is asked as often as before."""

from __future__ import annotations

import pytest

from talklip_ray.errors import TransientStoreError
from talklip_ray.storage.retries import DamagedError, RetryBudget, TryAgainError, again_after


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)


class Asked:
    """A store that fails its first ``fails`` calls."""

    def __init__(self, fails: int) -> None:
        self.fails = fails
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        if self.calls <= self.fails:
            raise TryAgainError("s3://bucket/a", "found it cut short")
        return self.calls


def test_a_call_is_repeated_until_it_succeeds_or_five_times() -> None:
    again = again_after(TryAgainError, budget=RetryBudget())
    assert again(Asked(fails=4))() == 5
    down = Asked(fails=99)
    with pytest.raises(TryAgainError):
        again(down)()
    assert down.calls == 5


def test_other_errors_are_not_repeated() -> None:
    down = Asked(fails=99)
    with pytest.raises(TryAgainError):
        again_after(DamagedError, budget=RetryBudget())(down)()
    assert down.calls == 1


def test_a_store_that_is_down_is_asked_once_a_call_when_the_budget_is_spent() -> None:
    down = Asked(fails=10**9)
    call = again_after(TryAgainError, budget=RetryBudget(most=6, successes=10))(down)
    for _ in range(20):
        with pytest.raises(TransientStoreError):
            call()
    assert down.calls == 20 + 6


def test_successes_pay_for_later_repeats_and_never_for_more_than_the_most() -> None:
    budget = RetryBudget(most=2, successes=10)
    again = again_after(TryAgainError, budget=budget)
    for _ in range(1000):
        again(Asked(fails=0))()
    assert [budget.take() for _ in range(3)] == [True, True, False]
    for _ in range(9):
        again(Asked(fails=0))()
    assert not budget.take()
    again(Asked(fails=0))()
    assert [budget.take(), budget.take()] == [True, False]


def test_calls_of_one_process_share_one_budget() -> None:
    budget = RetryBudget(most=4, successes=10)
    first, second = Asked(fails=99), Asked(fails=99)
    for down in (first, second):
        with pytest.raises(TryAgainError):
            again_after(TryAgainError, budget=budget)(down)()
    assert (first.calls, second.calls) == (5, 1)
