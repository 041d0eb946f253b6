"""From the name of a device to what Lightning and the plan make of it."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sfumato.errors import ConfigError
from sfumato.runs import resolve_device

MOST_PIXELS = 1 << 22  # of the image that a network sees, unless a person chooses another size
WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # the variable that a trainer sets for deterministic matrix products
CROP_ON_CPU, CROP_ON_GPU = 48_000, 1 << 19  # pixels of a crop; with more an epoch takes minutes on a few cores


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


@contextmanager
def same_algorithms() -> Iterator[None]:
    """Whether torch may use only deterministic algorithms is afterwards as it was. A trainer leaves it changed."""
    before = torch.get_deterministic_debug_mode()
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


@contextmanager
def any_algorithm() -> Iterator[None]:
    """Every algorithm is allowed, for what does not change the weights: on a GPU sums by class have no other one."""
    with same_algorithms():
        torch.set_deterministic_debug_mode("default")
        yield


def check_deterministic(accelerator: str) -> None:
    """Check that matrix products can be deterministic. On a GPU this is decided before its first one.

    Raises:
        ConfigError: If they cannot in this process.
    """
    if accelerator == "cuda" and torch.cuda.is_initialized() and WORKSPACE not in os.environ:
        raise ConfigError(
            f"deterministic is True, but this process has used the GPU without {WORKSPACE}: set it to :4096:8 in the "
            "environment, or train in a new process"
        )


def fast_precision(device: str = "auto") -> str:
    """``bf16-mixed`` where the device computes in it, else ``32-true``, because emulated it is ten times slower."""
    kind = resolve_device(device).type
    if kind == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    has = torch.cpu.get_capabilities() if kind == "cpu" else {}
    return "bf16-mixed" if has.get("avx512_bf16") or has.get("amx_bf16") else "32-true"


def default_size(original: tuple[int, int]) -> tuple[int, int]:
    """The size at which a network sees images: the original one, halved until it has at most 4 megapixels.

    >>> default_size((480, 640)), default_size((3000, 4000))
    ((480, 640), (1500, 2000))
    """
    return _halved(original, MOST_PIXELS)


def default_crop(size: tuple[int, int], device: str = "auto") -> tuple[int, int]:
    """The size of the crops in training: the whole image, or a multiple of 32 where it is too large for a step.

    >>> default_crop((96, 128), "cpu"), default_crop((360, 480), "cpu")
    ((96, 128), (192, 256))
    """
    height, width = _halved(size, CROP_ON_CPU if resolve_device(device).type == "cpu" else CROP_ON_GPU)
    return (height, width) if (height, width) == size else (max(32, _multiple(height)), max(32, _multiple(width)))


def _halved(size: tuple[int, int], pixels: int) -> tuple[int, int]:
    height, width = size
    while height * width > pixels:
        height, width = (height + 1) // 2, (width + 1) // 2
    return height, width


def _multiple(length: int) -> int:
    return 32 * max(1, round(length / 32))
