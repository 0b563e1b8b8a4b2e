"""What every stage of one run knows: settings, where results go, which weights."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass

from talklip_ray.config import DubConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One dubbing run. Travels to every worker, so it is small and plain."""

    id: str
    output: str
    """URI of the folder that receives the products."""
    config: DubConfig
    weights: str
    """Path or URI of the network's safetensors file."""
    weights_digest: str


def new_run_id() -> str:
    """Sorts by time, unique without coordination."""
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
