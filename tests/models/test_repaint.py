"""Repainting: right frames, right sound, and the same pixels however the work is cut."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from talklip_ray.errors import ConfigError, WeightsError
from talklip_ray.media.features import FEATURES, Voice
from talklip_ray.models.checkpoints import Header, load_network, save_network
from talklip_ray.models.inputs import VoiceSpan, face_input, mel_windows, span_for, to_crops
from talklip_ray.models.repaint import Repainter, choose_dtype
from talklip_ray.models.talklip import Variant, small
from tests.parity.fill import fill

FRAMES, STEPS = 21, 1300
LOUD = 30
"""Makes random weights care about the voice as much as trained ones do."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    for variant in ("l", "g"):
        network = fill(small(variant).build())  # type: ignore[arg-type]
        with torch.no_grad():
            network.generator.blocks[0][0].conv.weight *= LOUD  # type: ignore[index,union-attr]
        save_network(folder / variant, network, Header(licence="test"))
    return folder


def crops(count: int = FRAMES) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (count, 96, 96, 3), np.uint8)


def dub(variant: Variant, seed: int = 0) -> VoiceSpan:
    width = FEATURES[small(variant).voice]
    return VoiceSpan(np.random.default_rng(seed).standard_normal((STEPS, width)).astype(np.float32), 0, STEPS)


def part(span: VoiceSpan, first: int, stop: int) -> VoiceSpan:
    return VoiceSpan(span.features_AF[first:stop], first, span.num_steps)


def apart(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b).max())


def steps() -> np.ndarray:
    return np.linspace(0, STEPS - 1, FRAMES).astype(np.int64)


@pytest.mark.parametrize("variant", ["l", "g"])
def test_patches_are_what_the_network_paints(folder: Path, variant: Variant) -> None:
    network, _ = load_network(folder / variant)
    span, faces = dub(variant), face_input(crops(), crops())
    with torch.no_grad():
        if variant == "l":
            expected = network(faces, mel_windows(network.config, span, steps())).patches_N3SS
        else:
            early = torch.from_numpy(steps()[:6])
            rows = torch.from_numpy(span.features_AF)[None, :500]
            expected = network(faces[:6], rows, early).patches_N3SS
    patches = Repainter(folder / variant, precision="fp32")(crops(), [span], np.zeros(FRAMES, np.int64), steps())
    assert apart(patches[: len(expected)], to_crops(expected).numpy()) <= 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("variant", ["l", "g"])
@pytest.mark.parametrize("size", [1, 6, 16])
def test_any_segmentation_gives_the_same_patches(folder: Path, variant: Variant, precision: str, size: int) -> None:
    repaint = Repainter(folder / variant, precision=precision)  # type: ignore[arg-type]
    span = dub(variant)
    whole = repaint(crops(), [span], np.zeros(FRAMES, np.int64), steps())
    for at in range(0, FRAMES, size):
        here = slice(at, at + size)
        held = span_for(repaint.config, int(steps()[here].min()), int(steps()[here].max()) + 1, STEPS)
        which = np.zeros(len(steps()[here]), np.int64)
        assert apart(repaint(crops()[here], [part(span, *held)], which, steps()[here]), whole[here]) <= 1


@pytest.mark.parametrize("variant", ["l", "g"])
def test_every_frame_hears_its_own_dub_at_its_own_step(folder: Path, variant: Variant) -> None:
    repaint = Repainter(folder / variant, precision="fp32")
    dubs = [dub(variant, 1), dub(variant, 2)]
    which, at = np.array([1, 0, 1, 1]), np.array([700, 20, 20, 700])
    same = np.repeat(crops(1), 4, axis=0)
    mixed = repaint(same, dubs, which, at)
    for n in range(4):
        alone = repaint(same[:1], [dubs[which[n]]], np.zeros(1, np.int64), at[n : n + 1])
        assert apart(mixed[n : n + 1], alone) <= 1
    assert np.array_equal(mixed[0], mixed[3])
    assert apart(mixed[0], mixed[2]) > 3
    assert apart(mixed[1], mixed[2]) > 3


SHOWN = [np.arange(FRAMES), np.array([20, 3, 17, 4]), np.arange(7, FRAMES)]
"""Which crops each of three voices is seen on."""


def three_voices(variant: Variant) -> tuple[list[VoiceSpan], np.ndarray, np.ndarray, np.ndarray]:
    """Spans, and which span, step and crop each patch has."""
    which = np.concatenate([np.full(len(shown), n) for n, shown in enumerate(SHOWN)])
    return (
        [dub(variant, n) for n in range(3)],
        which,
        np.concatenate([steps()[s] for s in SHOWN]),
        np.concatenate(SHOWN),
    )


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("variant", ["l", "g"])
def test_voices_that_share_their_faces_are_each_as_alone(
    folder: Path, variant: Variant, precision: str, deterministic: bool
) -> None:
    repaint = Repainter(folder / variant, precision=precision, deterministic=deterministic)  # type: ignore[arg-type]
    spans, which, at, shown = three_voices(variant)
    together = repaint(crops(), spans, which, at, shown)
    for n, mine in enumerate(SHOWN):
        alone = repaint(crops()[mine], [spans[n]], np.zeros(len(mine), np.int64), steps()[mine])
        np.testing.assert_array_equal(together[which == n], alone)


def test_a_face_is_looked_at_once_however_many_voices_it_is_given(folder: Path) -> None:
    repaint = Repainter(folder / "l")
    looks, paints = called(repaint.network.video_encoder), called(repaint.network.generator)
    repaint(crops(), *three_voices("l"))
    assert (len(looks), len(paints)) == (2, 3)  # 21 crops; 39 patches, 24 of them of the first 16 crops


def called(module: torch.nn.Module) -> list[int]:
    """How many rows each call of the module from now on is given."""
    sizes: list[int] = []
    module.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    return sizes


def fits(module: torch.nn.Module, most: int, error: Callable[[], Exception]) -> None:
    """From now on the module runs out of memory over more than ``most`` rows."""

    def check(_: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        if len(given[0]) > most:
            raise error()

    module.register_forward_pre_hook(check)


NO_MEMORY = {
    "torch": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "processor": lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
    "cudnn": lambda: RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "python": MemoryError,
}
no_memory = pytest.mark.parametrize("error", NO_MEMORY.values(), ids=NO_MEMORY)


@no_memory
@pytest.mark.parametrize("part", ["video_encoder", "generator", "local_listener"])
def test_where_memory_does_not_suffice_the_batch_is_halved_for_good(
    folder: Path, caplog: pytest.LogCaptureFixture, part: str, error: Callable[[], Exception]
) -> None:
    spans, which, at, shown = three_voices("l")
    whole = Repainter(folder / "l", precision="fp32")(crops(), spans, which, at, shown)
    repaint = Repainter(folder / "l", precision="fp32")
    fits(getattr(repaint.network, part), 5, error)
    with caplog.at_level(logging.WARNING):
        halved = repaint(crops(), spans, which, at, shown)
        assert (repaint.batch, len(caplog.messages)) == (4, 2)
        repaint(crops(), spans, which, at, shown)
    assert apart(halved, whole) <= 1
    assert len(caplog.messages) == 2, "it is said once"


@no_memory
@pytest.mark.parametrize(("deterministic", "left"), [(False, 1), (True, 16)])
def test_lack_of_memory_that_no_smaller_batch_mends_passes_up_as_such(
    folder: Path, deterministic: bool, left: int, error: Callable[[], Exception]
) -> None:
    """In a class that the pipeline takes for worth another try; a fixed batch is not halved."""
    repaint = Repainter(folder / "l", deterministic=deterministic)
    fits(repaint.network.generator, 0, error)
    with pytest.raises((MemoryError, torch.OutOfMemoryError)):
        repaint(crops(), *three_voices("l"))
    assert repaint.batch == left


def test_other_errors_are_no_lack_of_memory(folder: Path) -> None:
    repaint = Repainter(folder / "l")
    fits(repaint.network.generator, 0, lambda: RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        repaint(crops(), *three_voices("l"))
    assert repaint.batch == 16


@pytest.mark.parametrize("variant", ["l", "g"])
def test_bf16_stays_close_to_fp32(folder: Path, variant: Variant) -> None:
    span, which = dub(variant), np.zeros(FRAMES, np.int64)
    exact, rough = (Repainter(folder / variant, precision=p)(crops(), [span], which, steps()) for p in ("fp32", "bf16"))
    error = np.mean((exact.astype(float) - rough) ** 2)
    assert 20 * np.log10(255 / np.sqrt(error)) > 50


def test_the_convolution_that_mixes_the_colours_keeps_full_precision(folder: Path) -> None:
    generator = Repainter(folder / "l", precision="bf16").network.generator
    dtypes = [p.dtype for p in generator.parameters()]
    assert dtypes == [torch.bfloat16] * (len(dtypes) - 2) + [torch.float32] * 2


def test_a_step_past_the_dub_hears_its_last_one(folder: Path) -> None:
    repaint, span = Repainter(folder / "g", precision="fp32"), dub("g")
    same = np.repeat(crops(1), 2, axis=0)
    late = repaint(same, [span], np.zeros(2, np.int64), np.array([STEPS - 1, STEPS + 40]))
    assert np.array_equal(late[0], late[1])


@pytest.mark.parametrize("variant", ["l", "g"])
def test_a_span_too_short_for_its_steps_is_refused(folder: Path, variant: Variant) -> None:
    with pytest.raises(ValueError, match="the span has"):
        Repainter(folder / variant)(crops(1), [part(dub(variant), 0, 100)], np.zeros(1, np.int64), np.array([99]))


def test_no_crops_make_no_patches(folder: Path) -> None:
    nothing = np.zeros(0, np.int64)
    assert Repainter(folder / "l")(crops(0), [], nothing, nothing).shape == (0, 96, 96, 3)


@pytest.mark.parametrize(("frames", "which", "says"), [
    (np.zeros((1, 64, 64, 3), np.uint8), [0], "96x96 crops"),
    (crops(2), [0], "96x96 crops"),
    (crops(1), [1], "do not fit together"),
])  # fmt: skip
def test_what_does_not_fit_together_is_refused(folder: Path, frames: np.ndarray, which: list[int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Repainter(folder / "l")(frames, [dub("l")], np.array(which), np.zeros(len(which), np.int64))


def test_a_crop_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="there are 2 crops, asked for 1 to 2"):
        Repainter(folder / "l")(crops(2), [dub("l")], np.zeros(2, np.int64), np.zeros(2, np.int64), np.array([1, 2]))


def test_a_repainter_says_what_it_listens_to(folder: Path) -> None:
    assert Repainter(folder / "l").voice is Voice.LOCAL
    assert Repainter(folder / "g").voice is Voice.GLOBAL


def test_unusable_settings_and_weights_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="must be auto, fp32 or bf16, found 'int4'"):
        choose_dtype("int4", torch.device("cpu"))  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match="found none"):
        Repainter(folder / "nothing")
