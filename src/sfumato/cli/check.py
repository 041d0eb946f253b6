"""``sfumato check``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.console import echo, print_table
from sfumato.errors import DataError

if TYPE_CHECKING:
    from sfumato.contracts import Task
    from sfumato.data.survey import SplitSurvey


def check(data: str, root: str = "", out: Path | None = None, trust: str = "", quiet: bool = False) -> None:
    """Read a whole data set: print counts, sizes, class shares and every problem, and draw some labels over images.

    Args:
        data: Name of a data set, class path of one, or a folder with sfumato.yaml.
        root: Folder where the data set lies.
        out: The picture, a PNG. Default DATA-check.png in the current folder.
        trust: Class paths outside sfumato that may be imported, with commas; without a value all of them.
        quiet: Show no progress bar.
    """
    from sfumato.data.contact_sheet import save_contact_sheet
    from sfumato.data.survey import survey
    from sfumato.registry import Trust

    found = survey(data, root, Trust.of(trust).naming(data), progress=not quiet)
    rows = [(each.name, each.images, _sizes(each)) for each in found.splits]
    print_table(data, ("split", "images", "sizes (height × width)"), rows)
    for key, task in found.tasks.items():
        whole = [each for each in found.splits if key in each.pixels]
        print_table(key, ("share of pixels", *(each.name for each in whole)), _shares(key, task, whole))
    if samples := [sample for each in found.splits for sample in each.samples]:
        path = out or Path(f"{Path(data).stem or 'data'}-check.png")
        save_contact_sheet(samples, found.tasks, path)
        echo(f"{path} shows labels over images: check that they fit")
    for problem in found.problems:
        echo(f"problem: {' '.join(problem.split())}")
    if found.problems:
        raise DataError(f"problems of {data}: {len(found.problems)}, listed above. Correct them before training")
    echo("no problem found")


def _sizes(split: SplitSurvey) -> str:
    listed = [f"{count} of {height} × {width}" for (height, width), count in split.sizes.most_common(3)]
    more = len(split.sizes) - len(listed)
    return ", ".join(listed) + (f" and {more} other sizes" if more else "")


def _shares(key: str, task: Task, splits: list[SplitSurvey]) -> list[tuple[str, ...]]:
    """For each split the share of each class among valid pixels, and of valid pixels among all."""
    columns = []
    for split in splits:
        counts = split.pixels[key].tolist()
        shares = [_share(count, sum(counts)) for count in counts] if getattr(task, "names", ()) else []
        columns.append([*shares, _share(sum(counts), split.all_pixels[key])])
    names = [*getattr(task, "names", ()), "valid"]
    return [
        (name, *(column[row] if row < len(column) else "–" for column in columns)) for row, name in enumerate(names)
    ]


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.3g} %" if part else "no pixel"
