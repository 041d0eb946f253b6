"""``sfumato serve``."""

from __future__ import annotations

import os
from pathlib import Path

from sfumato.cli.console import complain, echo

KEY = "SFUMATO_API_KEY"


def serve(
    run: Path,
    port: int = 8000,
    host: str = "127.0.0.1",
    batch: int = 8,
    wait_ms: float = 5.0,
    waiting: int = 64,
    max_request_mb: float = 32.0,
    max_megapixels: float = 16.0,
    timeout: float = 60.0,
    samples: int | None = None,
    device: str = "auto",
    trust: str = "",
) -> None:
    """Serve a run over HTTP: images or tensors in; label, uncertainties and decisions out; and a page to try it.

    Args:
        run: Folder of a run, or an .onnx file of `sfumato export`.
        port: Port to listen on; 0 for any free one. Default 8000.
        host: Address to listen on; 0.0.0.0 for all of this machine. Default 127.0.0.1, this machine only.
        batch: Images of the same padded size that an exported file predicts together. A run predicts one at a time.
            Default 8.
        wait_ms: How long an image waits for others, milliseconds. Default 5.
        waiting: Requests in progress at the same time; more get the status 429. Default 64.
        max_request_mb: The largest request, MiB. Default 32.
        max_megapixels: The largest number of pixels of a request, million. Default 16.
        timeout: Seconds until a request is given up. Default 60.
        samples: Number of draws of a stochastic method. Default: as in the plan.
        device: auto, cpu, cuda or mps. Default auto. An .onnx file runs on the CPU.
        trust: Class paths outside sfumato that may be imported, with commas; without a value all of them.
    """
    from sfumato import service

    limits = service.Limits(
        waiting, round(max_request_mb * 2**20), round(max_megapixels * 1e6), timeout=timeout, batch=batch,
        wait=wait_ms / 1000,
    )  # fmt: skip
    listener = service.listening(host, port)
    try:
        model = service.Model(run, limits, samples, device, trust)
        model.warm_up()
        for name in (name for each in model.decisions.values() for name in each.outdated):
            complain(
                f"warning: {name} is left out: the run was trained or calibrated since. Run `sfumato decide` again"
            )
        key = os.environ.get(KEY, "")
        if not key and host not in ("127.0.0.1", "::1", "localhost"):
            complain(f"warning: anybody who reaches {host} can use the service: set {KEY} to ask for a key")
        text = (
            f"{model.name} ({model.version[:8]}) answers at http://{host}:{listener.getsockname()[1]}; Ctrl-C ends it"
        )
        service.run(service.server_of(service.application(model, key), timeout, lambda: echo(text)), listener)
    finally:
        listener.close()
    echo("all requests are answered")
