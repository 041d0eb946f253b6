"""The service answers tritonclient, Triton's own parser reads the exported configuration, Ray Data predicts files."""

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image

from interop import networks
from sfumato.cli import main
from sfumato.runs import Run
from sfumato.service import Model, application, listening, server_of
from sfumato.serving import BatchPredictor, Bundle, export, export_triton, open_predictor, predict_files, predict_on_ray

pytestmark = pytest.mark.filterwarnings("ignore")
SIZE = (32, 48)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "scenes"
    choices = [
        "--method",
        "ensemble",
        "--members",
        "2",
        "--size",
        "32x48",
        "--limit",
        "4",
        "--batch",
        "2",
        "--workers",
        "0",
    ]
    widths = ["--epochs", "1", "--device", "cpu", "--quiet", "--network-args", '{"widths": [4, 8]}']
    assert main(["fit", "--data", "scenes", *choices, *widths, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def exported(run):
    export(Run.open(run), run / "model.onnx")
    return run / "model.onnx"


@pytest.fixture(scope="module")
def address(exported):
    model = Model(exported)
    model.warm_up()
    listener, server = listening("127.0.0.1", 0), server_of(application(model), 30)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()


def images(count):
    return np.random.default_rng(0).integers(0, 256, (count, 3, *SIZE), dtype=np.uint8)


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_works_unchanged(address, exported, binary):
    client = pytest.importorskip("tritonclient.http")
    with client.InferenceServerClient(address) as server:
        assert server.is_server_live()
        assert server.is_server_ready()
        assert server.is_model_ready("model")
        about = server.get_model_metadata("model")
        assert [each["name"] for each in about["inputs"]] == ["image"]
        given = client.InferInput("image", [3, 3, *SIZE], "UINT8")
        given.set_data_from_numpy(images(3), binary_data=binary)
        wanted = [client.InferRequestedOutput(name, binary_data=binary) for name in ("probs", "label", "epistemic")]
        found, expected = server.infer("model", [given], outputs=wanted, request_id="1"), Bundle(exported)(images(3))
        for name in ("probs", "label", "epistemic"):
            assert np.allclose(found.as_numpy(name), expected[name], atol=1e-6)
        assert found.get_response()["id"] == "1"
        everything = server.infer("model", [given])
        assert everything.as_numpy("total").shape == (3, *SIZE)
        assert everything.as_numpy("probs") is None
        wrong = client.InferInput("image", [1, 3, 4], "UINT8")
        wrong.set_data_from_numpy(np.zeros((1, 3, 4), np.uint8))
        with pytest.raises(Exception, match=r"expected \[B, 3, H, W\]"):
            server.infer("model", [wrong])


def test_no_request_that_the_openapi_document_allows_makes_the_service_fail(address):
    pytest.importorskip("schemathesis")
    # A schema cannot say that a text is an image, so requests that fit it may be refused.
    command = ["run", f"http://{address}/openapi.json", "--exclude-checks", "positive_data_acceptance"]
    options = ["--max-examples", "10", "--request-timeout", "20", "--seed", "1", "--no-color"]
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", *command, *options], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "generated" in done.stdout


def test_triton_reads_the_configuration(run, tmp_path):
    pytest.importorskip("tritonclient.grpc")
    from tritonclient.grpc import model_config_pb2

    export_triton(Run.open(run), tmp_path, "scenes")
    found = text_format.Parse((tmp_path / "scenes" / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    assert (found.name, found.backend) == ("scenes", "onnxruntime")
    assert [list(each.dims) for each in found.input] == [[3, -1, -1]]
    assert {each.name for each in found.output} == set(Bundle(tmp_path / "scenes" / "1" / "model.onnx").output_shapes)
    assert found.HasField("dynamic_batching")


@pytest.fixture
def ray():
    found = pytest.importorskip("ray")
    # Workers do not import this folder: they get the text of the function.
    needed = "from importlib.util import find_spec\nfrom pathlib import Path\nimport torch\n"
    text = f"{needed}{inspect.getsource(networks.declare_operators)}declare_operators()"
    hook = {"worker_process_setup_hook": lambda: exec(text, {})}
    found.init(num_cpus=2, log_to_driver=False, logging_level="error", include_dashboard=False, runtime_env=hook)
    yield found
    found.shutdown()


def workers_of(parent):
    """Processes of Ray's workers that descend from a process."""

    def ancestors(pid):
        while pid > 1:
            yield pid
            try:
                pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                return

    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes()
        except OSError:
            continue
        pid = int(path.parent.name)
        if b"MapWorker" in text and parent in ancestors(pid):
            yield pid


def test_nothing_is_lost_and_nothing_is_written_twice_if_a_worker_is_killed(run, ray, tmp_path):
    (tmp_path / "in").mkdir()
    for n, image in enumerate(images(40)):
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / "in" / f"{n:02d}.png")
    killed = []

    def kill_one():
        while not list(tmp_path.glob("out/*.json")):
            time.sleep(0.02)
        worker = next(workers_of(os.getpid()))
        os.kill(worker, signal.SIGKILL)
        killed.append(worker)

    killer = threading.Thread(target=kill_one)
    killer.start()
    written, kept = predict_on_ray(run, [str(tmp_path / "in")], str(tmp_path / "out"), workers=2)
    killer.join()
    assert killed
    assert written + kept == 40
    predict_files(open_predictor(run), [str(tmp_path / "in")], tmp_path / "plain", progress=False)
    plain = {path.name: path.read_bytes() for path in (tmp_path / "plain").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == plain
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert predict_on_ray(run, [str(tmp_path / "in")], str(tmp_path / "out"), workers=1) == (0, 40)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_ray_data_takes_the_callable_as_it_is(exported, ray):
    import ray.data

    given = [{"image": image.transpose(1, 2, 0), "number": n} for n, image in enumerate(images(6))]
    done = ray.data.from_items(given).map_batches(
        BatchPredictor, fn_constructor_args=(str(exported),), batch_size=4, compute=ray.data.ActorPoolStrategy(size=1)
    )
    expected = Bundle(exported)(images(6))["total"]
    rows = done.take_all()
    assert sorted(row["number"] for row in rows) == list(range(6))
    for row in rows:
        assert np.allclose(row["total"], expected[row["number"]], atol=1e-5)


def test_damaged_files_are_named_at_the_end(run, ray, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (48, 32)).save(tmp_path / "in" / "good.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    command = ["predict", str(run), str(tmp_path / "in"), "--engine", "ray", "--out", f"file://{tmp_path}/out"]
    assert main([*command, "--device", "cpu"]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("sfumato: 1 of 2 samples cannot be predicted, such as bad:")
    assert (tmp_path / "out" / "good_total.png").is_file()
