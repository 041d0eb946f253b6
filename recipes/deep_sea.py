"""Explore with an ensemble: find the one sequence of actions in 2^N that is worth something.

    python recipes/deep_sea.py --size 10 --members 20

An ensemble of small networks, each with a frozen random prior, plays the deep sea. In each episode it follows one of
its members (Thompson sampling). After that, the spread of the members shows what they have not seen: the epistemic
uncertainty of cells that were visited is small.
"""

import argparse

import numpy as np

from sfumato.exploration import AgentOptions, BootstrappedDQN, DeepSea, QNetwork, episodes

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--size", type=int, default=10)
parser.add_argument("--members", type=int, default=20)
parser.add_argument("--prior", type=float, default=3.0, help="0 for no priors")
parser.add_argument("--limit", type=int, default=2000, help="episodes")
parser.add_argument("--seed", type=int, default=0)
options = parser.parse_args()

size = options.size
env = DeepSea(size)
choices = AgentOptions(members=options.members, prior=options.prior)
agent = BootstrappedDQN(lambda: QNetwork((size, size), 2), choices, options.seed)

missed = 0
for episode in episodes(env, agent, options.seed):
    missed += episode.info["missed"]
    if episode.number % 50 == 0:
        print(f"{episode.number} episodes, the treasure was missed in {missed}", flush=True)
    if missed < 0.9 * episode.number or episode.number == options.limit:
        break
print(f"{'solved' if missed < 0.9 * episode.number else 'not solved'} after {episode.number} episodes; random actions "
      f"need about {2**size}")  # fmt: skip

cells = np.eye(size * size, dtype=np.float32).reshape(size, size, size, size)
reached, never = cells[np.tril_indices(size)], cells[np.triu_indices(size, 1)]  # a diver sinks with each step
for name, where in (("cells that can be reached", reached), ("cells that cannot", never)):
    print(f"spread of the members at {name}: {agent.values(where).std(0).mean():.3f}")
