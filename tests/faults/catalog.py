"""The small catalog that is dubbed under faults: sources and weights in a bucket, and the command that dubs them."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from talklip_ray.storage.store import Store
from talklip_ray.storage.uri import join
from tests.talking import random_weights, small_clip, small_dub

SAYS = ("A warm breeze blew across the empty market place.", "Good music sounds better.", "Oui.")
DUBS = {"fr": "Le boulanger ouvre sa boutique.", "de": "Bitte mach das Fenster zu, bevor es regnet."}
# All stages fit one of two nodes of one processor each, so that a run can go on when the other is lost.
POOLS: dict[str, dict[str, Any]] = {
    "plan": {"cpus": 0.05},
    "locate": {"cpus": 0.2},
    "listen": {"cpus": 0.05},
    "generate": {"cpus": 0.2, "gpus": 0.0, "rows": 2},
    "compose": {"cpus": 0.2},
    "assemble": {"cpus": 0.3},
}
SETTINGS: dict[str, Any] = {
    "generate": {"deterministic": True},
    "plan": {"segment_seconds": 0.6},
    "compose": {"preset": "ultrafast"},
    "faults": {"pause_seconds": 0.5},
    "pools": POOLS,
}


@dataclass(frozen=True, kw_only=True)
class Catalog:
    base: str
    """URI of a folder that holds sources, weights and all outputs."""
    settings: Path
    fast: Path
    """Settings with which batches are made of whatever comes."""
    wanted: tuple[tuple[str, str], ...]
    """Every title and language."""

    def command(self, output: str, address: str, *, fast: bool = False) -> list[str]:
        return [
            *(sys.executable, "-m", "talklip_ray.cli", "dub", "run", join(self.base, "in/m.jsonl")),
            *("-o", output, "--weights", join(self.base, "in/random.safetensors")),
            *("--config", str(self.fast if fast else self.settings), "--address", address),
        ]


def lay_out(store: Store, base: str, folder: Path) -> Catalog:
    """Makes the sources and puts them where they belong. Same arguments, same bytes."""
    rows: list[dict[str, Any]] = []
    for number, says in enumerate(SAYS):
        small_clip(folder / f"{number}.mp4", says=says, seed=5 + number)
        dubs = [{"language": language, "audio": f"{language}.wav"} for language in DUBS]
        rows.append({"id": f"t{number}", "video": f"{number}.mp4", "dubs": dubs})
    for language, says in DUBS.items():
        small_dub(folder / f"{language}.wav", says=says, voice=language)
    random_weights(folder / "random.safetensors")
    (folder / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for path in folder.iterdir():
        store.upload(path, join(base, "in", path.name))
    fast = {name: given for name, given in SETTINGS.items() if name != "generate"}
    for name, given in (("settings.yaml", SETTINGS), ("fast.yaml", fast)):
        (folder / name).write_text(yaml.safe_dump(given))
    return Catalog(
        base=base,
        settings=folder / "settings.yaml",
        fast=folder / "fast.yaml",
        wanted=tuple((row["id"], language) for row in rows for language in DUBS),
    )
