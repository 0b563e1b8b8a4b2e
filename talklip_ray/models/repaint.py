"""Repaint crops to match a voice: what a generate worker runs, and all it knows.

Shapes: K crops, N patches (one or more of a crop: each under its own voice), S pixels a side, 3 = RGB outside and
BGR inside, R moments heard, A audio steps, F features a step, D embedding.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from talklip_ray.errors import ConfigError
from talklip_ray.media.features import Voice
from talklip_ray.models.audio_global import window_of, window_span
from talklip_ray.models.checkpoints import load_network
from talklip_ray.models.devices import choose_device
from talklip_ray.models.inputs import VoiceSpan, check_spans, face_input, mel_windows, to_crops
from talklip_ray.models.layers import fold_norms
from talklip_ray.models.talklip import SIDE, TalkLip

Precision = Literal["auto", "fp32", "bf16"]
_CPU_BATCH = 16
"""More crops at once are no faster on a processor and a tail batch wastes more."""
_NO_MEMORY = ("out of memory", "can't allocate memory", "bad_alloc", "_ALLOC_FAILED")
"""How torch, its allocators and NVIDIA's libraries put it where their error has no class of its own."""

log = logging.getLogger(__name__)


class Repainter:
    """A network ready to dub: eval mode, normalisation folded in, channels last.

    Batches always have one size, the last one filled up, so that a crop's patch does not depend on which crops
    happen to share its batch. What the video encoder makes of a crop is made once, however many voices the crop is
    given, and kept for one batch.

    Where memory does not suffice the batch is halved, for good; patches may then differ by rounding.

    Args:
        path: weights that ``talklip weights`` or training wrote. WeightsError if they are not.
        precision: auto takes bf16 where the processor or GPU computes it natively.
        device: torch's name of one; "" takes a GPU if there is one. ConfigError where torch cannot use it.
        batch_frames: crops that go through the network at once, at most.
        threads: processor threads for all of torch in this process; 0 leaves them alone.
        deterministic: the same call gives the same bits each time: one thread, algorithms that do not race, batches
            of one voice each that are never halved.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        precision: Precision = "auto",
        device: str = "",
        batch_frames: int = 64,
        threads: int = 0,
        deterministic: bool = False,
    ) -> None:
        if threads or deterministic:
            torch.set_num_threads(1 if deterministic else threads)
        self.device = choose_device(device)
        self.deterministic = deterministic
        if deterministic and self.device.type == "cuda":
            _settle_cuda()
        self.dtype = choose_dtype(precision, self.device)
        self.network, self.header = load_network(path, self.device)
        self.config = self.network.config
        self.voice: Voice = self.config.voice
        self.batch = min(batch_frames, _CPU_BATCH) if self.device.type == "cpu" else batch_frames
        prepare(self.network, self.dtype)

    def __call__(
        self,
        crops_KSSC: NDArray[np.uint8],
        voice: Sequence[VoiceSpan],
        which_N: NDArray[np.int64],
        steps_N: NDArray[np.int64],
        shown_N: NDArray[np.int64] | None = None,
    ) -> NDArray[np.uint8]:
        """Patches N x S x S x 3, uint8 RGB.

        ``shown_N`` names each patch's crop (None: its own, in order), ``which_N`` its span in ``voice``, ``steps_N``
        its step on that dub's clock. A step past the dub hears silence (local) or the dub's last step (global).
        ValueError where a span is too short for its steps. Lack of memory that no smaller batch mends is a
        MemoryError, or torch's OutOfMemoryError.
        """
        shown_N = np.arange(len(crops_KSSC)) if shown_N is None else shown_N
        if crops_KSSC.shape[1:] != (SIDE, SIDE, 3) or len(shown_N) != len(which_N):
            shape = crops_KSSC.shape
            raise ValueError(f"{len(which_N)} frames need as many {SIDE}x{SIDE} crops, got {shape}")
        if len(shown_N) and not 0 <= shown_N.min() <= shown_N.max() < len(crops_KSSC):
            raise ValueError(f"there are {len(crops_KSSC)} crops, asked for {shown_N.min()} to {shown_N.max()}")
        check_spans(voice, which_N, steps_N)
        while True:
            try:
                return self._patches(crops_KSSC, voice, which_N, steps_N, shown_N)
            except (MemoryError, RuntimeError) as error:
                if not _lacks_memory(error):
                    raise
                if self.deterministic or self.batch == 1:
                    if isinstance(error, MemoryError | torch.OutOfMemoryError):
                        raise
                    raise MemoryError(str(error)) from error
            self._halve()  # out here: until it is forgotten, the error holds what its frames held

    def _halve(self) -> None:
        log.warning("out of memory: %d crops at once from now on, not %d", self.batch // 2, self.batch)
        self.batch //= 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _patches(
        self,
        crops_KSSC: NDArray[np.uint8],
        voice: Sequence[VoiceSpan],
        which_N: NDArray[np.int64],
        steps_N: NDArray[np.int64],
        shown_N: NDArray[np.int64],
    ) -> NDArray[np.uint8]:
        patches_NSSC = np.empty((len(shown_N), SIDE, SIDE, 3), np.uint8)
        if not len(shown_N):
            return patches_NSSC
        places_R2, row_N = np.unique(np.stack((which_N, steps_N), axis=1), axis=0, return_inverse=True)
        row_N = row_N.reshape(-1)
        heard_RD = self._listen(voice, places_R2)
        for first in range(0, len(crops_KSSC), self.batch):
            wanted = np.flatnonzero((first <= shown_N) & (shown_N < first + self.batch))
            if not len(wanted):
                continue
            seen = self._look(crops_KSSC[first : first + self.batch])
            for some in self._batches(wanted, which_N):
                rows = torch.from_numpy(row_N[some]).to(self.device)
                patches_NSSC[some] = self._paint(seen, shown_N[some] - first, heard_RD[rows]).cpu().numpy()
        return patches_NSSC

    def _batches(self, wanted: NDArray[np.int64], which_N: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """The patches ``wanted`` in batches; of one voice each where what else there is must not matter."""
        groups = [wanted]
        if self.deterministic:
            groups = [wanted[which_N[wanted] == which] for which in np.unique(which_N[wanted])]
        for group in groups:
            for at in range(0, len(group), self.batch):
                yield group[at : at + self.batch]

    def _look(self, crops_NSSC: NDArray[np.uint8]) -> list[Tensor]:
        """What the network makes of at most a batch of crops, filled up to a whole one with black."""
        crops = torch.from_numpy(np.array(crops_NSSC)).to(self.device)
        faces_N6SS = _filled(face_input(crops, crops), self.batch)
        return self.network.look(faces_N6SS.contiguous(memory_format=torch.channels_last))

    def _paint(self, seen: list[Tensor], at_N: NDArray[np.int64], heard_ND: Tensor) -> Tensor:
        """Patches of at most a batch, uint8; ``at_N`` says which of the faces seen each is of."""
        places = np.zeros(self.batch, np.int64)
        places[: len(at_N)] = at_N
        if not np.array_equal(at_N, np.arange(len(at_N))):
            picked = torch.from_numpy(places).to(self.device)
            seen = [level[picked].contiguous(memory_format=torch.channels_last) for level in seen]
        heard = _filled(heard_ND, self.batch).to(self.dtype)
        return to_crops(self.network.paint(seen, heard)[: len(at_N)])

    def _listen(self, voice: Sequence[VoiceSpan], places_R2: NDArray[np.int64]) -> Tensor:
        """Embeddings R x D, float32, for the distinct (span, step) pairs ``places_R2``, in their order."""
        heard = []
        for which in np.unique(places_R2[:, 0]):
            steps_R = places_R2[places_R2[:, 0] == which, 1]
            listen = self._listen_local if self.voice is Voice.LOCAL else self._listen_global
            heard.append(listen(voice[which], steps_R))
        return torch.cat(heard)

    def _listen_local(self, span: VoiceSpan, steps_R: NDArray[np.int64]) -> Tensor:
        windows_R1FW = mel_windows(self.config, span, steps_R)
        heard = []
        for at in range(0, len(windows_R1FW), self.batch):
            chunk = windows_R1FW[at : at + self.batch].to(self.device)
            heard.append(self.network.listen(_filled(chunk, self.batch))[: len(chunk)])
        return torch.cat(heard)

    def _listen_global(self, span: VoiceSpan, steps_R: NDArray[np.int64]) -> Tensor:
        """Each grid window is heard on its own and whole, so its rows are the same for every segment that
        asks.
        """
        steps_R = steps_R.clip(0, max(0, span.num_steps - 1))
        windows_R = np.array([window_of(int(step), span.num_steps) for step in steps_R])
        heard = []
        for window in np.unique(windows_R):
            first, stop = window_span(int(window), span.num_steps)
            if first < span.first_step or stop > span.stop_step or stop <= first:
                raise ValueError(
                    f"window {window} needs steps {first}..{stop - 1} of the dub, the span has "
                    f"{span.first_step}..{span.stop_step - 1}"
                )
            rows_AF = span.features_AF[first - span.first_step : stop - span.first_step]
            rows_1AF = torch.from_numpy(np.array(rows_AF))[None].to(self.device)
            picked = torch.from_numpy(steps_R[windows_R == window] - first).to(self.device)
            heard.append(self.network.listen(rows_1AF)[picked])
        return torch.cat(heard)


def prepare(network: TalkLip, dtype: torch.dtype) -> None:
    """Fold and lay out a network for dubbing, in place.

    Listeners stay float32: they cost little and decide much. So does the last convolution, whose rounding is
    the picture's.
    """
    network.requires_grad_(False)
    fold_norms(network)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.video_encoder.to(dtype)
    network.generator.to(dtype)
    network.generator.output[-1].float()
    if network.config.voice is Voice.GLOBAL:
        network.audio_map.to(dtype)


def choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    if precision not in ("auto", "fp32", "bf16"):
        raise ConfigError("generate.precision", f"must be auto, fp32 or bf16, found {precision!r}")
    if precision == "auto":
        native = torch.cuda.is_bf16_supported() if device.type == "cuda" else _processor_has_bf16()
        return torch.bfloat16 if native else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _processor_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _settle_cuda() -> None:
    """Algorithms that give the same bits each time, for all of torch in this process."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)


def _lacks_memory(error: MemoryError | RuntimeError) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(words in str(error) for words in _NO_MEMORY)


def _filled(x: Tensor, count: int) -> Tensor:
    """``x`` with zero rows appended up to ``count``."""
    if len(x) == count:
        return x
    return torch.cat((x, x.new_zeros((count - len(x), *x.shape[1:]))))
