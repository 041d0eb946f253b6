"""Every recipe runs with the options that its first lines show, on less data."""

import subprocess
import sys
from pathlib import Path

import pytest

RECIPES = Path(__file__).parent.parent / "recipes"
SMALL = {
    "own_network.py": (["--steps", "12"], "error_auroc"),
    "distill_and_ship.py": (["--scenes", "8", "--epochs", "1", "--size", "32", "64"], "epistemic"),
    "flow.py": (["--scenes", "8", "--epochs", "1", "--size", "32", "48"], "end inside their 90 % ellipse"),
    "pretrained.py": (["--images", "4", "--epochs", "1", "--size", "32", "48"], "before any training"),
    "wrap.py": (["--steps", "12"], "larger novelty than"),
    "selfsup.py": (["--scenes", "8", "--epochs", "1", "--size", "32", "48"], "in the certain half"),
    "stereo.py": (["--scenes", "8", "--epochs", "1", "--size", "32", "48"], "depends most on pixel"),
    "egomotion.py": (["--scenes", "2", "--size", "96", "128"], "weighted: "),
    "abstain.py": (
        ["--scenes", "8", "--epochs", "1", "--size", "32", "48", "--held", "40", "--risk", "0.95"],
        "of the pixels accepted",
    ),
    "annotate.py": (
        ["--scenes", "6", "--pool", "6", "--budget", "8", "--epochs", "1", "--size", "32", "48"],
        "patches chosen by class-stratified",
    ),
    "fused_room.py": (["--frames", "8", "--size", "48", "64", "--voxel", "0.08"], "inside their 90 % interval"),
    "deep_sea.py": (["--size", "3", "--members", "4", "--limit", "60"], "spread of the members"),
    "truth.py": (["--scenes", "8", "--epochs", "2", "--size", "32", "48"], "Spearman"),
}


def test_every_recipe_is_run():
    assert {path.name for path in RECIPES.glob("*.py")} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_recipe(name, tmp_path):
    arguments, expected = SMALL[name]
    command = [sys.executable, RECIPES / name, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert expected in done.stdout
    assert len((RECIPES / name).read_text().splitlines()) <= 120
