"""What the parts of TalkLip's training buy, measured on synthetic portraits.

    python -m benchmarks.learning data   --work DIR [--clips N] [--held-out N] [--processes N]
    python -m benchmarks.learning reader --work DIR [--steps N] [--device cuda]
    python -m benchmarks.learning arm    --work DIR --name lip --seed 0 [--steps N] [--lip W] [--contrast W] ...
    python -m benchmarks.learning report --work DIR [--out FILE]

``data`` renders commands (synthetic/commands.py) spoken by the portrait; the held-out sentences are never trained on.
``reader`` trains a lip reader on them and reads the held-out clips. ``arm`` trains one generator under that reader and
says how well the reader reads what it paints on held-out clips, and how well what is heard finds its lips. All of
the arms of a seed start from the same weights and see the same frames in the same order. Neither Ray nor DeepSpeed:
the tasks of talklip_ray/training as they are, in one process.

The figures in results/learning.json were taken as follows, each arm with seeds 0, 1 and 2. On a GPU:

    data --clips 1200 --held-out 96; reader --steps 2400 --batch 16
    arm --variant lc --steps 700 --beam 10, as l1; as con3 with --contrast 1e-3; as lip3 with --lip 1e-3
    arm --variant gc --phases all --steps 600 --beam 10 --lip 1e-4 --critic 0.07 --contrast 1e-3, as gc

On two CPU cores, with that reader:

    data --clips 240 --held-out 40
    arm --start talklip_ray/weights/starter.safetensors --batch 4 --windows 1 --window 10 --beam 10 --rate 3e-4
        --steps 120, as s_l1; as s_lip4 with --lip 1e-4; as s_lip3 with --lip 1e-3 (seeds 0 and 1)
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.machine import describe
from talklip_ray.evaluation.reading import read_lips, word_error_rate
from talklip_ray.media.features import Voice
from talklip_ray.models.checkpoints import load_network, load_reader
from talklip_ray.models.expert_view import lip_view
from talklip_ray.models.inputs import to_crops
from talklip_ray.models.lip_reader import PAD, LipReader, small_reader
from talklip_ray.models.talklip import TalkLip, small
from talklip_ray.models.tokenizer import Tokenizer, train_tokenizer
from talklip_ray.synthetic.commands import chance_word_error_rate, command_utterances
from talklip_ray.synthetic.pieces import render_pieces
from talklip_ray.training.batches import assemble
from talklip_ray.training.checkpointing import Progress, export
from talklip_ray.training.config import EngineConfig, EngineKind, KeepConfig, Precision, RunSettings
from talklip_ray.training.curriculum import CurriculumConfig, Phase
from talklip_ray.training.dubbing import Dubbing
from talklip_ray.training.feeding import DirectFeed
from talklip_ray.training.lip_batches import collate
from talklip_ray.training.lipreading import LipReading
from talklip_ray.training.loop import Save, Worker, run
from talklip_ray.training.losses import LossWeights, reading
from talklip_ray.training.reading import Rows, Sample, listen
from talklip_ray.training.recipes import lip_reader_small, small_gc
from talklip_ray.training.shards import Origin, Piece, open_shard, read_piece, write_shard
from talklip_ray.training.task import Materials, Place
from talklip_ray.training.watching import Report
from talklip_ray.training.windows import Window

ROWS_A_SHARD = 64


class Held(Rows):
    """Pieces held in memory, as the tasks read them."""

    def __init__(self, folder: Path, voice: Voice | None) -> None:
        self.pieces = [piece for path in sorted(folder.glob("*.parquet")) for piece in _pieces(path)]
        self.ids = [piece.id for piece in self.pieces]
        self.texts = [piece.text for piece in self.pieces]
        self._samples = [Sample(piece=piece, voice=listen(piece, voice)) for piece in self.pieces]

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, number: int) -> Sample:  # type: ignore[override]
        return self._samples[number]


def _pieces(path: Path) -> list[Piece]:
    with path.open("rb") as file:
        rows = open_shard(file, str(path))
        return [read_piece(rows, row, str(path)) for row in range(rows.metadata.num_row_groups)]


def make_data(args: argparse.Namespace) -> None:
    for name, count, held_out in (("train", args.clips, False), ("held_out", args.held_out, True)):
        folder = args.work / name
        folder.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        utterances = command_utterances(count, args.seed, held_out)
        rendered = (Piece(**r.fields()) for r in render_pieces(utterances, args.seed + held_out, args.processes))
        pieces: list[Piece] = []
        for number, piece in enumerate(rendered, start=1):
            pieces.append(piece)
            if len(pieces) == ROWS_A_SHARD or number == count:
                write_shard(folder / f"{number:06d}.parquet", pieces, Origin(recipe="benchmarks/learning.py"))
                pieces = []
        print(f"{name}: {count} clips in {time.monotonic() - begun:.0f} s", flush=True)


def train_reader(args: argparse.Namespace) -> None:
    device = torch.device(args.device)
    recipe = lip_reader_small()
    rows = Held(args.work / "train", Voice.GLOBAL)
    tokenizer = train_tokenizer(rows.texts, args.vocabulary)
    network = small_reader(tokenizer.size)
    if args.wide:
        network = replace(
            network,
            listener=replace(network.listener, width=256, hidden=1024, layers=4),
            trunk_widths=(16, 16, 32, 64, 128),
            decoder_hidden=1024,
        )
    config = replace(_here(recipe, args), network=network)
    held_out = Held(args.work / "held_out", None)
    task = LipReading(config, Materials(samples=rows, train=range(len(rows)), device=device, tokenizer=tokenizer))
    spent = _train(task, config, args.work / "reader.safetensors", device)
    reader = task.reader.eval()
    said = read_lips(reader, tokenizer, [piece.frames_THWC for piece in held_out.pieces], beam=args.beam)
    chance = chance_word_error_rate(held_out.texts)
    found = {
        "kind": "reader",
        "steps": config.steps,
        "seconds": round(spent),
        "parameters": sum(p.numel() for p in reader.parameters()),
        "train_clips": len(rows),
        "held_out_clips": len(held_out),
        "word_error_rate": word_error_rate(held_out.texts, said),
        "chance": {"random_sentence": chance.random_sentence, "best_constant_sentence": chance.constant_sentence},
        "cross_entropy_a_token": unread(reader, tokenizer, list(held_out)),
        "examples": list(zip(held_out.texts[:6], said[:6], strict=True)),
    }
    _write(args.work / "reader.json", found)


def train_arm(args: argparse.Namespace) -> None:
    device = torch.device(args.device)
    reader_path = args.work / "reader.safetensors"
    reader, tokenizer, _ = load_reader(reader_path, device)
    base = small_gc()
    network = replace(small(args.variant), listener=reader.config.listener, contrast_width=reader.config.listener.width)
    if args.start:
        network = load_network(args.start)[0].config
    phases = (Phase.READ_LIPS,) if args.phases == "read_lips" else tuple(Phase)
    config = replace(
        _here(base, args),
        network=network,
        losses=LossWeights(lip=args.lip, critic=args.critic, contrast=args.contrast),
        curriculum=CurriculumConfig(phases=phases, most_steps=args.steps // len(phases)),
        expert=str(reader_path),
        listener_layers=args.listener_layers,
        data=replace(base.data, clips=args.batch, windows=args.windows, window=args.window, hold_out=0.0),
    )
    rows = Held(args.work / "train", network.voice)
    materials = Materials(samples=rows, train=range(len(rows)), device=device, expert=reader_path, start=args.start)
    task = Dubbing(config, materials)
    path = args.work / f"arm-{args.name}-{args.seed}.safetensors"
    spent = _train(task, config, path, device)
    held_out = Held(args.work / "held_out", network.voice)
    painted, l1 = repainted(task.network.eval(), list(held_out), device)
    said = read_lips(reader, tokenizer, [sample.piece.frames_THWC for sample in painted], beam=args.beam)
    found = {
        "kind": "arm",
        "name": args.name,
        "seed": args.seed,
        "variant": args.variant,
        "steps": config.steps,
        "seconds": round(spent),
        "weights": {"lip": args.lip, "critic": args.critic, "contrast": args.contrast},
        "l1": l1,
        "word_error_rate": word_error_rate(held_out.texts, said),
        "cross_entropy_a_token": unread(reader, tokenizer, painted),
        "rank": rank_of_voice(task.network, reader, list(held_out), device),
        "probed_rank": probed_rank(task.network, reader, rows, list(held_out), device),
    }
    _write(args.work / f"arm-{args.name}-{args.seed}.json", found)


def _here(recipe: Any, args: argparse.Namespace) -> Any:
    """The recipe in this process, for so many steps."""
    return replace(
        recipe,
        steps=args.steps,
        seed=args.seed,
        engine=EngineConfig(kind=EngineKind.PLAIN, precision=Precision.BF16, channels_last=True),
        optimizer=replace(recipe.optimizer, learning_rate=args.rate) if args.rate else recipe.optimizer,
        keep=KeepConfig(checkpoint_every=1 << 30, validate_every=1 << 30, report_every=max(1, args.steps // 10)),
    )


def _train(task: Dubbing | LipReading, config: RunSettings, path: Path, device: torch.device) -> float:
    def say(report: Report, save: Save | None, *, best: bool) -> None:
        print("  ".join(f"{name} {value:.4g}" for name, value in report.metrics.items()), flush=True)
        if save is not None:
            folder = path.with_suffix(".run")
            folder.mkdir(exist_ok=True)
            save(folder)
            export(folder, path)

    begun = time.monotonic()
    worker = Worker(
        config=config,
        task=task,
        feed=DirectFeed(task.materials.samples, task.numbers, Place()),
        device=device,
        place=Place(),
        report=say,
        data="rendered commands",
    )
    run(worker, Progress())
    return time.monotonic() - begun


@torch.no_grad()
def repainted(network: TalkLip, samples: list[Sample], device: torch.device) -> tuple[list[Sample], float]:
    """The clips with every face repainted to their own sound, shown who it is by the frame half a clip away."""
    painted, total = [], []
    for sample in samples:
        num = sample.piece.num_frames
        windows = [Window(pose=t, identity=(t + num // 2) % num, length=1) for t in range(num)]
        batch = assemble([(sample, windows)], network.config).to(device)
        patches_N3SS = network(*batch.inputs()).patches_N3SS
        total.append(float((patches_N3SS - batch.targets_N3SS).abs().mean()))
        frames_THWC = sample.piece.frames_THWC.copy()
        x0, y0, x1, y1 = sample.piece.boxes_T4[0]  # the same in all frames of what is rendered
        frames_THWC[:, y0:y1, x0:x1] = to_crops(patches_N3SS).cpu().numpy()
        painted.append(replace(sample, piece=replace(sample.piece, frames_THWC=frames_THWC)))
    return painted, float(np.mean(total))


@torch.no_grad()
def unread(reader: LipReader, tokenizer: Tokenizer, samples: list[Sample]) -> float:
    """Label-smoothed cross entropy a token of what is said, the text before it given: the lip-reading loss."""
    device, total, tokens = next(reader.parameters()).device, 0.0, 0
    for sample in samples:
        batch = collate([sample], tokenizer).to(device)
        logits_BLV, _ = reader(*batch.inputs())
        total += float(reading(logits_BLV, batch.texts.targets_BL, pad=PAD))
        tokens += batch.texts.num_tokens
    return total / tokens


@torch.no_grad()
def _pairs(network: TalkLip, reader: LipReader, samples: Sequence[Sample], device: torch.device) -> tuple[Any, Any]:
    """For every fourth frame of each clip: what is heard, and what the reader makes of the real lips."""
    heard, seen = [], []
    for sample in samples:
        frames = range(0, sample.piece.num_frames, 4)
        windows = [Window(pose=t, identity=0, length=1) for t in frames]
        batch = assemble([(sample, windows)], network.config).to(device)
        rows = network.listen(batch.voice, batch.padding_BA)
        heard.append(rows if batch.picked_N is None else rows[batch.picked_N])
        view_TSS = lip_view(torch.from_numpy(np.array(sample.piece.frames_THWC)).to(device))
        seen.append(reader.encode(view_TSS[None, None])[0][list(frames)])
    return heard, seen


@torch.no_grad()
def rank_of_voice(network: TalkLip, reader: LipReader, samples: list[Sample], device: torch.device) -> float | None:
    """Where the true sound comes among all sounds of its clip when they are sorted by likeness to the lips, as a share:
    0 first, 0.5 chance, 1 last. None without a contrastive head.
    """
    if not network.config.contrastive:
        return None
    heard, seen = _pairs(network, reader, samples, device)
    return _rank([network.contrast(rows) for rows in heard], seen)


def probed_rank(
    network: TalkLip, reader: LipReader, rows: Sequence[Sample], samples: list[Sample], device: torch.device
) -> float:
    """The same with a head fitted afterwards to a listener that stays as it is (ridge regression on 200 training
    clips): how much of the lips is in what is heard, with contrastive training and without.
    """
    heard, seen = _pairs(network, reader, [rows[n] for n in range(min(200, len(rows)))], device)
    x = F.normalize(torch.cat(heard).float(), dim=1)
    x = torch.cat((x, x.new_ones(len(x), 1)), dim=1)
    y = F.normalize(torch.cat(seen).float(), dim=1)
    mean = y.mean(0)
    fitted = torch.linalg.solve(x.T @ x + 1e-3 * torch.eye(x.shape[1], device=device), x.T @ (y - mean))
    heard, seen = _pairs(network, reader, samples, device)
    made = []
    for clip in heard:
        clip = F.normalize(clip.float(), dim=1)
        made.append(F.normalize(torch.cat((clip, clip.new_ones(len(clip), 1)), dim=1) @ fitted, dim=1))
    return _rank(made, [F.normalize(rows.float(), dim=1) - mean for rows in seen])


def _rank(anchors: list[torch.Tensor], seen: list[torch.Tensor]) -> float:
    ranks = []
    for anchors_ND, lips_ND in zip(anchors, seen, strict=True):
        alike_NN = F.normalize(lips_ND.float(), dim=1) @ anchors_ND.float().T
        better_N = (alike_NN > alike_NN.diagonal()[:, None]).float().sum(1)
        ranks.append(better_N / max(1, len(alike_NN) - 1))
    return float(torch.cat(ranks).mean())


def report(args: argparse.Namespace) -> None:
    found = {path.stem: json.loads(path.read_text()) for path in sorted(args.work.glob("*.json"))}
    machine = describe()
    if args.device != "cpu":
        machine["gpu"] = torch.cuda.get_device_name()
    _write(args.out or Path("benchmarks/results/learning.json"), {"machine": machine, "runs": found})


def _write(path: Path, found: dict[str, Any]) -> None:
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("data", "reader", "arm", "report"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clips", type=int, default=600)
    parser.add_argument("--held-out", type=int, default=64)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=64)
    parser.add_argument("--wide", action="store_true", help="a reader of four times the width")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=0.0, help="learning rate; default the recipe's")
    parser.add_argument("--batch", type=int, default=8, help="clips in a batch")
    parser.add_argument("--windows", type=int, default=8, help="frames painted of each clip")
    parser.add_argument("--window", type=int, default=1, help="frames painted in a row")
    parser.add_argument("--beam", type=int, default=20)
    parser.add_argument("--name", default="l1")
    parser.add_argument("--variant", default="lc", choices=("l", "lc", "g", "gc"))
    parser.add_argument("--phases", default="read_lips", choices=("read_lips", "all"))
    parser.add_argument("--listener-layers", type=int, default=3)
    parser.add_argument("--lip", type=float, default=0.0)
    parser.add_argument("--critic", type=float, default=0.0)
    parser.add_argument("--contrast", type=float, default=0.0)
    parser.add_argument("--start", type=Path, help="generator weights to go on from")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    {"data": make_data, "reader": train_reader, "arm": train_arm, "report": report}[args.what](args)


if __name__ == "__main__":
    main()
