"""The released sizes fill gigabytes: built once for these tests, and let go after them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.parity.networks import Networks


@pytest.fixture(scope="package")
def networks() -> Iterator[Networks]:
    built = Networks()
    yield built
    built.__dict__.clear()
