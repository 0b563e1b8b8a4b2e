"""No machine of the tests' own has a GPU: torch's own answers stand in for a driver that is too old."""

import pytest
import torch

from talklip_ray.errors import ConfigError
from talklip_ray.models.devices import choose_device, no_gpu


def test_a_gpu_that_is_not_there_is_told_in_torch_s_words():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert no_gpu().startswith(f"torch {torch.__version__}: ")
    assert choose_device().type == "cpu"
    with pytest.raises(ConfigError, match="a GPU that torch can use must be there, found none"):
        choose_device("cuda")


def test_an_old_driver_is_named(monkeypatch):
    def too_old() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nPlease update it.")

    monkeypatch.setattr(torch.cuda, "init", too_old)
    with pytest.raises(ConfigError, match=r"is too old \(found version 11040\)\.\)"):
        choose_device("cuda:0")


def test_the_processor_is_always_there():
    assert choose_device("cpu").type == "cpu"
