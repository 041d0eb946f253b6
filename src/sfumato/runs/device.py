"""The device that a name stands for."""

from __future__ import annotations

import torch

from sfumato.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda", "mps")


def resolve_device(name: str | torch.device) -> torch.device:
    """The device called ``name``.

    Args:
        name: ``auto`` (CUDA, else MPS, else the CPU), ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or a device.

    Raises:
        ConfigError: If there is no such device on this machine.

    >>> resolve_device("cpu")
    device(type='cpu')
    """
    if isinstance(name, torch.device):
        return name
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device is {name!r}, expected one of {', '.join(DEVICES)}, or such as cuda:1") from error
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise ConfigError(
            f"device is {name!r}, but this machine has {torch.cuda.device_count()} CUDA devices: use auto"
        )
    if device.type == "mps" and not torch.mps.is_available():
        raise ConfigError(f"device is {name!r}, but this machine has no MPS: use auto")
    return device
