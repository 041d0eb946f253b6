"""Options of a command, read from the signature and the docstring of its function. Nothing here needs torch."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sfumato.cli.values import CONVERTERS, MISSING, NUMBER, convert, is_flag, is_numbers
from sfumato.errors import ConfigError, UntrustedCodeError, similar

Command = Callable[..., None]
CLASS_PATHS = re.compile(r"[A-Za-z_]\w*(\.\w+)*(,[A-Za-z_]\w*(\.\w+)*)*")

NAMES_CODE = {"data", "network", "objective", "method", "likelihood", "task", "tasks", "scores", "ood", "unlabeled"}


@dataclass(frozen=True)
class Option:
    """One option or positional argument of a command.

    Args:
        name: Name of the parameter.
        kind: Its annotation, one of :data:`sfumato.cli.values.CONVERTERS`.
        default: Its default; ``MISSING`` for an argument that must be given.
        help: What it means.
    """

    name: str
    kind: str
    default: object
    help: str

    @property
    def flag(self) -> str:
        """How it is written on the command line."""
        return "--" + self.name.rstrip("_").replace("_", "-")  # a parameter class_ is the option --class


COMMON = (
    Option("config", "str", "", "YAML file with these options; for `fit` also the plan.yaml of a run."),
    Option("print_config", "bool", False, "Print all options as YAML and stop."),
)
DEBUG = Option("debug", "bool", False, "Show the traceback of an error.")
HELP = Option("help", "bool", False, "Show this text and stop.")


def summary(command: Command) -> str:
    """The first line of the docstring of a command."""
    return inspect.cleandoc(command.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


def options_of(command: Command) -> list[Option]:
    """The options of a command. ``**config`` stands for the entries of :class:`sfumato.runs.Config`."""
    found: list[Option] = []
    texts = descriptions(command.__doc__ or "")
    for parameter in inspect.signature(command).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            found += _config_options()
        else:
            default = MISSING if parameter.default is inspect.Parameter.empty else parameter.default
            found.append(Option(parameter.name, str(parameter.annotation), default, texts.get(parameter.name, "")))
    return found


def _config_options() -> list[Option]:
    from dataclasses import fields

    from sfumato.runs import Config  # here, because it imports torch

    texts, defaults = descriptions(Config.__doc__ or ""), Config()
    return [Option(f.name, str(f.type), getattr(defaults, f.name), texts.get(f.name, "")) for f in fields(Config)]


def descriptions(docstring: str) -> dict[str, str]:
    r"""The text of each parameter in the ``Args`` section of a docstring.

    >>> descriptions('Do it.\n\nArgs:\n    a: One\n        line.\n    b: Two.\n')
    {'a': 'One line.', 'b': 'Two.'}
    """
    section = re.search(r"^Args:\n((?:[ ]{4}.*\n?|\n)*)", inspect.cleandoc(docstring) + "\n", re.MULTILINE)
    entries = re.split(r"^ {4}(?=\w+: )", section[1] if section else "", flags=re.MULTILINE)[1:]
    pairs = (entry.split(": ", 1) for entry in entries)
    return {name: " ".join(text.split()).replace("``", "") for name, text in pairs}


def read(name: str, command: Command, words: Sequence[str]) -> dict[str, object] | None:
    """The arguments that ``command`` is called with. None after ``--help`` or ``--print-config``.

    Raises:
        ConfigError: If a word is no option, or a value has the wrong type or is out of range.
    """
    options = {option.name: option for option in options_of(command)}
    if "-h" in words or "--help" in words:
        print(help_text(name, command, list(options.values())), end="")
        return None
    given, others = split(name, words, options)
    from_file = _from_file(given.pop("config", ""), name, options)
    printing = given.pop("print_config", "false") != "false"
    given |= _positional(name, others, list(options.values()))
    settings = {key: from_file.get(key, option.default) for key, option in options.items()}
    settings |= {key: convert(key, options[key].kind, value) for key, value in given.items()}
    _check_code({key: value for key, value in from_file.items() if key not in given}, str(settings.get("trust", "")))
    if printing:
        _print_yaml({options[key].flag[2:].replace("-", "_"): value for key, value in settings.items()})
        return None
    if absent := [key for key, value in settings.items() if value is MISSING]:
        raise ConfigError(f"{absent[0].upper()} is missing: see `sfumato {name} --help`")
    return settings


def help_text(name: str, command: Command, options: Sequence[Option]) -> str:
    """What ``sfumato NAME --help`` prints."""
    made = argparse.ArgumentParser(f"sfumato {name}", description=_escaped(summary(command)), add_help=False)
    for option in (*options, *COMMON, DEBUG, HELP):
        if option.default is MISSING:
            several = "+" if option.kind.startswith("list") else None
            made.add_argument(option.name, nargs=several, help=_escaped(option.help))
        elif is_flag(option.kind):
            made.add_argument(option.flag, action="store_true", help=_escaped(option.help))
        else:
            metavar = CONVERTERS[option.kind].metavar
            made.add_argument(option.flag, metavar=metavar, help=_escaped(option.help))
    return made.format_help()


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def split(name: str, words: Sequence[str], options: Mapping[str, Option]) -> tuple[dict[str, object], list[str]]:
    """The value of each option that is given, as text, and all other words.

    ``--num_nodes`` is the same as ``--num-nodes``, a flag without a value is true, ``--trust`` without one is ``all``,
    and ``--size 584 565`` is ``--size=584,565``. All words after ``--`` are no options.

    Raises:
        ConfigError: If there is no such option, or it has no value.
    """
    found: dict[str, object] = {}
    others: list[str] = []
    rest, by_flag = list(words), {option.flag: option for option in (*options.values(), *COMMON)}
    while rest:
        word = rest.pop(0)
        if word == "--":
            return found, others + rest
        if not word.startswith("--"):
            others.append(word)
            continue
        flag, equals, value = word.partition("=")
        option = by_flag.get(flag.replace("_", "-"))
        if option is None:
            meant = similar(flag, by_flag)
            raise ConfigError(f"{flag} is no option of `sfumato {name}`{meant}: see `sfumato {name} --help`")
        if not equals:
            taken = _value(option, rest)
            del rest[: len(taken)]
            value = ",".join(taken) if taken else _without_value(option)
        found[option.name] = value
    return found, others


def _without_value(option: Option) -> str:
    if is_flag(option.kind):
        return "true"
    if option.name == "trust":
        return "all"
    raise ConfigError(f"{option.flag} has no value: expected {CONVERTERS[option.kind].expected}")


def _positional(name: str, words: list[str], options: Sequence[Option]) -> dict[str, object]:
    """The words that belong to no option, by the arguments they stand for. A list takes all that are left."""
    found: dict[str, object] = {}
    for option in (option for option in options if option.default is MISSING):
        if words:
            several = option.kind.startswith("list")
            found[option.name], words = (words, []) if several else (words[0], words[1:])
    if words:
        raise ConfigError(f"{words[0]!r} is one word too many: see `sfumato {name} --help`")
    return found


def _value(option: Option, rest: Sequence[str]) -> Sequence[str]:
    """The next words that are the value of an option."""
    first = rest[0] if rest else ""
    if is_flag(option.kind):
        return [first] if first.lower() in ("true", "false") else []
    if option.name == "trust":
        return [first] if CLASS_PATHS.fullmatch(first) and not Path(first).exists() else []
    if is_numbers(option.kind) and NUMBER.fullmatch(first):
        count = next((i for i, word in enumerate(rest) if not NUMBER.fullmatch(word)), len(rest))
        return rest[:count]
    return rest[:1] if not first.startswith("--") else []


def _from_file(given: object, name: str, options: Mapping[str, Option]) -> dict[str, object]:
    """The options in a YAML file: a flat one, or the section ``config`` of a plan."""
    path = str(given)
    if not path:
        return {}
    from sfumato.sections import read_yaml

    if not Path(path).is_file():
        raise ConfigError(f"--config {path} is not a file: expected a YAML file with the options of `sfumato {name}`")
    try:
        found = read_yaml(Path(path))
    except ValueError as error:
        raise ConfigError(f"--config {path} cannot be read: {error}") from error
    if isinstance(found, dict) and set(found) == {"config", "facts"}:
        found = found["config"]
    if not isinstance(found, dict):
        raise ConfigError(f"--config {path} holds a {type(found).__name__}, expected lines such as `epochs: 10`")
    by_flag = {option.flag: option for option in options.values()}
    entries = {f"--{key}".replace("_", "-"): value for key, value in found.items()}
    if entries.pop("--trust", None):
        raise UntrustedCodeError(f"--config {path} says whom to trust, which only the command line can: pass --trust")
    if unknown := sorted(entries.keys() - by_flag.keys()):
        raise ConfigError(f"--config {path} has {unknown[0][2:]!r}, which is no option of `sfumato {name}`")
    chosen = [(by_flag[flag], value) for flag, value in entries.items() if value is not None]
    return {option.name: convert(option.name, option.kind, value) for option, value in chosen}


def _check_code(from_file: Mapping[str, object], trust: str) -> None:
    """Refuse code outside sfumato that a file of options names: somebody else may have written the file.

    Raises:
        UntrustedCodeError: If it is not trusted.
    """
    from sfumato.registry import Trust

    for name in NAMES_CODE & from_file.keys():
        for path in str(from_file[name]).split(","):
            code = "." in path and not path.startswith("sfumato.") and CLASS_PATHS.fullmatch(path)
            if code and not Trust.of(trust).allows(path) and not Path(path).exists():
                raise UntrustedCodeError(
                    f"--config names {path} as {name}, code outside sfumato: pass --trust {path} if you know who wrote "
                    "it, or name it on the command line"
                )


def _print_yaml(settings: Mapping[str, object]) -> None:
    import yaml

    text = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
    lists = {key: list(value) if isinstance(value, tuple) else value for key, value in text.items()}
    known = {key: value for key, value in lists.items() if value is not MISSING}
    print(yaml.safe_dump(known, sort_keys=False, allow_unicode=True), end="")
