"""Exported flow: covariances are those of the run, and the flow network takes any batch and size."""

import numpy as np
import pytest
import torch

from sfumato.serving import Bundle, OnnxBackend, export
from sfumato.tasks import Flow

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_file_has_the_covariances_of_its_run(make_run, tmp_path):
    run = make_run(task="flow", tasks={"flow": Flow()}, inputs=("image", "next"), method="ensemble", members=2,
                   likelihood="laplace-full")  # fmt: skip
    assert max(export(run, tmp_path / "flow.onnx", input="float").values()) < 1e-4
    pair = torch.rand(2, 1, 3, 21, 34, generator=torch.Generator().manual_seed(0))
    ours = run.predict(*pair)
    backend = OnnxBackend(Bundle(tmp_path / "flow.onnx", threads=1))
    found = backend.predict(*pair, samples=None, seed=0, index=0, tile=0)
    assert ours.epistemic_correlation.abs().max() > 0.1
    assert ours.aleatoric_correlation.abs().max() > 0.01
    assert np.allclose(found.covariance, ours.covariance, rtol=1e-3, atol=1e-5)


def test_the_flow_network_is_one_graph_for_all_sizes(make_run, tmp_path):
    arguments = {"widths": (8, 8), "width": 8, "radius": 1}
    run = make_run(task="flow", tasks={"flow": Flow()}, inputs=("image", "next"), likelihood="laplace-full",
                   network="light-flow", network_args=arguments)  # fmt: skip
    assert max(export(run, tmp_path / "flow.pt2", input="float", format="torch-export").values()) < 1e-3
