"""Which weights a run repaints with, found once and named by digest."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from talklip_ray.config import STARTER
from talklip_ray.errors import SourceChangedError, StoreError, WeightsError
from talklip_ray.models.checkpoints import read_header, verify
from talklip_ray.pipeline.run import Run
from talklip_ray.storage.artifacts import cache_folder, fetch
from talklip_ray.storage.store import Store

SYNCNET = "syncnet"
SHIPPED = (STARTER, SYNCNET)
"""Weights that come with the package, by name; weights/MODEL_CARD.md says what each is."""


def starter_path() -> Path:
    return shipped(STARTER)


def shipped(name: str) -> Path:
    """The file of the weights that come with the package as ``name``, one of SHIPPED."""
    return Path(str(resources.files("talklip_ray") / "weights" / f"{name}.safetensors"))


def local_weights(store: Store, weights: str) -> Path:
    """The weights file on this machine: one of SHIPPED, a path or a URI. Raises WeightsError when there is none."""
    if weights in SHIPPED:
        return shipped(weights)
    try:
        return fetch(store, weights, cache_folder())
    except (StoreError, SourceChangedError) as error:
        found = f"the weights must be a readable safetensors file: {error.detail}"
        raise WeightsError(weights, f"{found}; make one with `talklip weights import`") from error


def checked_weights(store: Store, weights: str) -> str:
    """The digest of weights that fit the network they are for, before any worker starts."""
    return verify(local_weights(store, weights)).tensors_sha256


def weights_path(store: Store, run: Run, title: str = "") -> Path:
    """The run's weights, or ``title``'s own where it has some, as a worker finds them.

    Raises WeightsError where others have taken their place since.
    """
    own = run.own_weights(title)
    weights, digest = (own.uri, own.tensors_sha256) if own else (run.weights, run.weights_digest)
    path = local_weights(store, weights)
    found = read_header(path).tensors_sha256
    if found != digest:
        wanted = f"must stay the weights {digest[:12]} the run began with, found {found[:12]}"
        raise WeightsError(weights, f"{wanted}; start the run again")
    return path
