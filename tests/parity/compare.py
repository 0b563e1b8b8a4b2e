"""One row for each member: how far ours is from the released code's, and whether that is near enough."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from tests.parity.golden import AbsentError, Array, Golden
from tests.parity.inputs import STORED, Inputs
from tests.parity.members.group import Group
from tests.parity.networks import Networks


class Verdict(StrEnum):
    EQUAL = "ok"
    MISSED = "MISSED"
    ABSENT = "absent"
    INPUT = "input"
    UNKNOWN = "UNKNOWN"

    @property
    def fails(self) -> bool:
        return self in (Verdict.MISSED, Verdict.UNKNOWN)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """Largest difference allowed: absolute, or as a share of the member's largest value."""

    most: float
    relative: bool = False
    strays: float = 0.0
    """Share of whole numbers that may be one off."""

    def of(self, theirs: Array) -> float:
        return (
            self.most * float(np.max(np.abs(theirs), where=~np.isnan(theirs), initial=0.0))
            if self.relative
            else self.most
        )

    def holds(self, apart: Array, theirs: Array) -> bool:
        strays = apart[apart > self.of(theirs)]
        return len(strays) <= self.strays * apart.size and bool((strays <= 1).all() or not self.strays)

    def __str__(self) -> str:
        return f"{self.most:g}{' rel.' if self.relative else ''}{f', {self.strays:.1%} one off' if self.strays else ''}"


EXACT = Tolerance(most=0.0)
TRUNCATED = Tolerance(most=0.0, strays=1e-3)
"""Values that lie on a whole number fall to either side of it."""
FEATURES = Tolerance(most=1e-5)
SILENCE = Tolerance(most=1e-3)
"""Constant rows amplify rounding by 1 / sqrt(eps)."""
NETWORK = Tolerance(most=2e-4)
WIDE = Tolerance(most=1e-5, relative=True)
"""SyncNet, whose outputs reach the hundreds: there 2e-4 is a handful of float32 steps, and two versions of torch differ
by half of it.
"""
GRADIENT = Tolerance(most=1e-3, relative=True)
SENSITIVE = Tolerance(most=3e-3, relative=True)
"""Gradients behind batch statistics of 15 pictures, or behind a step of Adam, which takes a gradient's sign however
small it is. In float64 ours differ from the released code's float32 by up to 6e-4, and from our own by as much.
"""

RULES = (
    (r"a_audio_frontend/norm_zeros.*", SILENCE),
    (r"(a_audio_frontend|.*/audio$|.*_check$|e_contrastive/video).*", FEATURES),
    (r"h_syncnet/.*", WIDE),
    (r".*/D_bn_[^/]*/grad_norms/.*|.*/E_two_[^/]*/1/disc_grad.*", SENSITIVE),
    (r".*/(perceptual_|patch_|disc_)?grad[^/]*(/[^/]*)?", GRADIENT),
    (r"d_discriminator/.*", FEATURES),  # with these weights its outputs lie within 1e-3 of each other
)
"""By member, the first that fits; whole numbers are exact, everything else is NETWORK."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    member: str
    verdict: Verdict
    difference: float | None = None
    tolerance: Tolerance | None = None
    remark: str = ""


def tolerance(member: str, theirs: Array) -> Tolerance:
    if theirs.dtype.kind != "f":
        return TRUNCATED if member.endswith("_trunc") else EXACT
    return next((allowed for rule, allowed in RULES if re.fullmatch(rule, member)), NETWORK)


def compare(member: str, ours: Array, golden: Golden) -> Row:
    theirs = golden.figure(member)
    allowed = tolerance(member, theirs)
    try:
        seen = golden.seen(member, np.asarray(ours))
    except ValueError as error:
        return Row(member=member, verdict=Verdict.MISSED, tolerance=allowed, remark=str(error))
    if theirs.dtype.kind not in "fiub":
        return Row(member=member, verdict=Verdict.UNKNOWN, remark=f"holds {theirs.dtype}")
    nowhere = np.isnan(theirs)
    apart = np.abs(seen.astype(np.float64) - theirs.astype(np.float64))[~nowhere]
    difference = float(np.max(apart, initial=0.0))  # a NaN of ours where there is a number is passed on by max
    near = allowed.holds(apart, theirs) and bool((np.isnan(seen) == nowhere).all())
    remark = "no gradient" if nowhere.any() else ""
    return Row(
        member=member,
        verdict=Verdict.EQUAL if near else Verdict.MISSED,
        difference=difference,
        tolerance=allowed,
        remark=remark,
    )


def rows(inputs: Inputs, networks: Networks, groups: Iterable[Group]) -> list[Row]:
    """Every member that we know or that is there, file by file. A group nobody asks for is not computed."""
    present, found = inputs.golden.names(), list[Row]()
    for group in groups:
        found += group_rows(group, inputs, networks)
    known = {row.member for row in found} | set(STORED)
    stored = {member: member in present for member in STORED}
    found += [
        Row(member=member, verdict=Verdict.INPUT if there else Verdict.ABSENT) for member, there in stored.items()
    ]
    found += [Row(member=member, verdict=Verdict.UNKNOWN) for member in sorted(present - known)]
    return sorted(found, key=lambda row: row.member.split("/")[0])


def group_rows(group: Group, inputs: Inputs, networks: Networks) -> list[Row]:
    present = inputs.golden.names()
    absent = [Row(member=member, verdict=Verdict.ABSENT) for member in group.members if member not in present]
    wanted = [member for member in group.members if member in present]
    if not wanted:
        return absent
    try:
        ours = {f"{group.file}/{name}": array for name, array in group.compute(inputs, networks).items()}
    except AbsentError as error:
        needs = f"needs {error.member}"
        return absent + [Row(member=member, verdict=Verdict.ABSENT, remark=needs) for member in wanted]
    assert ours.keys() == set(group.members), f"{group.file} promised others: {ours.keys() ^ set(group.members)}"
    return absent + [compare(member, ours[member], inputs.golden) for member in wanted]
