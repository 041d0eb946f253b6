"""What a service takes, and how long it may take."""

from __future__ import annotations

from dataclasses import dataclass

from sfumato.errors import ConfigError


@dataclass(frozen=True)
class Limits:
    """Limits of a service. The memory that requests need is at most the product of the first three.

    Args:
        waiting: Requests that are read, wait or are predicted at the same time, ≥ 1. More get the status 429. Default
            64.
        request_bytes: Largest body of a request, bytes. Default 32 MiB.
        pixels: Pixels of all inputs of a request together. Default 16 million.
        images: Samples of a request. Default 16.
        timeout: Seconds between the first byte of a request and its answer. Default 60.
        batch: Samples that are predicted together, ≥ 1. Default 8.
        wait: Seconds that a sample waits for others of its size at most. Default 0.005.

    Raises:
        ConfigError: If one is not above 0.
    """

    waiting: int = 64
    request_bytes: int = 32 << 20
    pixels: int = 16_000_000
    images: int = 16
    timeout: float = 60.0
    batch: int = 8
    wait: float = 0.005

    def __post_init__(self) -> None:
        for name in ("waiting", "request_bytes", "pixels", "images", "timeout", "batch"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"the limit {name} of the service is {getattr(self, name)}, expected more than 0")
        if not self.wait >= 0:
            raise ConfigError(f"the limit wait of the service is {self.wait} s, expected 0 or more")
