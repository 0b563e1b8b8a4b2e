"""Whether a command line of the files is one that our programs take; nothing is started."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any

import typer

from talklip_ray.cli import app
from talklip_ray.cli_settings import settings
from talklip_ray.errors import ConfigError
from talklip_ray.training.config import override
from talklip_ray.training.recipes import recipe
from tests.architecture.source import ROOT

SHELL = set("|&;<>()$`\\\"'*?{}!#\n")
"""KubeRay writes the entrypoint into a shell command as it stands."""
UsageError = typer.BadParameter.__mro__[1]
"""Of the click that typer carries inside, which has no public name."""


def entrypoint(command: str) -> Iterator[str]:
    """What is wrong with a RayJob's entrypoint."""
    if found := sorted(SHELL & set(command)):
        yield f"entrypoint: a shell would read {' '.join(found)} in `{command}`"
        return
    yield from program(shlex.split(command))


@cache
def _checked(words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_program(words))


def program(words: list[str]) -> tuple[str, ...]:
    """What is wrong with `python jobs/x.py …`."""
    return _checked(tuple(words))


def _program(words: tuple[str, ...]) -> Iterator[str]:
    if len(words) < 2 or words[0] != "python" or not re.fullmatch(r"jobs/\w+\.py", words[1]):
        yield f"command: must read `python jobs/…`, found `{' '.join(words)}`"
        return
    if not (ROOT / words[1]).is_file():
        yield f"command: {words[1]} does not exist"
        return
    known = {"jobs/dub.py": _dub, "jobs/train.py": _train, "jobs/nightly.py": _nightly}
    if words[1] not in known:
        yield f"command: no check knows the options of {words[1]}"
        return
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            known[words[1]](list(words[2:]))
    except (ConfigError, UsageError) as error:
        yield f"command: {words[1]} refuses: {error}"
    except SystemExit:
        yield f"command: {words[1]} refuses: {said.getvalue().strip().splitlines()[-1]}"


def _dub(arguments: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    for name in ("dub", "run"):
        command = command.commands[name]
    with command.make_context("dub run", arguments) as context:
        settings(None, context.params["set_"], context.params["weights"])


def _train(arguments: list[str]) -> None:
    from jobs.train import parse  # torch, DeepSpeed and Ray come with it: only where a file trains

    args = parse(arguments)
    override(recipe(args.recipe), dict(args.set))


def _nightly(arguments: list[str]) -> None:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise ConfigError("jobs/nightly.py", "must get one file")
