"""Exploration by uncertainty: agents that follow one member of an ensemble, and bandits that choose where to look."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sfumato.exploration.agent import AgentOptions, BootstrappedDQN
    from sfumato.exploration.bandit import LinearBandit, RegionBandit, inspection_gains, region_features
    from sfumato.exploration.deep_sea import DeepSea
    from sfumato.exploration.networks import QNetwork
    from sfumato.exploration.play import Agent, Episode, episodes

_MODULES = {
    "Agent": "play",
    "AgentOptions": "agent",
    "BootstrappedDQN": "agent",
    "DeepSea": "deep_sea",
    "Episode": "play",
    "LinearBandit": "bandit",
    "QNetwork": "networks",
    "RegionBandit": "bandit",
    "episodes": "play",
    "inspection_gains": "bandit",
    "region_features": "bandit",
}

__all__ = [
    "Agent",
    "AgentOptions",
    "BootstrappedDQN",
    "DeepSea",
    "Episode",
    "LinearBandit",
    "QNetwork",
    "RegionBandit",
    "episodes",
    "inspection_gains",
    "region_features",
]


def __getattr__(name: str) -> object:
    # On first use, so that bandits need no Gymnasium.
    if name not in _MODULES:
        raise AttributeError(f"module 'sfumato.exploration' has no attribute {name!r}")
    return getattr(import_module(f"sfumato.exploration.{_MODULES[name]}"), name)
