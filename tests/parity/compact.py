"""Thin out the golden files to what the repository keeps, so that every network is checked everywhere.

python -m tests.parity.compact GOLDEN      writes tests/parity/data/ anew from a folder of golden files
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np

from tests.parity.golden import HERE, STEP, Array, WholeFolder, layout_digest, released_layout, thinned
from tests.parity.inputs import STORED
from tests.parity.members.critic import BLURRED

LAYOUTS = "layouts.json"
KINDS = (
    "talklip_generator",
    "wav2lip_generator",
    "talklip_discriminator",
    "avhubert_seq2seq_expert",
    "syncnet_v2",
    "s3fd",
)


def kept(golden: WholeFolder) -> tuple[dict[str, Array], dict[str, list[int]]]:
    """Arrays to keep, and the whole shape of each that was thinned. The blurred pictures are too many bytes: of them
    the first is kept, and of what comes of them.
    """
    arrays = {member: golden.figure(member) for member in golden.names() if not member.startswith(STEP)}
    for member in BLURRED:
        arrays[member] = arrays[member][:1]
    shapes = {member: list(array.shape) for member, array in arrays.items() if member not in STORED}
    return {m: thinned(array) if m in shapes else array for m, array in sorted(arrays.items())}, shapes


def main(folder: Path) -> None:
    HERE.mkdir(exist_ok=True)
    arrays, shapes = kept(WholeFolder(folder))
    np.savez_compressed(HERE / "figures.npz", **arrays)  # type: ignore[arg-type]
    (HERE / "shapes.json").write_text(json.dumps(shapes, indent=0, sort_keys=True) + "\n")
    shutil.copyfile(folder / STEP, HERE / STEP)
    layouts = {kind: released_layout(folder, kind) for kind in KINDS}
    digests = {
        kind: {"tensors": len(layout), "sha256": layout_digest(layout.items())} for kind, layout in layouts.items()
    }
    (HERE / LAYOUTS).write_text(json.dumps(digests, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
