"""From the name of a device to what Lightning and the plan make of it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sfumato.runs import resolve_device

PIXELS_ON_CPU = 48_000  # with more than this per image an epoch takes minutes on a few cores


def lightning_devices(device: str, devices: int = 1) -> tuple[str, int | list[int]]:
    """Accelerator and devices of a Lightning trainer.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        devices: Number of devices, or of processes on the CPU. Default 1.

    Raises:
        ConfigError: If this machine has no such device.

    >>> lightning_devices("cpu", 2)
    ('cpu', 2)
    """
    found = resolve_device(device)
    return found.type, devices if found.index is None else [found.index]


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without Lightning's advice to its developers. Other warnings and all errors are shown."""
    import lightning.pytorch  # noqa: F401  (its loggers get their levels when it is imported)

    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


def fast_precision(device: str = "auto") -> str:
    """``bf16-mixed`` where the device computes in it, else ``32-true``, because emulated it is ten times slower."""
    kind = resolve_device(device).type
    if kind == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    has = torch.cpu.get_capabilities() if kind == "cpu" else {}
    return "bf16-mixed" if has.get("avx512_bf16") or has.get("amx_bf16") else "32-true"


def working_size(native: tuple[int, int], device: str = "auto") -> tuple[int, int]:
    """The size to train at: the native one, on a CPU halved until an image is small enough.

    >>> working_size((480, 640), "cpu")
    (120, 160)
    """
    height, width = native
    while resolve_device(device).type == "cpu" and height * width > PIXELS_ON_CPU:
        height, width = (height + 1) // 2, (width + 1) // 2
    return height, width
