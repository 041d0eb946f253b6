"""Uncertainty in dense prediction: how sure, per pixel, and why not."""

__version__ = "0.1.0"
