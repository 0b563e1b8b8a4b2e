"""The released code's own numbers, member by member, beside ours.

    python -m tests.parity.run [--golden DIR] [--seed-offset N] [--device cpu]

Exits with 1 where a member misses its tolerance, or is one we do not know, or where nothing could be compared; and
where bf16 is further from fp32 than it may be.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.parity import bf16
from tests.parity.compare import Row, Verdict, rows
from tests.parity.golden import golden_at
from tests.parity.inputs import Inputs
from tests.parity.members import audio, contrastive, critic, expert, generator, s3fd, syncnet, training
from tests.parity.networks import Networks

GROUPS = (
    *audio.GROUPS,
    *generator.GROUPS,
    *critic.GROUPS,
    *contrastive.GROUPS,
    *expert.GROUPS,
    *syncnet.GROUPS,
    *training.GROUPS,
    *s3fd.GROUPS,
)

COLOURS = {Verdict.EQUAL: "green", Verdict.MISSED: "bold red", Verdict.UNKNOWN: "bold red"}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tests.parity.run", description=__doc__.splitlines()[0])
    parser.add_argument("--golden", type=Path, help="folder of golden files; the one beside the checkout, or our own")
    parser.add_argument("--seed-offset", type=int, default=0, help="added to every documented seed of an input")
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args(arguments)
    try:
        golden = golden_at(asked.golden)
    except (NotADirectoryError, ValueError) as error:
        parser.error(str(error))
    console = Console(width=None if sys.stdout.isatty() else 160)
    inputs, networks = Inputs(golden, asked.seed_offset), Networks(asked.device)
    found = rows(inputs, networks, GROUPS)
    console.print(table(found, f"{golden.folder}, seeds + {asked.seed_offset}"))
    console.print(summary(found))
    decibels = bf16.psnr(inputs, networks) if "c_generator/idAudio" in golden.names() else {}
    for how, value in decibels.items():
        console.print(f"bf16 beside fp32, {how}: {value:.1f} dB (at least {bf16.LEAST:g})")
    return 1 if failed(found) or any(value < bf16.LEAST for value in decibels.values()) else 0


def table(found: Iterable[Row], title: str) -> Table:
    drawn = Table(title=title)
    drawn.add_column("member", overflow="fold")
    for column in ("largest difference", "tolerance"):
        drawn.add_column(column, justify="right")
    drawn.add_column("verdict")
    for row in found:
        verdict = ", ".join(filter(None, (row.verdict.value, row.remark)))
        difference = "" if row.difference is None else f"{row.difference:.3g}"
        allowed = "" if row.tolerance is None else str(row.tolerance)
        drawn.add_row(row.member, difference, allowed, verdict, style=COLOURS.get(row.verdict))
    return drawn


def summary(found: Iterable[Row]) -> str:
    counts = Counter(row.verdict for row in found)
    return ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict)


def failed(found: Sequence[Row]) -> bool:
    """Also where there was nothing to compare: that shows nothing."""
    verdicts = {row.verdict for row in found}
    return Verdict.EQUAL not in verdicts or any(verdict.fails for verdict in verdicts)


if __name__ == "__main__":
    sys.exit(main())
