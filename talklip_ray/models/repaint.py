"""Repaint crops to match a voice: what a generate worker runs, and all it knows.

Shapes: N crops, S pixels a side, 3 = RGB outside and BGR inside, A audio steps, F features a step, D
embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from talklip_ray.models.inputs import VoiceSpan, check_spans, face_input, mel_windows, to_crops
from talklip_ray.models.layers import fold_norms
from talklip_ray.models.talklip import SIDE, TalkLip

Precision = Literal["auto", "fp32", "bf16"]
_CPU_BATCH = 16
"""More crops at once are no faster on a processor and a tail batch wastes more."""


class Repainter:
    """A network ready to dub: eval mode, normalisation folded in, channels last.

    Batches always have one size, the last one filled up with black, so that a crop's patch does not depend
    on which crops happen to share its batch.

    Args:
        path: weights that ``talklip weights`` or training wrote. WeightsError if they are not.
        precision: auto takes bf16 where the processor or GPU computes it natively.
        device: torch's name of one; "" takes a GPU if there is one.
        batch_frames: crops that go through the network at once, at most.
        threads: processor threads for all of torch in this process; 0 leaves them alone.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        precision: Precision = "auto",
        device: str | None = None,
        batch_frames: int = 64,
        threads: int = 0,
    ) -> None:
        if threads:
            torch.set_num_threads(threads)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = choose_dtype(precision, self.device)
        self.network, self.header = load_network(path, self.device)
        self.config = self.network.config
        self.voice: Voice = self.config.voice
        self.batch = min(batch_frames, _CPU_BATCH) if self.device.type == "cpu" else batch_frames
        prepare(self.network, self.dtype)

    @torch.inference_mode()
    def __call__(
        self,
        crops_NSSC: NDArray[np.uint8],
        voice: Sequence[VoiceSpan],
        which_N: NDArray[np.int64],
        steps_N: NDArray[np.int64],
    ) -> NDArray[np.uint8]:
        """Patches N x S x S x 3, uint8 RGB.

        ``which_N`` names each crop's span in ``voice``, ``steps_N`` its step on that dub's clock. A step
        past the dub hears silence (local) or the dub's last step (global). ValueError where a span is too
        short for its steps.
        """
        if crops_NSSC.shape[1:] != (SIDE, SIDE, 3) or len(crops_NSSC) != len(which_N):
            shape = crops_NSSC.shape
            raise ValueError(f"{len(which_N)} frames need as many {SIDE}x{SIDE} crops, got {shape}")
        check_spans(voice, which_N, steps_N)
        patches_NSSC = np.empty_like(crops_NSSC)
        if not len(crops_NSSC):
            return patches_NSSC
        places_N2, row_N = np.unique(np.stack((which_N, steps_N), axis=1), axis=0, return_inverse=True)
        heard_RD = self._listen(voice, places_N2)
        for at in range(0, len(crops_NSSC), self.batch):
            rows = torch.from_numpy(row_N[at : at + self.batch].reshape(-1)).to(self.device)
            crops = torch.from_numpy(np.array(crops_NSSC[at : at + self.batch])).to(self.device)
            patches_NSSC[at : at + self.batch] = self._repaint(crops, heard_RD[rows]).cpu().numpy()
        return patches_NSSC

    def _repaint(self, crops_NSSC: Tensor, heard_ND: Tensor) -> Tensor:
        faces_N6SS = face_input(crops_NSSC, crops_NSSC).to(self.dtype)
        faces = _filled(faces_N6SS, self.batch).contiguous(memory_format=torch.channels_last)
        heard = _filled(heard_ND, self.batch)
        return to_crops(self.network.repaint(faces, heard.to(self.dtype))[: len(crops_NSSC)])

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


def _filled(x: Tensor, count: int) -> Tensor:
    """``x`` with zero rows appended up to ``count``."""
    if len(x) == count:
        return x
    return torch.cat((x, x.new_zeros((count - len(x), *x.shape[1:]))))
