"""A network that paints no more than a mouth: what it may see, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from talklip_ray.errors import ConfigError, WeightsError
from talklip_ray.models.checkpoints import Header, load_network, save_network
from talklip_ray.models.exporting import export_released
from talklip_ray.models.inputs import VoiceSpan, face_input
from talklip_ray.models.mouth import at_the_mouth, counting, cover, lay_over, mouth_place, part_of, whole_side
from talklip_ray.models.repaint import Repainter
from talklip_ray.models.talklip import NetworkConfig, small
from tests.parity.fill import fill

CONFIG = replace(small("l"), repaints="mouth")


def faces(count: int = 3, seed: int = 1) -> torch.Tensor:
    crops = np.random.default_rng(seed).integers(0, 256, (count, 96, 96, 3), np.uint8)
    return face_input(crops, crops)


def voice(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 1, 80, 16, generator=torch.Generator().manual_seed(2))


def test_only_the_mouth_of_who_it_is_is_covered() -> None:
    given_N6SS = faces()
    covered_N6SS = cover(given_N6SS)
    changed_SS = (covered_N6SS != given_N6SS).any(dim=1).any(dim=0)
    (top, bottom), (left, right) = mouth_place(96)
    assert changed_SS[top:bottom, left:right].float().mean() > 0.99
    assert int(changed_SS.sum()) <= (bottom - top) * (right - left)
    assert torch.equal(given_N6SS, faces())  # a copy


def test_what_covers_a_mouth_is_the_skin_around_it_and_what_is_painted_is_added_to_that() -> None:
    shaded_SS = torch.linspace(0.3, 0.7, 96).expand(96, 96)  # from left to right
    own_N3SS = shaded_SS.expand(2, 3, 96, 96).clone()
    at_the_mouth(own_N3SS)[:] = 0.0  # a dark mouth
    covered_N3SS = cover(torch.cat((own_N3SS, own_N3SS), dim=1))[:, 3:]
    assert torch.allclose(covered_N3SS[:, :, 40:], shaded_SS[40:].expand(2, 3, 56, 96), atol=0.08)
    network = CONFIG.build().eval()
    with torch.no_grad():
        network.generator.output[-1].weight.zero_()  # type: ignore[operator,union-attr]
        network.generator.output[-1].bias.zero_()  # type: ignore[operator,union-attr]
        painted_N3SS = network(torch.cat((own_N3SS, own_N3SS), dim=1), voice(2)).patches_N3SS
    assert torch.allclose(at_the_mouth(painted_N3SS), at_the_mouth(covered_N3SS), atol=1e-5)


def test_the_part_is_cut_alike_at_every_size_and_holds_all_that_counts() -> None:
    assert [tuple(part_of(torch.zeros(1, 1, n, n)).shape[2:]) for n in (12, 24, 96)] == [(7, 10), (14, 20), (56, 80)]
    assert [whole_side(part_of(torch.zeros(1, 1, n, n))) for n in (12, 24, 96)] == [12, 24, 96]
    assert whole_side(torch.zeros(1, 1, 6, 6)) == 6
    assert float(part_of(counting(96)).sum()) == pytest.approx(float(counting(96).sum()))
    assert float(at_the_mouth(counting(96)[None, None]).min()) == 1.0
    assert 0 < float(counting(96)[51, 48]) < 1  # fades


def test_a_painting_is_laid_over_the_face_and_fades_out() -> None:
    own, painted = torch.zeros(1, 3, 96, 96), torch.ones(1, 3, 56, 80)
    laid = lay_over(painted, own)
    assert torch.equal(laid[0, 0], counting(96))
    assert not own.any()


def test_the_mouth_that_is_there_changes_nothing_and_all_around_stays() -> None:
    network = fill(CONFIG.build()).eval()
    given = faces()
    other = given.clone()
    at_the_mouth(other)[:, 3:] = 0.9
    with torch.no_grad():
        here, there = (network(one, voice()).patches_N3SS for one in (given, other))
        heard = network(given, voice().flip(0)).patches_N3SS
    assert torch.equal(at_the_mouth(here), at_the_mouth(there))
    around_SS = counting(96) == 0
    assert torch.equal(here[..., around_SS], given[:, 3:][..., around_SS])
    assert not torch.equal(at_the_mouth(here), at_the_mouth(heard))


def test_a_face_heard_twice_is_painted_as_if_shown_twice() -> None:
    network = fill(CONFIG.build()).eval()
    said = voice(6)
    with torch.no_grad():
        once = network(faces(), said).patches_N3SS
        twice = network(faces().repeat(2, 1, 1, 1), said).patches_N3SS
    assert torch.allclose(once, twice, atol=1e-6)
    assert not torch.allclose(once[:3], once[3:], atol=1e-6)


def test_dubbing_leaves_what_is_not_the_mouth_as_it_was_to_the_bit(tmp_path: Path) -> None:
    """In half precision, too: the picture itself never goes through the network."""
    save_network(tmp_path / "weights", fill(CONFIG.build()), Header(licence="test"))
    assert load_network(tmp_path / "weights")[0].config.repaints == "mouth"
    crops = np.random.default_rng(1).integers(0, 256, (5, 96, 96, 3), np.uint8)
    span = VoiceSpan(np.random.default_rng(3).standard_normal((400, 80)).astype(np.float32), 0, 400)
    steps_N = np.arange(5) * 60
    around_SS = (counting(96) == 0).numpy()
    found = []
    for precision in ("fp32", "bf16"):
        repaint = Repainter(tmp_path / "weights", precision=precision, device="cpu")  # type: ignore[arg-type]
        patches = repaint(crops, [span], np.zeros(5, np.int64), steps_N)
        assert np.array_equal(patches[:, around_SS], crops[:, around_SS])
        assert not np.array_equal(patches, crops)
        found.append(patches.astype(int))
    assert np.abs(found[0] - found[1]).mean() < 1


def test_it_is_not_exported_to_code_that_cannot_cover_a_mouth(tmp_path: Path) -> None:
    save_network(tmp_path / "weights", CONFIG.build(), Header(licence="test"))
    with pytest.raises(WeightsError, match="must repaint the whole face"):
        export_released(tmp_path / "weights", tmp_path / "released.pth")


def test_nothing_else_can_be_repainted() -> None:
    with pytest.raises(ConfigError, match="repaints one of"):
        NetworkConfig(variant="l", repaints="nose")  # type: ignore[arg-type]
