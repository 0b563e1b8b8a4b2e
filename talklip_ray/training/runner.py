"""Runs training on Ray Train: workers, checkpoints, reports, and going on after whatever fell over."""

from __future__ import annotations

import hashlib
import json
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
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    CheckpointUploadMode,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
)
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from talklip_ray.config import StorageConfig
from talklip_ray.errors import ConfigError, TalklipError
from talklip_ray.models.tokenizer import Tokenizer
from talklip_ray.storage.address import join
from talklip_ray.storage.arrow import arrow_filesystem
from talklip_ray.storage.artifacts import fetched
from talklip_ray.storage.store import Store
from talklip_ray.storage.uri import open_store
from talklip_ray.telemetry import install, on_ray, publish
from talklip_ray.training import checkpointing
from talklip_ray.training.alarm import DivergedError
from talklip_ray.training.checkpointing import Progress
from talklip_ray.training.collective import barrier
from talklip_ray.training.config import FeedKind, RunSettings, TrainConfig, to_json
from talklip_ray.training.estimate import check_fits
from talklip_ray.training.exporting import BEST_FILE, best_of
from talklip_ray.training.feed_runner import RayFeed, check_feeders
from talklip_ray.training.feeding import DirectFeed, row_names
from talklip_ray.training.loop import Save, Worker, run
from talklip_ray.training.reading import Samples, hold_out
from talklip_ray.training.task import Materials, Place
from talklip_ray.training.tasks import build_task, expert_config, preflight
from talklip_ray.training.watching import Report

CPU_THREADS = "OMP_NUM_THREADS"
_PROBE = ".probe"
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
        """Names the run by what must be the same for its checkpoints to be of use: the networks, and the order of the
        data. A run goes on with other workers, engines, rates and lengths.
        """
        config = json.loads(to_json(self.config))
        kept = {key: config.get(key) for key in ("network", "critic", "seed")}
        kept["data"] = {key: config["data"][key] for key in ("clips", "windows", "window", "hold_out")}
        told = json.dumps([kept, self.data], sort_keys=True)
        return f"{self.config.name}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"

    @property
    def place(self) -> str:
        """Folder of this run's own."""
        return join(self.folder, self.name)


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


def train(job: Job, out: str, tell: Callable[[Report], None] = lambda report: None) -> Progress:
    """Train, and put the network where ``out`` says, ready for dubbing. Returns where the run ended.

    ``tell`` is called with every report of worker 0, from another thread. Raises ConfigError for settings or
    data that cannot work, StoreError where checkpoints or weights could not be written, both before the first step,
    and TalklipError when the run gave up.
    """
    store = open_store(job.storage)
    rows = Samples(store, job.data, None, 0)  # unreadable data is found here
    tokenizer = preflight(job.config, store, rows.texts)
    check_fits(job.config, rows, expert_config(job.config, store))
    for place in (join(job.place, _PROBE), f"{out}{_PROBE}"):
        _check_writable(store, place)
    with cluster():
        _check_room(job.config)
        with _told(tell) as board:
            try:
                result = _trainer(job, board, tokenizer).fit()
            except ray.train.TrainingFailedError as error:
                raise _explained(error, job.name) from error
    ended: Progress | DivergedError | None = getattr(result, "return_value", None)
    if isinstance(ended, DivergedError):
        raise ended
    if result.checkpoint is None or ended is None:
        raise TalklipError(job.name, "training must end with a checkpoint, found none; see the workers' logs")
    with result.checkpoint.as_directory() as folder, tempfile.TemporaryDirectory(prefix="talklip-") as made:
        checkpointing.export(Path(folder), path := Path(made) / "network.safetensors")
        store.upload(path, out)
    return ended


def _trainer(job: Job, board: Any, tokenizer: Tokenizer | None) -> TorchTrainer:
    workers = job.config.workers
    resources = {"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {})
    environment = {CPU_THREADS: str(workers.cpus), "DS_ACCELERATOR": "cuda" if workers.gpus else "cpu"}
    files, folder = arrow_filesystem(job.storage, job.folder)
    return TorchTrainer(
        _work,  # type: ignore[arg-type]
        train_loop_config={"job": job, "board": board, "tokenizer": tokenizer},
        torch_config=TorchConfig(backend="nccl" if workers.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=(workers.least, workers.count) if workers.least else workers.count,  # type: ignore[arg-type]
            use_gpu=bool(workers.gpus),
            resources_per_worker=resources,
        ),
        run_config=RunConfig(  # type: ignore[call-arg]
            name=job.name,
            storage_path=folder,
            storage_filesystem=files,
            failure_config=FailureConfig(max_failures=workers.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=job.config.keep.last),
            worker_runtime_env={"env_vars": environment},
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )


def _work(settings: dict[str, Any]) -> Progress | DivergedError:
    """What each worker runs."""
    job: Job = settings["job"]
    config = job.config
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    context = ray.train.get_context()
    place = Place(rank=context.get_world_rank(), world=context.get_world_size())
    torch.set_num_threads(config.workers.cpus)
    materials = _materials(job, settings["tokenizer"], place)
    task = build_task(config, materials)
    torch.manual_seed(config.seed + place.rank)
    start = Progress()
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            start = checkpointing.load(Path(folder), task, config, place)
    numbers = task.numbers
    feed = (RayFeed if config.data.feed == FeedKind.RAY else DirectFeed)(materials.samples, numbers, place)
    worker = Worker(
        config=config,
        task=task,
        feed=feed,
        device=materials.device,
        place=place,
        report=_Reporter(job, place, settings["board"]),
        data=f"{len(materials.samples)} rows of {job.data}",
        minutes=job.minutes,
        leaving=lambda: ray.train.get_preemption_info() is not None,
        names=partial(row_names, config, materials.samples, numbers),
    )
    try:
        return run(worker, start)
    except DivergedError as error:
        return error  # not raised: workers would be started again, to end the same way


def _materials(job: Job, tokenizer: Tokenizer | None, place: Place) -> Materials:
    config, store = job.config, open_store(job.storage)
    samples = Samples(store, job.data, config.voice, config.data.cache_bytes)
    train, valid = hold_out(samples.ids, config.data.hold_out)
    if not train:
        raise TalklipError(job.data, f"`data.hold_out: {config.data.hold_out}` leaves no row to train on")
    generator = config if isinstance(config, TrainConfig) else None
    return Materials(
        samples=samples,
        train=train,
        valid=valid,
        device=ray.train.torch.get_device(),
        place=place,
        start=fetched(config.start, store),
        critic=fetched(generator.critic_start, store) if generator else None,
        expert=fetched(generator.expert, store) if generator else None,
        tokenizer=tokenizer,
    )


class _Reporter:
    """Hands reports to the driver and the metrics, and checkpoints to Ray Train."""

    def __init__(self, job: Job, place: Place, board: Any) -> None:
        self.job = job
        self.place = place
        self.board = board
        self.store = open_store(job.storage)
        if place.rank == 0:
            install(on_ray())

    def __call__(self, report: Report, save: Save | None, *, best: bool) -> None:
        if self.place.rank == 0:
            self.board.put.remote(report)
            publish(report, run=self.job.name, recipe=self.job.config.name)
        if save is None:  # nothing for Ray Train: its own report would wait for the last checkpoint to be uploaded
            return
        folder = Path(tempfile.mkdtemp(prefix="talklip-"))  # Ray deletes it once it is uploaded
        save(folder)
        if best:
            self._keep(folder, report.step)
        last = report.metrics["share"] >= 1.0
        ray.train.report(
            report.metrics,
            checkpoint=Checkpoint.from_directory(str(folder)),
            checkpoint_upload_mode=CheckpointUploadMode.SYNC if last else CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=True,
        )

    def _keep(self, folder: Path, step: int) -> None:
        """A copy that Ray Train's own count does not touch; best.json names it once every rank's part is there."""
        name = f"best-{step:09d}"
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.store.upload(path, join(self.job.place, name, str(path.relative_to(folder))))
        barrier()
        if self.place.rank == 0:
            before = best_of(self.store, self.job.place)
            self.store.write(join(self.job.place, BEST_FILE), json.dumps({"checkpoint": name}).encode())
            if before and before != name:
                self.store.delete_prefix(join(self.job.place, before))


@ray.remote(num_cpus=0)
class _Board:
    """Where worker 0 leaves its reports for whoever started the run: Ray Train keeps them to itself until the end."""

    def __init__(self) -> None:
        self.reports: list[Report] = []

    def put(self, report: Report) -> None:
        self.reports.append(report)

    def take(self) -> list[Report]:
        taken, self.reports = self.reports, []
        return taken


@contextmanager
def _told(tell: Callable[[Report], None]) -> Iterator[Any]:
    """A board whose reports are told, as they come and the last ones at the end. It lives where this process does:
    any other node may be lost on the way.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = _Board.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
    ended = threading.Event()

    def listen() -> None:
        over = False
        while not over:
            over = ended.wait(_LISTEN_S)
            for report in ray.get(board.take.remote()):
                tell(report)

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


def _check_writable(store: Store, place: str) -> None:
    """Raises StoreError, in storage's own words, where nothing can be written beside ``place``."""
    store.write(place, b"")
    store.delete(place)


def _check_room(config: RunSettings) -> None:
    """Raises ConfigError where the cluster can never hold the workers: Ray would wait without a word."""
    there = ray.cluster_resources()  # type: ignore[no-untyped-call]
    workers = config.workers
    least = workers.least or workers.count
    for kind, each in (("CPU", workers.cpus), ("GPU", workers.gpus)):
        if each * least > there.get(kind, 0):
            raise ConfigError(
                "workers",
                f"{least} workers of {each} {kind} each must fit the cluster, which has "
                f"{there.get(kind, 0):g}; lower `workers.count` or `workers.{kind.lower()}s`",
            )
    if config.data.feed == FeedKind.RAY:
        check_feeders(config, least)
