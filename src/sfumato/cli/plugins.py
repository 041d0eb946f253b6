"""``sfumato plugins``."""

from __future__ import annotations

from sfumato.cli.console import echo, print_table
from sfumato.errors import PluginError


def plugins(group: str = "", all: bool = False) -> None:
    """List the plug-ins of installed packages, and why one of them cannot be used.

    Args:
        group: Only methods, likelihoods, tasks, datasets, objectives, scores, acquisitions, models or calibrators.
        all: Also list the names that are built in.
    """
    from sfumato import registry

    if group and group not in registry.GROUPS:
        raise PluginError(f"there is no group {group!r}: expected one of {', '.join(registry.GROUPS)}")
    found = [each for each in registry.plugins() if group in ("", each.group)]
    shown = [each for each in found if all or each.package != "sfumato"]
    if not shown:
        echo("No plug-in is installed. `sfumato plugins --all` lists the names that are built in.")
        return
    rows = [(each.group, each.name, each.package, each.path, each.error or "ok") for each in shown]
    print_table(f"{len(shown)} plug-ins", ("group", "name", "package", "code", "state"), rows)
