"""What everything that is fitted on held-out images shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from sfumato.errors import NotFiniteError
from sfumato.storage import Stored, fields


@dataclass(frozen=True)
class Fitted(Stored):
    """A frozen dataclass of fitted numbers, all of them finite.

    Args:
        fitted_on: Names and digests of the images it was fitted on. It must not be scored on them.

    Raises:
        NotFiniteError: If one of the numbers is not finite.
    """

    target: ClassVar[str]  # "class" or "value", the predictions it takes
    fitted_on: Sequence[str] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        for name, value in fields(self).items():
            if not _is_finite(value):
                raise NotFiniteError(
                    f"{name} of the {type(self).__name__} is not finite: look at the predictions that it is fitted on"
                )


def _is_finite(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.is_meta or bool(value.isfinite().all())
    return not isinstance(value, float) or math.isfinite(value)
