"""The network: its variants, its sizes, and that everything it is given matters."""

from __future__ import annotations

import copy

import pytest
import torch

from talklip_ray.errors import ConfigError
from talklip_ray.media.features import Voice
from talklip_ray.models.layers import fold_norms
from talklip_ray.models.talklip import VARIANTS, NetworkConfig, TalkLip, Variant, released, small
from tests.parity.fill import fill

SIZES = {  # parameters
    ("released", Voice.LOCAL): 36_298_035,
    ("released", Voice.GLOBAL): 124_918_707,
    ("small", Voice.LOCAL): 2_275_983,
    ("small", Voice.GLOBAL): 3_403_791,
}


def inputs(variant: Variant, count: int = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    faces = torch.rand(count, 6, 96, 96)
    if variant.startswith("l"):
        return {"faces_N6SS": faces, "voice": torch.randn(count, 1, 80, 16)}
    return {"faces_N6SS": faces, "voice": torch.randn(2, 30, 104), "picked_N": torch.tensor([4, 29, 45])}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("preset", [released, small])
def test_a_preset_builds_the_same_class_at_its_size(preset: type, variant: Variant) -> None:
    with torch.device("meta"):
        network = preset(variant).build()
    assert type(network) is TalkLip
    head = sum(p.numel() for p in network.contrast.parameters()) if network.config.contrastive else 0
    size = sum(p.numel() for p in network.parameters()) - head
    assert size == SIZES[preset.__name__, network.config.voice]


@pytest.mark.parametrize(("variant", "voice", "contrastive"), [
    ("l", Voice.LOCAL, False), ("lc", Voice.LOCAL, True),
    ("g", Voice.GLOBAL, False), ("gc", Voice.GLOBAL, True),
])  # fmt: skip
def test_a_variant_says_who_listens_and_what_training_adds(variant: Variant, voice: Voice, contrastive: bool) -> None:
    assert (small(variant).voice, small(variant).contrastive) == (voice, contrastive)


@pytest.mark.parametrize("variant", ["l", "g"])
def test_every_input_reaches_the_picture(variant: Variant) -> None:
    network = small(variant).build().eval()
    given = inputs(variant)
    given["faces_N6SS"].requires_grad_()
    given["voice"].requires_grad_()
    network(**given).patches_N3SS.sum().backward()
    face_grad = given["faces_N6SS"].grad
    assert face_grad is not None
    assert (face_grad.abs().amax(dim=(0, 2, 3)) > 0).all()  # pose and identity, all three colours of each
    voice_grad = given["voice"].grad
    assert voice_grad is not None
    assert voice_grad.abs().max() > 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_contrastive_variants_give_a_unit_anchor_for_each_picture(variant: Variant) -> None:
    network = small(variant).build().eval()
    anchors = network(**inputs(variant)).anchors_ND
    if not network.config.contrastive:
        assert anchors is None
        return
    assert anchors is not None
    assert anchors.shape == (3, network.config.contrast_width)
    assert torch.allclose(anchors.norm(dim=1), torch.ones(3))


def test_a_listener_that_does_not_learn_gets_no_gradient_and_hears_the_same() -> None:
    network = small("gc").build().eval()
    heard = network(**inputs("gc"))
    network.listener_learns = False
    deaf = network(**inputs("gc"))
    assert torch.equal(heard.patches_N3SS, deaf.patches_N3SS)
    (deaf.patches_N3SS.sum() + deaf.anchors_ND.sum()).backward()
    assert all(p.grad is None for p in network.global_listener.parameters())
    assert network.audio_map.weight.grad is not None
    assert network.contrast.project.weight.grad is not None


@pytest.mark.parametrize("variant", ["l", "g"])
def test_pictures_are_colours_between_zero_and_one(variant: Variant) -> None:
    pictures = small(variant).build().eval()(**inputs(variant)).patches_N3SS
    assert pictures.shape == (3, 3, 96, 96)
    assert 0 <= pictures.min() < pictures.max() <= 1


def test_each_picture_takes_the_step_picked_for_it() -> None:
    network = small("g").build().eval()
    given = inputs("g")
    whole = network.listen(given["voice"])
    assert torch.equal(whole[given["picked_N"]][2], network.listen(given["voice"])[45])
    picked = network(**given).patches_N3SS
    swapped = network(**given | {"picked_N": torch.tensor([4, 29, 4])}).patches_N3SS
    assert torch.equal(picked[:2], swapped[:2])
    assert not torch.equal(picked[2], swapped[2])


@pytest.mark.parametrize("variant", ["l", "g"])
def test_folding_the_norms_changes_no_picture(variant: Variant) -> None:
    network = fill(small(variant).build())
    folded = copy.deepcopy(network)
    fold_norms(folded)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    with torch.no_grad():
        here, there = (made(**inputs(variant)).patches_N3SS for made in (network, folded))
        assert (here - there).abs().max() < 1e-5


@pytest.mark.parametrize(("change", "says"), [
    ({"variant": "x"}, "variant must be one of"),
    ({"encoder_widths": (1, 2)}, "widths must count 7, 7 and 5"),
    ({"embedding": 64}, "last width is the embedding"),
    ({"output_width": 0}, "sizes must be 1 to"),
    ({"output_width": 10**6}, "sizes must be 1 to"),
])  # fmt: skip
def test_sizes_that_make_no_network_are_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        NetworkConfig(**{"variant": "l"} | change)  # type: ignore[arg-type]
