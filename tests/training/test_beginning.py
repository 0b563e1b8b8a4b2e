"""A new network that begins by copying who it is shown."""

from dataclasses import replace

import pytest
import torch

from talklip_ray.errors import ConfigError
from talklip_ray.models.talklip import small
from talklip_ray.training.beginning import begin_as_copier
from talklip_ray.training.recipes import recipe


def test_what_a_new_network_paints_is_who_it_is_shown():
    torch.manual_seed(0)
    network = recipe("starter").network.build()
    coarse_N3HW = torch.rand(8, 3, 12, 12)
    identities_N3SS = torch.nn.functional.interpolate(coarse_N3HW, size=(96, 96), mode="bilinear") * 0.6 + 0.2
    faces_N6SS = torch.cat((identities_N3SS.clone(), identities_N3SS), 1)
    faces_N6SS[:, :3, 48:] = 0
    voice = torch.randn(8, 1, 80, 16)

    def unlike() -> torch.Tensor:
        with torch.no_grad():
            return (network.train()(faces_N6SS, voice).patches_N3SS - identities_N3SS).abs()

    before = float(unlike().mean())
    begin_as_copier(network)
    after_N3SS = unlike()
    after = float(after_N3SS.mean())
    assert after < 0.1 < 0.12 < before, (before, after)
    # What only who it is shows, the lower half, is passed on as well as the rest.
    assert float(after_N3SS[:, :, 48:].mean()) < 0.1


def test_a_network_too_narrow_to_copy_is_refused():
    narrow = replace(small("l"), encoder_widths=(4, 8, 16, 32, 64, 128, 128))
    with pytest.raises(ConfigError, match=r"6 and 3 channels at full size, found \(4, 8\)"):
        begin_as_copier(narrow.build())
