"""Makes the benchmark pages of the site from ``benchmarks/``: the prose, and the numbers of ``results/``."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"
SETTINGS = {
    "seeds", "seed", "images", "batch", "epochs", "seconds", "samples", "draws", "rate", "minutes", "train", "val",
    "members", "threads", "cores", "classes", "votes", "scenes", "fitted_on", "pairs", "steps",
}  # fmt: skip
INTRODUCTION = """# Benchmarks

What was measured, with the command, the data, the number of seeds, and what fell short. Each page belongs to a script
of the same name in `benchmarks/`. The table has the leading numbers of its latest result, as the script wrote them into
`benchmarks/results/`; the page says what they mean.

| benchmark | script and result | leading numbers |
|---|---|---|
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    pages = {file.stem: file.read_text(encoding="utf-8") for file in sorted(FOLDER.glob("*.md"))}
    titles = {name: text.splitlines()[0].lstrip("# ") for name, text in pages.items()}
    rows = [f"| [{title}]({name}.md) | `{name}` | {numbers(name)} |" for name, title in titles.items()]
    files.append(File.generated(config, "benchmarks/index.md", content=INTRODUCTION + "\n".join(rows) + "\n"))
    for name, text in pages.items():
        files.append(File.generated(config, f"benchmarks/{name}.md", content=linked(text)))
    return files


def numbers(name: str) -> str:
    """The numbers at the top of a result, at most six."""
    file = FOLDER / "results" / f"{name}.json"
    if not file.exists():
        return ""
    found = json.loads(file.read_text())
    flat = found.items() if isinstance(found, dict) else ()
    plain = [(key, value) for key, value in flat if isinstance(value, int | float) and not isinstance(value, bool)]
    shown = [f"`{key}` {value:.4g}" for key, value in plain if key not in SETTINGS and math.isfinite(value)]
    return ", ".join(shown[:6])


def linked(text: str) -> str:
    """A page with links that hold on the site: to pages of the documentation, and none to files outside of it."""

    def link(match: re.Match[str]) -> str:
        label, target = match[1], match[2]
        if target.startswith(("http", "#")):
            return match[0]
        if target.startswith("../docs/"):
            return f"[{label}](../{target[len('../docs/') :]})"
        path, _, anchor = target.partition("#")
        known = path.endswith(".md") and "/" not in path and (FOLDER / path).exists()
        return f"[{label}]({path}{'#' + anchor if anchor else ''})" if known else label

    return re.sub(r"\[([^\]]*)\]\(([^)\s]+)\)", link, text)
