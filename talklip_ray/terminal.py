"""The terminal of every command: where results go, where errors go, and how a command ends that cannot go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from talklip_ray.errors import ConfigError, StoreError
from talklip_ray.pipeline.results import EXIT_CONFIG

out = Console()
err = Console(stderr=True)


@contextmanager
def exiting() -> Iterator[None]:
    """Turns what the operator must act on into one line and exit code 2."""
    try:
        yield
    except (ConfigError, StoreError) as error:
        err.print(f"[red]{type(error).__name__}[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(EXIT_CONFIG) from error
