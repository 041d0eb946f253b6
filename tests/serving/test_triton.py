"""The configuration of a model repository says what the file in it takes and gives."""

import re

import numpy as np
import pytest

from sfumato.cli import main
from sfumato.errors import ConfigError
from sfumato.serving import Bundle, export_triton
from sfumato.serving import triton as triton_module

pytestmark = pytest.mark.filterwarnings("ignore")
ENTRY = re.compile(r'\{ name: "(\w+)" data_type: (\w+) dims: \[ ([-\d, ]+) \]( reshape: \{ shape: \[ \] \})? \}')
TYPES = {"TYPE_UINT8": np.uint8, "TYPE_FP32": np.float32, "TYPE_INT32": np.int32, "TYPE_BOOL": np.bool_}


def tensors(text, kind):
    section = re.search(rf"^{kind} \[\n(.*?)\n\]$", text, re.DOTALL | re.MULTILINE)[1]
    return {
        name: (TYPES[each], [int(side) for side in dims.split(",")]) for name, each, dims, _ in ENTRY.findall(section)
    }


@pytest.fixture
def quick_export(exported, monkeypatch):
    """The export takes seconds, and other tests are about it: here it gives a file that was exported before."""

    def copy(run, path, *choices):
        path.write_bytes(exported.read_bytes())
        return {"probs": 0.0}

    monkeypatch.setattr(triton_module, "export", copy)


def test_the_command_writes_a_repository(make_run, quick_export, tmp_path, capsys):
    run = make_run(method="ensemble", members=2)
    command = ["export", str(run.folder), "--format", "triton", "--out", str(tmp_path / "models"), "--trust", "all"]
    assert main([*command, "--quiet"]) == 0, capsys.readouterr().err
    folder = tmp_path / "models" / run.folder.name
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        "config.pbtxt",
        "1/model.onnx",
    }
    text, bundle = (folder / "config.pbtxt").read_text(), Bundle(folder / "1" / "model.onnx")
    assert f'name: "{run.folder.name}"' in text
    assert "dynamic_batching" in text
    assert int(re.search(r"max_batch_size: (\d+)", text)[1]) > 1
    assert tensors(text, "input") == {"image": (np.uint8, [3, -1, -1])}
    found = bundle(np.zeros((2, 3, 20, 28), np.uint8))
    described = tensors(text, "output")
    assert list(described) == list(found)
    for name, (kind, dims) in described.items():
        assert found[name].dtype == kind
        assert all(side in (-1, real) for side, real in zip(dims, found[name].shape[1:], strict=True))


def test_names_that_triton_does_not_accept_are_refused(make_run, tmp_path):
    with pytest.raises(ConfigError, match="no name of a model for Triton"):
        export_triton(make_run(), tmp_path, "a b")
    assert not list(tmp_path.iterdir())
