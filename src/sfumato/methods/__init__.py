"""Which networks are plausible: each method draws outputs, and knows modules and tensors only."""

from sfumato.methods.deterministic import Deterministic
from sfumato.methods.ensemble import DeepEnsemble
from sfumato.methods.mc_dropout import MCDropout

__all__ = ["DeepEnsemble", "Deterministic", "MCDropout"]
