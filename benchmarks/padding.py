"""How much of a batch of whole clips is padding, as clips are drawn and with clips of like length together.

    python -m benchmarks.padding

Lengths are drawn, not LRS2's own: as many clips as its main set has, lognormal around 2.2 s at 25 frames a second.
"""

from __future__ import annotations

import numpy as np

from talklip_ray.training.windows import draws, steps_per_epoch

CLIPS, NUM_CLIPS, POOLS = 8, 45_839, (0, 8, 16, 64)


def padded_share(lengths_N: np.ndarray, pool: int) -> float:
    """Of the frames of all batches of an epoch."""
    shown = held = 0
    for step in range(steps_per_epoch(len(lengths_N), CLIPS)):
        taken = draws(
            step, clips=CLIPS, num_clips=len(lengths_N), seed=0, pool=pool, length_of=lambda clip: int(lengths_N[clip])
        )
        frames = [int(lengths_N[draw.clip]) for draw in taken]
        shown, held = shown + sum(frames), held + CLIPS * max(frames)
    return 1 - shown / held


def main() -> None:
    lengths_N = np.random.default_rng(0).lognormal(np.log(48), 0.5, NUM_CLIPS).clip(15, 155).astype(int)
    for pool in POOLS:
        print(
            f"data.pool {pool:>3}: {padded_share(lengths_N, pool):.1%} padding (clips of {lengths_N.mean():.0f} frames)"
        )


if __name__ == "__main__":
    main()
