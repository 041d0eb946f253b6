"""Every recipe runs as its first lines say, on less."""

import subprocess
import sys
from pathlib import Path

import pytest

RECIPES = Path(__file__).parent.parent / "recipes"
SMALL = {
    "own_network.py": (["--steps", "12"], "error_auroc"),
    "truth.py": (["--scenes", "8", "--epochs", "2", "--size", "32", "48"], "Spearman"),
}


def test_every_recipe_is_run():
    assert {path.name for path in RECIPES.glob("*.py")} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_recipe(name):
    arguments, expected = SMALL[name]
    done = subprocess.run([sys.executable, RECIPES / name, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert expected in done.stdout
    assert len((RECIPES / name).read_text().splitlines()) <= 120
