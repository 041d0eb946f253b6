"""The service under load: answers lost, latency, throughput against onnxruntime alone, growth of memory, the end.

    python benchmarks/service.py                            # about 6 minutes on an idle machine
    python benchmarks/service.py --requests 1500 --seconds 60 --rounds 2

A U-Net with 8 classes and random weights, which take the time of trained ones, exported to ONNX. `sfumato serve` runs
in another process; the client and the service share the machine.

1. Throughput: rounds in which onnxruntime alone (the fastest of batches of 1, 4 and 8 arrays) and the service (JPEG in,
   PNG out, 16 connections that always wait for an answer) alternate, on images of 360 × 480. On a busy machine the
   share of processor seconds for an image says more than that of the rates.
2. Load: requests come at random times at 70 % of what the service can do, whether earlier ones are answered or not, on
   images of 96 × 128. One in ten is malformed or oversized.
3. The end: SIGTERM while requests come at the same rate.

The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median

import aiohttp
import numpy as np
import onnxruntime
from PIL import Image
from untrained import untrained_run

from sfumato.runs import Run
from sfumato.serving import export

LARGE, SMALL = (360, 480), (96, 128)
SHARE = 0.7  # of the throughput at which requests come
OVERSIZED = b"\0" * (2 << 20)
LIMIT = 1  # MiB of a request
GONE = (aiohttp.ClientConnectorError, ConnectionRefusedError)


def exported(folder: Path) -> Path:
    export(Run.open(untrained_run(folder, LARGE)), folder / "model.onnx")
    return folder / "model.onnx"


def jpeg(size: tuple[int, int], seed: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (size[0] // 15, size[1] // 15, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def form(content: bytes, boundary: str = "b0undary") -> tuple[bytes, str]:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    return head.encode() + content + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


class Service:
    """`sfumato serve` in another process."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-m", "sfumato", "serve", str(path), "--port", "0", "--max-request-mb", str(LIMIT)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().split(" answers at ")[1].split(";")[0]

    def megabytes(self) -> float:
        """Resident memory."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024

    def processor_seconds(self) -> float:
        """Processor time so far."""
        words = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


async def send(session: aiohttp.ClientSession, url: str, body: bytes, kind: str) -> int:
    async with session.post(f"{url}/predict", data=body, headers={"Content-Type": kind}) as answer:
        await answer.read()
        return answer.status


async def saturated(
    service: Service, size: tuple[int, int], seconds: float, connections: int = 16
) -> tuple[float, float]:
    """Images per second with connections that always wait for an answer, and processor seconds of each image."""
    url, before = service.url, service.processor_seconds()
    bodies, count, answered = [form(jpeg(size, seed)) for seed in range(8)], 0, 0
    end = time.perf_counter() + seconds

    async def one(session: aiohttp.ClientSession, number: int) -> None:
        nonlocal count, answered
        while time.perf_counter() < end:
            status = await send(session, url, *bodies[number % len(bodies)])
            assert status == 200, status
            answered += 1
            count += time.perf_counter() < end

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(one(session, number) for number in range(connections)))
    return count / seconds, (service.processor_seconds() - before) / answered


def alone(path: Path, size: tuple[int, int], seconds: float) -> tuple[float, float]:
    """Images per second of onnxruntime alone with its own options and the fastest of several batches.

    And the processor seconds that it takes for an image with the cheapest of them.
    """
    session, found = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]), []
    for batch in (1, 4, 8):
        images, count = np.random.default_rng(0).integers(0, 256, (batch, 3, *size), dtype=np.uint8), 0
        session.run(None, {"image": images})
        start, processor = time.perf_counter(), time.process_time()
        while time.perf_counter() < start + seconds / 3:
            session.run(None, {"image": images})
            count += batch
        found.append((count / (time.perf_counter() - start), (time.process_time() - processor) / count))
    return max(rate for rate, _ in found), min(cost for _, cost in found)


async def load(service: Service, requests: int, seconds: float, rate: float, stop_at: float | None = None) -> dict:
    """Requests at random times at a rate, whether earlier ones are answered or not.

    With ``stop_at`` the service is told to end after these seconds. Then a request whose connection is refused was not
    accepted, and is not counted.
    """
    random.seed(0)
    good = [form(jpeg(SMALL, seed)) for seed in range(8)]
    bad = [form(b"no image"), (good[0][0][:-40], good[0][1]), (b"{", "application/json"), form(OVERSIZED), (b"", "")]
    times: list[float] = []
    counts: Counter[str] = Counter()
    memory: list[float] = []
    start = time.perf_counter()

    async def one(due: float, number: int) -> None:
        wrong = number % 10 == 9
        body = bad[number // 10 % len(bad)] if wrong else good[number % len(good)]
        try:
            status = await send(session, service.url, *body)
        except GONE:
            counts["refused"] += 1
            counts["lost"] += stop_at is None
        except (aiohttp.ClientError, OSError) as error:
            counts[f"lost: {type(error).__name__}"] += 1
            counts["lost"] += 1
        else:
            counts[f"{'bad' if wrong else 'good'} {status}"] += 1
            if not wrong and status == 200:
                times.append(time.perf_counter() - start - due)

    connector = aiohttp.TCPConnector(limit=0, force_close=stop_at is not None)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(120)) as session:
        tasks, due, ended = [], 0.0, False
        for number in range(requests):
            due += random.expovariate(rate)
            if due > seconds:
                break
            await asyncio.sleep(max(0.0, start + due - time.perf_counter()))
            if stop_at is not None and due > stop_at and not ended:
                service.process.send_signal(signal.SIGTERM)
                ended = True
            tasks.append(asyncio.create_task(one(due, number)))
            if number % 200 == 199 and stop_at is None:
                memory.append(service.megabytes())
        await asyncio.gather(*tasks)
    done = sorted(times)
    place = lambda share: round(1000 * done[min(len(done) - 1, int(share * len(done)))], 1) if done else None
    growth = round(memory[-1] - memory[len(memory) // 10], 1) if len(memory) > 1 else None
    return {
        "sent": len(tasks),
        "lost": counts["lost"],
        "p50_ms": place(0.5),
        "p99_ms": place(0.99),
        "growth_mb": growth,
        "answers": dict(sorted(counts.items())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=200.0, help="longest time of the load")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = exported(Path(folder) / "unet")
        service = Service(path)
        try:
            bare, served = [], []
            for _ in range(options.rounds):
                bare.append(alone(path, LARGE, 12))
                served.append(asyncio.run(saturated(service, LARGE, 12)))
            capacity, _ = asyncio.run(saturated(service, SMALL, 8))
            found = asyncio.run(load(service, options.requests, options.seconds, SHARE * capacity))
            end = asyncio.run(load(service, options.requests, 12, SHARE * capacity, stop_at=5.0))
            code = service.process.wait(60)
        finally:
            service.process.kill()
    shares = [ours / theirs for (ours, _), (theirs, _) in zip(served, bare)]
    costs = [median(cost for _, cost in rows) for rows in (bare, served)]
    result = {
        **{key: found[key] for key in ("lost", "p50_ms", "p99_ms")},
        "throughput_share": round(median(shares), 3),
        "growth_mb": found["growth_mb"],
        "processor_share": round(costs[0] / costs[1], 3),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "sent": found["sent"],
        "answers": found["answers"],
        "requests_per_second": round(SHARE * capacity, 1),
        "throughput_shares": [round(each, 3) for each in shares],
        "images_per_second": {
            "onnxruntime": round(median(rate for rate, _ in bare), 2),
            "service": round(median(rate for rate, _ in served), 2),
        },
        "processor_seconds": {"onnxruntime": round(costs[0], 4), "service": round(costs[1], 4)},
        "end": {"exit_code": code, "sent": end["sent"], "lost": end["lost"], "answers": end["answers"]},
    }
    for name, value in result.items():
        print(f"{name}: {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
