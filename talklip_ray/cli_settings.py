"""Settings as every command of ``talklip`` takes them: a file, single values on top, and the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from talklip_ray.config import DubConfig, load
from talklip_ray.errors import ConfigError

Settings = Annotated[Path | None, typer.Option("--config", "-c", help="Settings file, YAML or JSON.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="One setting, as compose.crf=20. Repeatable.")]
MetricsPort = Annotated[int, typer.Option(help="Serve this process's metrics to Prometheus at this port; 0: do not.")]
Weights = Annotated[str | None, typer.Option(help="`starter`, or the path or URI of a safetensors file.")]


def settings(config: Path | None, overrides: list[str] | None, weights: str | None = None) -> DubConfig:
    """Settings from a file and the command line. Raises ConfigError."""
    pairs = {}
    for text in overrides or []:
        key, found, value = text.partition("=")
        if not found:
            raise ConfigError(f"--set {text}", "a setting must read key=value, as compose.crf=20")
        pairs[key] = value
    if weights:
        pairs["generate.weights"] = weights
    return load(config, pairs)
