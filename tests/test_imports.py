"""Imports go one way: a package imports only from those above it in this list, and has no cycles inside."""

import ast
from pathlib import Path

import sfumato

ROOT = Path(sfumato.__file__).parent
ORDER = (
    "errors",
    "targets",
    "contracts",
    "storage",
    "sections",
    "registry",
    "geometry",
    "predictions",
    "calibration",
    "likelihoods",
    "objectives",
    "methods",
    "testing",
    "instances",
    "boxes",
    "metrics",
    "tasks",
    "models",
    "data",
    "runs",
    "training",
    "evaluation",
    "decisions",
    "acquisition",
    "fusion",
    "exploration",
    "distillation",
    "report",
    "serving",
    "service",
    "api",
    "cli",
)
# Packages that do not know each other: what they share goes through contracts and predictions.
APART = {
    ("metrics", "likelihoods"),
    ("metrics", "methods"),
    ("methods", "likelihoods"),
    ("methods", "predictions"),
    ("models", "metrics"),
    ("models", "tasks"),
    ("runs", "data"),
}


def imported(path):
    """Modules of this package that a file imports, also inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "sfumato" and "." in name)


def test_every_package_is_listed():
    found = {p.name.removesuffix(".py") for p in ROOT.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert found - {"__init__", "__main__", "__pycache__"} == set(ORDER)


def test_imports_go_one_way():
    order = {name: position for position, name in enumerate(ORDER)}
    for path in ROOT.rglob("*.py"):
        here = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for name in imported(path):
            there = name.split(".")[1]
            if here.startswith("__") or here == there or there not in order:
                continue
            assert order[there] < order[here], f"{path} imports {there}, which stands below {here}"
            assert (here, there) not in APART, f"{path} imports {there}: {here} must not know it"


def modules(package):
    """The imports between the modules of one package: module → modules."""
    base = ROOT / package
    names = {".".join(p.relative_to(base).with_suffix("").parts): p for p in base.rglob("*.py")}
    graph = {}
    for name, path in names.items():
        if path.name == "__init__.py":
            continue
        parts = [n.removeprefix(f"sfumato.{package}.") for n in imported(path) if n.startswith(f"sfumato.{package}.")]
        graph[name] = {known for known in names for part in parts if part == known or part.startswith(f"{known}.")}
    return graph


def test_no_cycles_inside_packages():
    for package in (p.name for p in ROOT.iterdir() if (p / "__init__.py").exists()):
        graph, done = modules(package), set()

        def visit(module, path, graph=graph, done=done, package=package):
            assert module not in path, f"cycle in {package}: {' → '.join([*path, module])}"
            if module not in done:
                for other in sorted(graph.get(module, ())):
                    visit(other, [*path, module])
                done.add(module)

        for module in sorted(graph):
            visit(module, [])
