"""Exploration: deep sea with bootstrapped DQN and randomized priors, against DQN; a bandit that inspects regions.

    python benchmarks/exploration.py --only ours,without_priors,pixels
    python benchmarks/exploration.py --only dqn                         # needs stable-baselines3
    python benchmarks/exploration.py --only bandit                      # trains a small network first

Each part replaces its own entries of the result. Deep sea counts as solved after the first episode at which at least a
tenth of all episodes so far could have reached the treasure until their last step (the rule of bsuite).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium
import torch
from gymnasium.wrappers import AddRenderObservation
from torch import Tensor

import sfumato
from sfumato.data import Scenes
from sfumato.decisions import Costs, Look, Looking
from sfumato.exploration import (
    AgentOptions,
    BootstrappedDQN,
    DeepSea,
    QNetwork,
    RegionBandit,
    episodes,
    inspection_gains,
)
from sfumato.predictions import predict

RESULT = Path(__file__).parent / "results" / "exploration.json"
LIMIT = 10_000  # episodes
REFERENCE = AgentOptions()


def environment(size: int, *, pixels: bool = False) -> Any:
    """The deep sea, with maps or pictures as observations."""
    return AddRenderObservation(DeepSea(size, render_mode="rgb_array")) if pixels else DeepSea(size)


def until_solved(missed: Iterator[bool], limit: int) -> dict[str, object]:
    """Episodes until solved, and until the treasure was found first, given for each episode whether it was missed."""
    start, bad, first = time.perf_counter(), 0, None
    number = 0
    for number, each in enumerate(missed, 1):
        bad += each
        if not each and first is None:
            first = number
        if bad < 0.9 * number or number == limit:
            break
    solved = number if bad < 0.9 * number else None
    seconds = round(time.perf_counter() - start, 1)
    return {"solved": solved, "first_treasure": first, "episodes": number, "seconds": seconds}


def ours(
    size: int, seed: int, options: AgentOptions = REFERENCE, *, pixels: bool = False, limit: int = LIMIT
) -> dict[str, object]:
    """Bootstrapped DQN of this package."""
    env = environment(size, pixels=pixels)
    shape = env.observation_space.shape
    agent = BootstrappedDQN(lambda: QNetwork(shape, 2), options, seed)
    return until_solved((episode.info["missed"] for episode in episodes(env, agent, seed)), limit)


class Missed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Remembers for each episode whether the treasure was missed."""

    def __init__(self, env: DeepSea, done: Callable[[], object]) -> None:
        super().__init__(env)
        self.missed: list[bool] = []
        self.done = done

    def step(self, action: Any) -> Any:
        """A step."""
        found = self.env.step(action)
        if found[2]:
            self.missed.append(found[4]["missed"])
            self.done()
        return found


def dqn(size: int, seed: int, limit: int = LIMIT) -> dict[str, object]:
    """DQN of stable-baselines3, with the network, the learning rate, the batch and the memory of ours."""
    from stable_baselines3 import DQN

    env = Missed(DeepSea(size), lambda: None)
    start = time.perf_counter()
    agent = DQN(
        "MlpPolicy", env, learning_rate=1e-3, buffer_size=10_000, batch_size=128, gamma=0.99, learning_starts=128,
        policy_kwargs={"net_arch": [50, 50]}, seed=seed, device="cpu",
    )  # fmt: skip
    agent.learn(limit * size)
    found = until_solved(iter(env.missed), limit)
    return found | {"seconds": round(time.perf_counter() - start, 1), "episodes": len(env.missed)}


def looks(scenes: int, size: tuple[int, int]) -> tuple[list[Look], list[Tensor]]:
    """Predictions of new scenes by a small network with dropout, and the gains of their regions (16,)."""
    with TemporaryDirectory() as folder:
        run = sfumato.fit(
            (Scenes(192, size=size, seed=0), None), task="classes", method="mc-dropout", likelihood="categorical",
            samples=10, epochs=8, network_args={"dropout": 0.2}, out=Path(folder) / "run", progress=False,
        )  # fmt: skip
    classes = len(run.single_task.names)
    wrong = Costs(tuple(map(str, range(classes))), 1 - torch.eye(classes))  # the cost of a wrong label is 1
    found, gains, others = [], [], Scenes(scenes, size=size, seed=1)
    for index in range(scenes):
        sample = others[index]
        generator = torch.Generator().manual_seed(index)
        look = predict(
            run.method(10), *run.inputs_of(sample), likelihood=Looking(run.likelihood, wrong), generator=generator
        )
        found.append(look)
        label = look.prediction.label[0]
        gains.append(inspection_gains(label, sample["classes"], sample["classes_valid"], classes, 4))
    return found, gains


def bandit(scenes: int = 400, size: tuple[int, int] = (48, 64), seeds: int = 5) -> dict[str, object]:
    """The mean gain of each policy over scenes that are seen once, in an order drawn for each seed."""
    found, gains = looks(scenes, size)
    best = torch.stack([each.max() for each in gains])
    result: dict[str, object] = {"scenes": scenes, "seeds": seeds, "best_gain": best.mean().item()}
    for policy in ("evpi", "thompson", "ucb", "random"):
        means, late = [], []
        for seed in range(seeds):
            chooser, gained = RegionBandit(policy, seed=seed), []
            order = torch.randperm(scenes, generator=torch.Generator().manual_seed(seed)).tolist()
            for index in order:
                region = chooser.choose(found[index])
                gained.append(gains[index][region].item())
                chooser.learn(found[index], region, gained[-1])
            means.append(statistics.mean(gained))
            late.append(statistics.mean(gained[scenes // 2 :]))
        spread = statistics.stdev(means)
        result[policy] = {"gain": statistics.mean(means), "std": spread, "second_half": statistics.mean(late)}
    return result


def keep(name: str, entry: object) -> None:
    """Replace one entry of the result."""
    found = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    found[name] = entry
    found["machine"] = {"processor": platform.machine(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(name, json.dumps(entry), flush=True)


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="ours,without_priors,pixels,dqn,bandit")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 20])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--limit", type=int, default=LIMIT, help="episodes of DQN")
    options = parser.parse_args()
    parts = options.only.split(",")
    jobs = {
        "ours": ours,
        "without_priors": lambda size, seed: ours(size, seed, AgentOptions(prior=0.0), limit=1000),
        "pixels": lambda size, seed: ours(size, seed, AgentOptions(members=10), pixels=True, limit=2000),
        "dqn": lambda size, seed: dqn(size, seed, options.limit),
    }
    for name, job in jobs.items():
        for size in options.sizes if name in parts else ():
            if size <= 10 or name in ("ours", "dqn"):
                found: list[dict[str, object]] = []
                for seed in options.seeds:
                    found.append(job(size, seed) | {"seed": seed})
                    keep(f"{name}_{size}", found)
    if "bandit" in parts:
        keep("bandit", bandit())
    print(RESULT.read_text().replace("\n", ""))


if __name__ == "__main__":
    main()
