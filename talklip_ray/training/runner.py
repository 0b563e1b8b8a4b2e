"""Runs training on Ray Train.

Each worker reads its own share of the rows from the shards (reading.py), not a Ray Data stream: which rows a
step takes is then a function of the seed and the step alone, so a resumed run, or one on other workers, sees
the same.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from talklip_ray.config import StorageConfig
from talklip_ray.errors import ConfigError, TalklipError
from talklip_ray.models.tokenizer import Tokenizer
from talklip_ray.storage.artifacts import fetched
from talklip_ray.storage.uri import open_store
from talklip_ray.training import checkpointing
from talklip_ray.training.checkpointing import NETWORK_FILE, Progress
from talklip_ray.training.config import RunSettings, TrainConfig, to_json
from talklip_ray.training.loop import Save, Worker, run
from talklip_ray.training.reading import Samples, hold_out
from talklip_ray.training.task import Materials, Place
from talklip_ray.training.tasks import build_task, preflight

CPU_THREADS = "OMP_NUM_THREADS"
Tell = Callable[[dict[str, float]], None]
_LISTEN_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A training run: what to train, on what, and where it keeps its checkpoints."""

    config: RunSettings
    data: str
    """Folder or prefix of the shards."""
    folder: str
    """Path or URI all nodes reach, for the run's checkpoints. Running a job again goes on from them."""
    storage: StorageConfig = field(default_factory=StorageConfig)
    minutes: float = 0.0

    @property
    def name(self) -> str:
        """Names the run by what must be the same for its checkpoints to be of use."""
        told = f"{to_json(self.config)}{self.data}"
        return f"{self.config.name}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"


@contextmanager
def cluster() -> Iterator[None]:
    """The Ray cluster of this process: one already joined, RAY_ADDRESS's, or a new one on this machine."""
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    local: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    ray.init(address=address, logging_level=logging.WARNING, log_to_driver=False, **local)
    try:
        yield
    finally:
        ray.shutdown()


def train(job: Job, out: str, tell: Tell = lambda metrics: None) -> Progress:
    """Train, and put the network where ``out`` says, ready for dubbing. Returns where the run ended.

    ``tell`` is called with every report of worker 0, from another thread. Raises ConfigError for settings or
    data that cannot work, TalklipError when the run gave up.
    """
    store = open_store(job.storage)
    texts = Samples(store, job.data, None, 0).texts  # unreadable data is found here
    tokenizer = preflight(job.config, store, texts)
    with cluster():
        _check_room(job.config)
        with _told(tell) as board:
            try:
                result = _trainer(job, board, tokenizer).fit()
            except ray.train.TrainingFailedError as error:
                raise _explained(error, job.name) from error
    ended: Progress | None = getattr(result, "return_value", None)
    if result.checkpoint is None or ended is None:
        raise TalklipError(job.name, "training must end with a checkpoint, found none; see the workers' logs")
    with result.checkpoint.as_directory() as folder:
        open_store(job.storage).upload(Path(folder) / NETWORK_FILE, out)
    return ended


def _trainer(job: Job, board: Any, tokenizer: Tokenizer | None) -> TorchTrainer:
    workers = job.config.workers
    resources = {"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {})
    environment = {CPU_THREADS: str(workers.cpus), "DS_ACCELERATOR": "cuda" if workers.gpus else "cpu"}
    folder = job.folder if "://" in job.folder else str(Path(job.folder).absolute())
    return TorchTrainer(
        _work,  # type: ignore[arg-type]
        train_loop_config={"job": job, "board": board, "tokenizer": tokenizer},
        torch_config=TorchConfig(backend="nccl" if workers.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers.count, use_gpu=bool(workers.gpus), resources_per_worker=resources
        ),
        run_config=RunConfig(  # type: ignore[call-arg]
            name=job.name,
            storage_path=folder,
            failure_config=FailureConfig(max_failures=workers.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=job.config.keep.last),
            worker_runtime_env={"env_vars": environment},
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )


def _work(settings: dict[str, Any]) -> Progress:
    """What each worker runs."""
    job: Job = settings["job"]
    config = job.config
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    context = ray.train.get_context()
    place = Place(rank=context.get_world_rank(), world=context.get_world_size())
    torch.set_num_threads(config.workers.cpus)
    device = ray.train.torch.get_device()
    store = open_store(job.storage)
    samples = Samples(store, job.data, config.voice, config.data.cache_bytes)
    train, valid = hold_out(samples.ids, config.data.hold_out)
    if not train:
        raise TalklipError(job.data, f"`data.hold_out: {config.data.hold_out}` leaves no row to train on")
    materials = Materials(
        samples=samples,
        train=train,
        valid=valid,
        device=device,
        place=place,
        start=fetched(config.start, store),
        critic=fetched(config.critic_start, store) if isinstance(config, TrainConfig) else None,
        expert=fetched(config.expert, store) if isinstance(config, TrainConfig) else None,
        tokenizer=settings["tokenizer"],
    )
    task = build_task(config, materials)
    torch.manual_seed(config.seed + place.rank)
    start = Progress()
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            start = checkpointing.load(Path(folder), task, config, place)
    return run(
        Worker(
            config=config,
            task=task,
            device=device,
            place=place,
            report=partial(_report, settings["board"] if place.rank == 0 else None),
            data=f"{len(samples)} rows of {job.data}",
            minutes=job.minutes,
        ),
        start,
    )


def _report(board: Any, metrics: dict[str, float], save: Save | None) -> None:
    if board is not None:
        board.put.remote(metrics)
    if save is None:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory(prefix="talklip-") as folder:
        save(Path(folder))
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))


@ray.remote(num_cpus=0)
class _Board:
    """Where worker 0 leaves its reports for whoever started the run: Ray Train keeps them to itself until the end."""

    def __init__(self) -> None:
        self.reports: list[dict[str, float]] = []

    def put(self, metrics: dict[str, float]) -> None:
        self.reports.append(metrics)

    def take(self) -> list[dict[str, float]]:
        taken, self.reports = self.reports, []
        return taken


@contextmanager
def _told(tell: Tell) -> Iterator[Any]:
    """A board whose reports are told, as they come and the last ones at the end."""
    board = _Board.remote()  # type: ignore[attr-defined]
    ended = threading.Event()

    def listen() -> None:
        over = False
        while not over:
            over = ended.wait(_LISTEN_S)
            for metrics in ray.get(board.take.remote()):
                tell(metrics)

    listener = threading.Thread(target=listen, name="training reports", daemon=True)
    listener.start()
    try:
        yield board
    finally:
        ended.set()
        listener.join()


def _explained(error: Exception, where: str) -> TalklipError:
    """The worker's own words where they are ours, else all that Ray knows."""
    for failure in getattr(error, "worker_failures", {}).values():
        cause = getattr(failure, "_base_exc", failure)
        if isinstance(cause, TalklipError):
            return cause
    return TalklipError(where, f"training must not fail more often than `workers.max_failures` allows: {error}")


def _check_room(config: RunSettings) -> None:
    """Raises ConfigError where the cluster can never hold the workers: Ray would wait without a word."""
    there = ray.cluster_resources()  # type: ignore[no-untyped-call]
    workers = config.workers
    for kind, each in (("CPU", workers.cpus), ("GPU", workers.gpus)):
        if each * workers.count > there.get(kind, 0):
            raise ConfigError(
                "workers",
                f"{workers.count} workers of {each} {kind} each must fit the cluster, which has "
                f"{there.get(kind, 0):g}; lower `workers.count` or `workers.{kind.lower()}s`",
            )
