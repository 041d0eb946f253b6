"""What data sets that are generated share."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from sfumato.errors import ConfigError


def check_place(name: str, root: str | Path, split: str, splits: Collection[str]) -> None:
    """Check where a data set that needs no files is said to lie, and its split.

    Raises:
        ConfigError: If a root is given, or the split is unknown.
    """
    if str(root) not in ("", "."):
        raise ConfigError(f"root is {root}, but {name} are generated: leave it out, or name other data")
    if split not in splits:
        raise ConfigError(f"split of {name} is {split!r}, expected one of {', '.join(splits)}")
