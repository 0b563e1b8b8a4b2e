"""What the network is shown: which pixels, in which order, and which sound."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from talklip_ray.media.features import SILENCE
from talklip_ray.models.inputs import VoiceSpan, face_input, mel_windows, picture, span_for, to_crops
from talklip_ray.models.talklip import NetworkConfig, released, small


def crops(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 96, 96, 3), np.uint8)


def counting(first: int, stop: int, num_steps: int) -> VoiceSpan:
    """Each value is the number of its step."""
    rows = np.repeat(np.arange(first, stop, dtype=np.float32)[:, None], 80, axis=1)
    return VoiceSpan(rows, first, num_steps)


def window_steps(config: NetworkConfig, span: VoiceSpan, step: int) -> list[float]:
    windows_N1FW = mel_windows(config, span, np.array([step]))
    assert windows_N1FW.shape == (1, 1, 80, 16)
    return windows_N1FW[0, 0, 40].tolist()


def test_pose_comes_first_and_hides_its_lower_half_only() -> None:
    poses, identities = crops(2, 1), crops(2, 2)
    faces_N6SS = face_input(poses, identities)
    assert torch.equal(faces_N6SS[:, :3, :48], picture(poses)[:, :, :48])
    assert not faces_N6SS[:, :3, 48:].any()
    assert torch.equal(faces_N6SS[:, 3:], picture(identities))


def test_pictures_are_blue_first_and_end_at_one() -> None:
    red = np.zeros((1, 96, 96, 3), np.uint8)
    red[..., 0] = 255
    assert picture(red)[0].amax(dim=(1, 2)).tolist() == [0.0, 0.0, 1.0]


def test_crops_survive_the_way_in_and_out() -> None:
    assert np.array_equal(to_crops(picture(crops(3))).numpy(), crops(3))


def test_patches_are_rounded_not_cut() -> None:
    assert to_crops(torch.full((1, 3, 96, 96), 0.499 / 255)).max() == 0
    assert to_crops(torch.full((1, 3, 96, 96), 0.501 / 255)).min() == 1


def test_read_only_crops_are_taken() -> None:
    """Arrays out of Ray's object store cannot be written to."""
    frozen = crops(1)
    frozen.flags.writeable = False
    assert picture(frozen).shape == (1, 3, 96, 96)


def test_a_centred_window_has_the_frame_in_its_middle() -> None:
    """Step 100 spans 80 t in [100, 101); steps 93 to 108 have their mean at 100.5."""
    assert window_steps(small("l"), counting(0, 200, 200), 100) == list(range(93, 109))


def test_a_wav2lip_window_starts_at_the_frame() -> None:
    config = released("l", mel_placement="wav2lip")
    assert window_steps(config, counting(0, 200, 200), 100) == list(range(100, 116))


def test_outside_the_dub_there_is_silence() -> None:
    span = counting(0, 20, 20)
    assert window_steps(small("l"), span, 2) == [SILENCE] * 5 + list(range(11))
    assert window_steps(small("l"), span, 15) == [*range(8, 20), *[SILENCE] * 4]
    assert window_steps(small("l"), span, 500) == [SILENCE] * 16


@pytest.mark.parametrize("placement", ["centered", "wav2lip"])
@pytest.mark.parametrize(("first", "stop"), [(0, 5), (40, 90), (195, 204), (300, 310), (-9, 1)])
def test_the_span_asked_for_is_enough_and_no_more(placement: str, first: int, stop: int) -> None:
    config = small("l", mel_placement=placement)  # type: ignore[arg-type]
    low, high = span_for(config, first, stop, 200)
    assert 0 <= low <= high <= 200
    whole = mel_windows(config, counting(0, 200, 200), np.arange(first, stop))
    assert torch.equal(mel_windows(config, counting(low, high, 200), np.arange(first, stop)), whole)
    if high > low:
        with pytest.raises(ValueError, match="the span has"):
            mel_windows(config, counting(low + 1, high, 200), np.arange(first, stop))
