"""The terminal of every command: where results go, where errors go, and how a command ends that cannot go on."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from talklip_ray.errors import ConfigError, StoreError
from talklip_ray.pipeline.results import EXIT_CONFIG

out = Console()
err = Console(stderr=True)


def assignment(text: str) -> tuple[str, str]:
    """KEY=VALUE, as an argument's type for argparse."""
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"must read KEY=VALUE, found `{text}`")
    return key, value


@contextmanager
def exiting() -> Iterator[None]:
    """Turns what the operator must act on into one line and exit code 2."""
    try:
        yield
    except (ConfigError, StoreError) as error:
        err.print(f"[red]{type(error).__name__}[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(EXIT_CONFIG) from error
