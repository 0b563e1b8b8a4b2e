"""What a run will take, in words: `jobs/train.py --dry-run`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from talklip_ray.training.config import ReaderTrainConfig, RunSettings, SyncTrainConfig
from talklip_ray.training.estimate import BESIDES_GIB, Data, Estimate, Part


def dry_run(config: RunSettings, found: Estimate) -> str:
    """A page of plain text. GiB are of one worker."""
    return "\n".join([*_run(config, found), "", *_parameters(found), "", *_memory(config, found)])


def _run(config: RunSettings, found: Estimate) -> Iterator[str]:
    workers = config.workers
    least = f" (at least {workers.least})" if workers.least else ""
    yield f"{config.where}: {config.steps:,} steps, {_count(workers.count, 'worker')}{least}, {config.engine.precision}"
    parts = _count(config.engine.micro_batches, "part")
    yield f"  a batch: {config.data.clips} clips{_frames(config, found)}, in {parts} a worker"
    if found.data is None:
        yield "  no data"
        return
    data = found.data
    learnt = data.rows - data.held_out
    yield f"  data: {data.rows:,} rows, {data.hours:.2f} h, up to {data.longest} frames, {data.held_out:,} held out"
    if learnt:
        epoch = learnt / config.data.clips
        yield f"  an epoch: {epoch:,.1f} steps; the run: {config.steps / epoch:,.1f} epochs"


def _frames(config: RunSettings, found: Estimate) -> str:
    data = found.data
    if isinstance(config, ReaderTrainConfig):
        return f", about {_mean(data) * config.data.clips:,.0f} frames" if data else ""
    if isinstance(config, SyncTrainConfig):
        return f", {config.data.clips * found.shown.windows} windows"
    windows = data.windows if data else found.shown.windows
    each = f"{windows:.3g} windows of {config.data.window} frames"
    return f" x {each}, {'about' if data else 'up to'} {config.data.clips * windows * config.data.window:,.0f} frames"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _mean(data: Data) -> float:
    """Frames of a row."""
    return data.hours * 3600 * 25 / data.rows


def _parameters(found: Estimate) -> list[str]:
    phases = list(found.parts[0].learns)
    head = ("parameters", "all", *(f"learn: {phase}" if phase else "learn" for phase in phases))
    rows = [_row(part.name, part, phases) for part in found.parts]
    everything = Part(
        name="in all",
        parameters=sum(part.parameters for part in found.parts),
        learns={phase: sum(part.learns[phase] for part in found.parts) for phase in phases},
    )
    return _table([head, *rows, _row(everything.name, everything, phases)])


def _row(name: str, part: Part, phases: Sequence[str]) -> tuple[str, ...]:
    return (name, f"{part.parameters:,}", *(f"{part.learns[phase]:,}" for phase in phases))


def _memory(config: RunSettings, found: Estimate) -> list[str]:
    shown, stage = found.shown, config.engine.zero_stage
    states = [
        (f"ZeRO {at}{' (set)' if at == stage else ''}", f"{gpu:.2f}", f"{cpu:.2f}")
        for at, (gpu, cpu) in found.states_gib.items()
    ]
    clips = f"{shown.clips} clips of {shown.frames} frames"
    device = "GPU" if config.workers.gpus else "process"
    lines = [f"memory of a worker where there are {found.workers}, GiB"]
    lines += _table([("weights that learn, gradients, Adam", device, "machine"), *states])
    lines += _table(
        [
            (f"parameters and what belongs to them, ZeRO {stage}", f"{found.held_gib(config):.2f}"),
            (f"a step on {clips}, the longest", f"{found.step_gib:.2f}"),
            ("  of which kept for the way back", f"{found.kept_gib:.2f}"),
            *([("driver, work space, gaps", f"{BESIDES_GIB:.2f}")] if config.workers.gpus else []),
            (f"in all, of the {device}", f"{found.needed_gib(config):.2f}"),
        ]
    )
    if config.workers.gpus and (there := config.workers.gpu_gib):
        lines.append(f"  each GPU has {there:g}: {'fits' if found.needed_gib(config) <= there else 'DOES NOT FIT'}")
    return lines


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns, the first to the left."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        "  "
        + "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
