"""Which device networks run on, and why a GPU that is there cannot be used."""

from __future__ import annotations

import warnings

import torch

from talklip_ray.errors import ConfigError


def no_gpu() -> str:
    """Why torch can use no GPU here; "" where it can, which one sum on it shows.

    In torch's own words, which name the driver where that is too old for the CUDA this torch was built for.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said again by the error
            torch.cuda.init()  # type: ignore[no-untyped-call]
            float(torch.ones(2, device="cuda").sum())
    except (RuntimeError, AssertionError) as error:
        said = str(error).strip().splitlines()
        return f"torch {torch.__version__}: {said[0] if said else type(error).__name__}"
    return ""


def choose_device(wanted: str = "") -> torch.device:
    """The device by torch's name of it; "" takes a GPU if one can be used, else the processor.

    Raises ConfigError where a GPU is wanted and none can be used: on the processor the work would go on, many times
    slower, on a machine that costs as much as its GPU.
    """
    if not wanted:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted.startswith("cuda") and (why := no_gpu()):
        raise ConfigError(
            "generate.device",
            f"a GPU that torch can use must be there, found none ({why}); install an NVIDIA driver that is new enough "
            "and torch's CUDA build (infra/Dockerfile, TORCH_INDEX), or set `generate.device=cpu`, or no GPU in "
            "`pools.generate`",
        )
    return torch.device(wanted)
