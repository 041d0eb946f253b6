"""``import sfumato`` is cheap, and so is every package that needs no trainer."""

import subprocess
import sys

HEAVY = {"lightning", "matplotlib", "kornia", "torchvision", "jinja2", "sklearn", "cv2"}
LIGHT = (
    "contracts", "targets", "registry", "predictions", "calibration", "likelihoods", "methods", "models", "tasks",
    "data", "data.scenes", "runs", "evaluation", "api",
)  # fmt: skip


def test_nothing_heavy_is_loaded():
    code = "import sys, sfumato, sfumato." + ", sfumato.".join(LIGHT) + f"; print(*({HEAVY!r} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


def test_importing_the_package_alone_loads_not_even_torch():
    code = "import sys, sfumato; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
