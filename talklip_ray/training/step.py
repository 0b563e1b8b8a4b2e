"""One update. Knows neither Ray nor DeepSpeed: an engine differentiates and steps, whatever it is."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from talklip_ray.training.batches import Batch
from talklip_ray.training.engine import Engine
from talklip_ray.training.losses import LossWeights, Terms, reconstruction


def step(engine: Engine, batch: Batch, weights: LossWeights, learning_rate: float) -> Terms:
    """Show ``batch`` to the network and improve it once. Returns the unweighted terms before the update."""
    patches_N3SS = engine(*batch.inputs())
    terms = Terms(l1=reconstruction(patches_N3SS, batch.targets_N3SS))
    engine.backward(weights.total(terms))
    engine.step(learning_rate)
    return terms


@torch.no_grad()
def validate(engine: Engine, batches: Iterable[Batch]) -> float:
    """Mean L1 a frame over ``batches``, with the statistics the network dubs with."""
    total, num_frames = 0.0, 0
    engine.network.eval()
    for batch in batches:
        l1 = reconstruction(engine.network(*batch.inputs()), batch.targets_N3SS)
        total += float(l1) * batch.num_frames
        num_frames += batch.num_frames
    engine.network.train()
    return total / max(num_frames, 1)
