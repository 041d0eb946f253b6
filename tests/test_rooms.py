"""Imports flow one way: a room knows those above it in this list, never those below."""

import ast
from pathlib import Path

import sfumato

ROOT = Path(sfumato.__file__).parent
ROOMS = (
    "contracts",
    "predictions",
    "calibration",
    "likelihoods",
    "methods",
    "testing",
    "metrics",
    "tasks",
    "models",
    "data",
    "training",
    "report",
    "serving",
    "cli",
)
# Two rooms may not see each other though one stands above: what they share goes through contracts and predictions.
APART = {("metrics", "likelihoods"), ("metrics", "methods"), ("methods", "likelihoods"), ("methods", "predictions"),
         ("models", "metrics"), ("models", "tasks"), ("report", "training"), ("report", "data")}  # fmt: skip


def arrows():
    """(importing room, imported room, file) of every import of this package, those inside functions included."""
    for path in ROOT.rglob("*.py"):
        here = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
                assert node.level == 0, f"{path}: relative import"
            for name in names:
                parts = name.split(".")
                if parts[0] == "sfumato" and len(parts) > 1:
                    yield here, parts[1], path


def test_every_room_is_listed():
    found = {p.name.removesuffix(".py") for p in ROOT.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert found - {"__init__", "__main__", "__pycache__"} == set(ROOMS)


def test_imports_flow_one_way():
    order = {room: position for position, room in enumerate(ROOMS)}
    for here, there, path in arrows():
        if not here.startswith("__") and here != there:
            assert order[there] < order[here], f"{path} imports {there}, which stands below {here}"
            assert (here, there) not in APART, f"{path} imports {there}: {here} must not know it"
