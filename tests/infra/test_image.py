"""The image's file, read. `make image-check` carries it out, and takes minutes."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.architecture.source import ROOT
from tests.infra.image import DOCKERFILE, instructions

STEPS = list(instructions(DOCKERFILE.read_text()))


def of(keyword: str) -> list[str]:
    return [rest for name, rest in STEPS if name == keyword]


def test_what_runs_is_not_root_and_has_a_health_command() -> None:
    names = [name for name, _ in STEPS]
    assert of("USER") == ["1000"]
    assert "RUN" not in names[names.index("USER") :]
    assert 'CMD ["talklip", "doctor"]' in of("HEALTHCHECK")[0]


def test_the_base_is_pinned_and_packages_are_too() -> None:
    assert of("FROM") == ["debian:${DEBIAN}"]
    assert re.fullmatch(r"DEBIAN=12\.\d+-slim", of("ARG")[0])
    for run in of("RUN"):
        for command in re.findall(r"pip install[^&]*", run):
            assert "--constraint constraints.txt" in command or "--no-deps" in command


@pytest.mark.parametrize("source", [name for rest in of("COPY") for name in rest.split()[:-1]])
def test_what_is_copied_exists_and_is_sent_to_the_engine(source: str) -> None:
    assert (ROOT / source).exists()
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    assert sent[1] == "*"
    assert f"!{source}" in sent


def test_extras_that_are_installed_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"\['optional-dependencies'\]\['(\w+)'\]", " ".join(of("RUN")))
    assert named
    assert set(named) <= extras.keys()


def test_instructions_are_joined_and_comments_left_out() -> None:
    assert list(instructions("# a\nRUN one \\\n    two \\\n    # no\n    three\nUSER 1\n")) == [
        ("RUN", "one two three"),
        ("USER", "1"),
    ]
