"""What a service counts, in the text format of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32)


class Counters:
    """Counts of one service.

    Args:
        name: Name of the model.
        version: Its version.
    """

    def __init__(self, name: str, version: str) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "sfumato_requests", "Requests for predictions", ["route", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "sfumato_request_seconds", "From the request to its answer", ["route"], registry=self._registry,
            buckets=SECONDS,
        )  # fmt: skip
        self.batch = Histogram("sfumato_batch_images", "Images in a batch", registry=self._registry, buckets=SIZES)
        self.in_progress = Gauge("sfumato_requests_in_progress", "Requests in progress", registry=self._registry)
        model = Gauge("sfumato_model", "The model that answers", ["name", "version"], registry=self._registry)
        model.labels(name, version).set(1)

    def text(self) -> bytes:
        """All counts."""
        return generate_latest(self._registry)
