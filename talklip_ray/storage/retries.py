"""Which calls to object storage are repeated by us, and how many of them a process may repeat.

A store that is down fails every call of every worker. If each of thousands went on to ask five times, the store
would be kept down by those who wait for it; so repeats are paid for from a budget that only successes refill.
botocore has the same for what it repeats itself (a quota of each client, in its standard mode).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from tenacity import RetryCallState, retry, retry_if_exception_type, wait_random_exponential

from talklip_ray.errors import TransientStoreError

P = ParamSpec("P")
R = TypeVar("R")

MOST_TRIES = 5


class TryAgainError(TransientStoreError):
    """A passing failure that the store's library does not repeat by itself.

    A body cut short, two writers in conflict.
    """


class DamagedError(TransientStoreError):
    """Bytes that arrived are not the ones that were sent, by their digest."""


class RetryBudget:
    """``most`` repeats at once; after that one for every ``successes`` calls that succeed."""

    def __init__(self, most: int = 100, successes: int = 10) -> None:
        self._most = self._left = most * successes
        self._price = successes
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Pays for one repeat; False when the budget does not allow it."""
        with self._lock:
            if self._left < self._price:
                return False
            self._left -= self._price
            return True

    def give_back(self) -> None:
        """One call has succeeded."""
        with self._lock:
            self._left = min(self._most, self._left + 1)


OF_THIS_PROCESS = RetryBudget()


def again_after(
    *kinds: type[TransientStoreError], budget: RetryBudget = OF_THIS_PROCESS
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Repeats a call after these errors, MOST_TRIES times in all; the others have been repeated by the store's library.

    With the budget spent the error is raised at once.
    """

    def is_enough(state: RetryCallState) -> bool:
        return state.attempt_number >= MOST_TRIES or not budget.take()

    def decorate(call: Callable[P, R]) -> Callable[P, R]:
        @wraps(call)
        def counted(*args: P.args, **kwargs: P.kwargs) -> R:
            result = call(*args, **kwargs)
            budget.give_back()
            return result

        return retry(
            retry=retry_if_exception_type(kinds),
            wait=wait_random_exponential(multiplier=0.1, max=5),
            stop=is_enough,
            reraise=True,
        )(counted)

    return decorate
