"""What every stage of one run knows: settings, where results go, which weights."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from talklip_ray.config import DubConfig
from talklip_ray.records import Adaptation


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
    until: float = 0.0
    """Seconds since 1970 at which the run ends, done or not; 0: when all is done."""
    manifest: str = ""
    """URI of the list of titles; "": there is none."""
    adapted: Mapping[str, Adaptation] = field(default_factory=dict)
    """By title: what adapting the weights to it came to. {}: nobody asked for it."""

    def own_weights(self, title: str) -> Adaptation | None:
        """The title's own weights; None where it is dubbed with the run's."""
        found = self.adapted.get(title)
        return found if found is not None and found.uri else None


def new_run_id() -> str:
    """Sorts by time, unique without coordination."""
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
