"""The plan of a run: what a person chose, and what follows from the data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import yaml

from sfumato import registry
from sfumato.errors import ConfigError, MissingFileError, RunError
from sfumato.methods.training import MethodTraining
from sfumato.runs.config import Config, Facts
from sfumato.sections import Json, one_line, plain, read_section, read_yaml
from sfumato.storage import atomic_write

FILE = "plan.yaml"


@dataclass(frozen=True)
class Plan:
    """Configuration and facts: all that a training depends on.

    Args:
        config: What a person chose.
        facts: What follows from the data.
        trust: Which class paths outside this package may be imported. It is not saved.
    """

    config: Config
    facts: Facts
    trust: registry.Trust = registry.NO_TRUST

    @property
    def training(self) -> MethodTraining:
        """How networks are trained for the method of this plan."""
        found = registry.load("methods", self.config.method, self.trust)
        if not isinstance(found, MethodTraining):
            raise ConfigError(f"method is {self.config.method!r}, a {type(found).__name__}: expected a MethodTraining")
        return found

    @property
    def networks(self) -> int:
        """Number of networks that are stored: one where the members live in it, else one for each member."""
        return 1 if self.training.shared else self.config.members

    @property
    def images_used(self) -> int:
        """Number of images that training uses."""
        return min(self.config.limit, self.facts.images) or self.facts.images

    @property
    def factors(self) -> tuple[float, float]:
        """The size that the network sees, divided by the original size: for heights and for widths."""
        (height, width), (original_height, original_width) = self.config.size, self.facts.original_size
        return height / original_height, width / original_width

    @property
    def pixels(self) -> int:
        """Number of pixels of all training images. A penalty of all of them together is divided by it."""
        return self.images_used * self.config.size[0] * self.config.size[1]

    def steps(self, processes: int) -> int:
        """Number of steps of a whole training that so many processes share."""
        return self.config.epochs * max(1, -(-self.images_used // processes) // self.config.batch)

    def select_task(self, name: str) -> Plan:
        """The plan of several tasks as that of one of them."""
        kind = self.config.likelihood_names[self.config.task_names.index(name)]
        config = replace(self.config, task=name, tasks="", likelihood=kind, weighting="", weights=(), log_variance=0.0)
        return replace(self, config=config)

    def without_start(self) -> Plan:
        """The plan without the weights that training started from, which a network that is trained does not need."""
        return replace(self, config=replace(self.config, init_from=""))

    def save(self, path: Path) -> None:
        """Write the plan as YAML with the sections ``config`` and ``facts``."""
        with atomic_write(path) as part:
            part.write_text(yaml.safe_dump(self._sections(), sort_keys=False, allow_unicode=True), encoding="utf-8")

    def difference(self, other: Plan) -> str:
        """The first three entries that differ, as text. Empty if the plans are the same."""
        ours, theirs = ({**s["config"], **s["facts"]} for s in (self._sections(), other._sections()))
        changed = [name for name in ours if ours[name] != theirs[name]]
        return "; ".join(f"{name} was {ours[name]}, now {theirs[name]}" for name in changed[:3])

    def _sections(self) -> dict[str, dict[str, Json]]:
        return {"config": plain(asdict(self.config)), "facts": plain(asdict(self.facts))}

    @classmethod
    def load(cls, path: Path, trust: registry.Trust = registry.NO_TRUST) -> Self:
        """Read a plan.

        Args:
            path: The file ``plan.yaml`` of a run.
            trust: Which class paths outside this package may be imported.

        Raises:
            MissingFileError: If there is no such file.
            RunError: If it is not a plan, or cut off.
        """
        if not path.is_file():
            raise MissingFileError(f"{path} does not exist: {path.parent} is not a run of `sfumato fit`")
        try:
            sections = read_yaml(path)
            if not isinstance(sections, dict) or set(sections) != {"config", "facts"}:
                raise ValueError("expected the two sections config and facts")
            found = cls(read_section(Config, sections["config"]), read_section(Facts, sections["facts"]), trust)
            if not found.config.members or not all(found.facts.original_size):
                raise ValueError("members or original_size is 0")
            return found
        except (TypeError, ValueError) as error:
            raise RunError(f"{path} is not a whole plan ({one_line(error)}): fit the run again") from error
