"""Exploration: deep sea with bootstrapped DQN and randomized priors, against DQN; a bandit that inspects regions.

    python benchmarks/exploration.py --only ours,without_priors,pixels
    python benchmarks/exploration.py --only dqn                         # needs stable-baselines3
    python benchmarks/exploration.py --only bandit --run RUN            # RUN: see exploration.md

Each part replaces its own entries of the result. Deep sea counts as solved after the first episode at which at least a
tenth of all episodes so far could have reached the treasure until their last step (the rule of bsuite).
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import torch
from gymnasium.wrappers import AddRenderObservation

from sfumato.exploration import AgentOptions, BootstrappedDQN, DeepSea, QNetwork, episodes

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
    parser.add_argument("--run", type=Path, help="folder of a run of classes on generated scenes")
    options = parser.parse_args()
    parts = options.only.split(",")
    jobs = {
        "ours": ours,
        "without_priors": lambda size, seed: ours(size, seed, AgentOptions(prior=0.0), limit=1000),
        "pixels": lambda size, seed: ours(size, seed, AgentOptions(members=10), pixels=True, limit=2000),
        "dqn": dqn,
    }
    for name, job in jobs.items():
        for size in options.sizes if name in parts else ():
            if size <= 10 or name in ("ours", "dqn"):
                found: list[dict[str, object]] = []
                for seed in options.seeds:
                    found.append(job(size, seed) | {"seed": seed})
                    keep(f"{name}_{size}", found)
    print(RESULT.read_text().replace("\n", ""))


if __name__ == "__main__":
    main()
