"""Two processes with unequal shares score as one does."""

import socket
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist

from sfumato.metrics import ClassScores, DiceScore, PrAuc, SurfaceDistance
from sfumato.predictions import ClassPrediction, entropy


def images(n=5):
    random = torch.Generator().manual_seed(0)
    probs = (2 * torch.randn(n, 3, 8, 8, generator=random)).softmax(1)
    target = torch.randint(0, 3, (n, 8, 8), generator=random)
    return [(ClassPrediction(probs[[i]], entropy(probs[[i]])), target[[i]], target[[i]] >= 0) for i in range(n)]


NAMED = (DiceScore, PrAuc, SurfaceDistance)  # counts only; histograms; counts and sums
SHARES = {"uneven": ([0, 1, 2], [3, 4]), "none for one": ([0, 1, 2, 3, 4], [])}


def share(rank, port, folder):
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    for name, shares in SHARES.items():
        scores = ClassScores(3)
        for i in shares[rank]:
            scores.update(*images()[i])
        # A process without an image takes part all the same, and torchmetrics warns it of that.
        with nullcontext() if shares[rank] else pytest.warns(UserWarning, match="before the ``update``"):
            found = (scores.compute(), scores.intervals(), scores.per_image())
        torch.save(found, folder / f"{name} {rank}")
        named = [kind.of(("a", "b", "c")) for kind in NAMED]
        for i in shares[rank]:
            for score in named:
                score.update(*images()[i])
        with nullcontext() if shares[rank] else pytest.warns(UserWarning, match="before the ``update``"):
            torch.save([(score.compute(), score.intervals()) for score in named], folder / f"named {name} {rank}")
    dist.destroy_process_group()


def test_two_processes_score_as_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(share, (port, tmp_path), nprocs=2)
    alone = ClassScores(3)
    for image in images():
        alone.update(*image)
    for file in tmp_path.glob("named*"):
        for kind, (found, _) in zip(NAMED, torch.load(file), strict=True):
            whole = kind.of(("a", "b", "c"))
            for image in images():
                whole.update(*image)
            torch.testing.assert_close(found, whole.compute(), rtol=1e-12, atol=1e-12, equal_nan=True)
    for file in (each for name in SHARES for each in tmp_path.glob(f"{name}*")):
        found, intervals, rows = torch.load(file)
        torch.testing.assert_close(found, alone.compute(), rtol=1e-12, atol=1e-12, equal_nan=True)
        torch.testing.assert_close(rows, alone.per_image(), rtol=0, atol=0, equal_nan=True)
        for name, ends in alone.intervals().items():
            assert intervals[name] == pytest.approx(ends, abs=1e-12, nan_ok=True)
