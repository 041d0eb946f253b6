"""The service answers what the run predicts, refuses everything else with one line, and ends in order."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato import service
from sfumato.cli import main
from sfumato.decisions import Abstention, OutlierFlag
from sfumato.errors import ConfigError, DataError, MissingDependencyError, MissingFileError, ResourceError
from sfumato.runs import Run, prediction_state
from sfumato.service import Limits, Model
from sfumato.serving import open_predictor
from sfumato.serving.batches import Batches

pytestmark = pytest.mark.filterwarnings("ignore")
LIMITS = Limits(waiting=8, request_bytes=200_000, pixels=40_000, images=4, timeout=20.0, batch=4)
V2 = "/v2/models/model"


def png(size=(64, 48), seed=0, kind="PNG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return pixels, file.getvalue()


def form(*parts, boundary="x1x2"):
    lines = []
    for name, content in parts:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="a.png"\r\n\r\n'
        lines += [head.encode(), content, b"\r\n"]
    return b"".join([*lines, f"--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}"


def call(url, body=None, kind="", headers=None, method=None):
    """Status, headers and body of an answer."""
    request = urllib.request.Request(url, body, {"Content-Type": kind, **(headers or {})}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.headers, refusal.read()


def refused(answer, status, text):
    found = json.loads(answer[2])
    assert answer[0] == status, found
    assert set(found) == {"error"}
    assert "\n" not in found["error"]
    assert text in found["error"]


def picture(entry):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(entry["png"]))))


@pytest.fixture(scope="module")
def model(exported):
    found = Model(exported, LIMITS, trust="all")
    found.warm_up()
    return found


@pytest.fixture(scope="module")
def address(model, serve):
    with serve(model) as url:
        yield url


@pytest.fixture(scope="module")
def expected(exported):
    batches = Batches(open_predictor(exported, trust="all"))
    return lambda pixels: batches([batches.ready(torch.from_numpy(pixels).permute(2, 0, 1)[None])])[0]


def test_images_of_a_form_get_maps_and_a_summary(address, expected, model):
    pixels, content = png()
    status, _, body = call(f"{address}/predict?probabilities=1", *form(("image", content), ("image", png((33, 70))[1])))
    assert status == 200, body
    found = json.loads(body)
    assert (found["model"], found["version"]) == ("model", model.version)
    first, second = found["predictions"]
    assert (first["height"], first["width"], second["height"], second["width"]) == (48, 64, 70, 33)
    answer, wanted = first["tasks"]["classes"], expected(pixels).prediction
    assert (picture(answer["maps"]["label"]) == wanted.label[0].numpy()).all()
    for name in ("total", "aleatoric", "epistemic"):
        entry = answer["maps"][name]
        values = entry["offset"] + entry["scale"] * picture(entry).astype(float)
        assert np.abs(values - getattr(wanted, name)[0].numpy()).max() <= entry["scale"]
        assert entry["unit"] == "nats"
    probabilities = picture(answer["maps"]["probabilities"]).reshape(answer["maps"]["probabilities"]["shape"]) / 65535
    assert np.abs(probabilities - wanted.probs[0].numpy()).max() < 1e-4
    shares = answer["summary"]["shares"]
    assert sum(shares.values()) == pytest.approx(1)
    assert next(iter(shares.values())) == pytest.approx(float((wanted.label == 0).double().mean()))
    assert answer["summary"]["score"] == pytest.approx(float(wanted.epistemic.double().mean()))
    assert answer["summary"]["set_size"] == pytest.approx(float(expected(pixels).sets["classes"].size.double().mean()))
    assert answer["summary"]["decision"] is None


def test_base64_gives_the_same_bytes_as_a_form_alone_and_in_a_batch(address):
    _, content = png()
    alone = call(f"{address}/predict", *form(("image", content)))[2]
    text = json.dumps({"inputs": [{"image": base64.b64encode(content).decode()}]}).encode()
    assert call(f"{address}/predict", text, "application/json")[2] == alone
    assert together(address, [content, *(png(seed=n)[1] for n in range(3))])[0][2] == alone


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_other_formats_are_read(address, kind):
    status, _, body = call(f"{address}/predict", *form(("image", png(kind=kind)[1])))
    assert status == 200
    assert json.loads(body)["predictions"][0]["width"] == 64


def infer(pixels, binary, **outputs):
    batch = pixels.transpose(2, 0, 1)[None]
    entry = {"name": "image", "shape": list(batch.shape), "datatype": "UINT8"}
    entry |= {"parameters": {"binary_data_size": batch.size}} if binary else {"data": batch.flatten().tolist()}
    head = json.dumps({"id": "7", "inputs": [entry], **outputs}).encode()
    return head + batch.tobytes() * binary, {"Inference-Header-Content-Length": str(len(head))} if binary else {}


@pytest.mark.parametrize("binary", [True, False])
def test_arrays_by_the_protocol_v2(address, expected, binary):
    pixels, _ = png((24, 16))
    names = [{"name": name, "parameters": {"binary_data": binary}} for name in ("probs", "label")]
    body, headers = infer(pixels, binary, outputs=names)
    status, about, answer = call(f"{address}{V2}/infer", body, "application/octet-stream", headers)
    assert status == 200, answer
    length = int(about.get("Inference-Header-Content-Length", len(answer)))
    found, rest, arrays = json.loads(answer[:length]), answer[length:], {}
    for output in found["outputs"]:
        kind = {"FP32": "<f4", "UINT8": "u1"}[output["datatype"]]
        if binary:
            size = output["parameters"]["binary_data_size"]
            values, rest = np.frombuffer(rest[:size], kind), rest[size:]
        else:
            values = np.array(output["data"], kind)
        arrays[output["name"]] = values.reshape(output["shape"])
    assert not rest
    assert found["id"] == "7"
    assert (arrays["probs"] == expected(pixels).prediction.probs.numpy()).all()
    assert (arrays["label"][0] == expected(pixels).prediction.label[0].numpy()).all()


def test_large_arrays_are_sent_only_if_they_are_named(address):
    body, headers = infer(png((24, 16))[0], True, parameters={"binary_data_output": True})
    _, about, answer = call(f"{address}{V2}/infer", body, "", headers)
    found = json.loads(answer[: int(about["Inference-Header-Content-Length"])])
    names = {each["name"] for each in found["outputs"]}
    assert names == {"label", "probability", "total", "aleatoric", "epistemic", "set_size"}


def test_the_model_says_what_it_takes_and_gives(address, model):
    found = json.loads(call(address + V2)[2])
    assert found["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 3, -1, -1]}]
    shapes = {each["name"]: each["shape"] for each in found["outputs"]}
    assert shapes["probs"] == [-1, len(model.tasks["classes"].names), -1, -1]
    assert shapes["total"] == [-1, -1, -1]
    assert call(f"{address}{V2}/versions/{model.version}/ready")[0] == 200
    refused(call(f"{address}/v2/models/other"), 404, "nothing at /v2/models/other")
    assert "/predict" in json.loads(call(f"{address}/openapi.json")[2])["paths"]


GOOD = png()[1]
HEAD = json.dumps({"inputs": [{"name": "image", "shape": [1, 3, 2, 2], "datatype": "FP32", "data": [2.0] * 12}]})
WRONG = [
    ("/predict", form(("image", b"no image")), 400, "image of sample 1 is not a whole image file"),
    ("/predict", form(("image", GOOD[:200])), 400, "not a whole image file"),
    ("/predict", form(("image", b"")), 400, "not a whole image file"),
    ("/predict", form(("picture", GOOD)), 400, "a file 'picture', expected files named image"),
    ("/predict", form(), 400, "0 samples, expected 1 to 4"),
    ("/predict", form(*[("image", GOOD)] * 5), 400, "5 samples, expected 1 to 4"),
    ("/predict", form(*[("image", png((130, 130))[1])] * 3), 400, "50700 pixels together"),
    ("/predict", (form(("image", GOOD))[0][:-30], form()[1]), 400, "cut off"),
    ("/predict", (b"", "multipart/form-data"), 400, "boundary"),
    ("/predict", (b"{", "application/json"), 400, "no JSON"),
    ("/predict", (b"[" * 5000, "application/json"), 400, "no JSON"),
    ("/predict", (b"[]", "application/json"), 400, "expected an object"),
    ("/predict", (b'{"inputs": [{"image": "?"}]}', "application/json"), 400, "not base64"),
    ("/predict", (b'{"inputs": [{"right": ""}]}', "application/json"), 400, "expected image"),
    ("/predict", (b'{"inputs": [1]}', "application/json"), 400, "no object"),
    ("/predict", (b'{"more": 1}', "application/json"), 400, "expected one list"),
    ("/predict?probabilities=perhaps", form(("image", GOOD)), 400, "probabilities"),
    ("/predict", (GOOD, "image/png"), 415, "expected multipart/form-data"),
    ("/predict", form(("image", bytes(300_000))), 413, "more than 200000 bytes"),
    (f"{V2}/infer", (HEAD.encode(), ""), 400, "outside [0, 1]"),
    (f"{V2}/infer", (HEAD.replace("2.0", "1e999").encode(), ""), 400, "NaN, infinity"),
    (f"{V2}/infer", (HEAD.replace("2.0", "NaN").encode(), ""), 400, "no number of JSON"),
    (f"{V2}/infer", (HEAD.replace("3, 2", "4, 2").encode(), ""), 400, "expected [B, 3, H, W]"),
    (f"{V2}/infer", (HEAD.replace("1, 3", "-1, 3").encode(), ""), 400, "expected [B, 3, H, W]"),
    (f"{V2}/infer", (HEAD.replace("FP32", "FP64").encode(), ""), 400, "expected UINT8 or FP32"),
    (f"{V2}/infer", (HEAD.replace("image", "input").encode(), ""), 400, "expected image"),
    (f"{V2}/infer", (HEAD.replace("[1, 3, 2, 2]", "[5, 3, 1, 1]").replace("], \"", "], 0, \"").encode(), ""), 400, ""),
    (f"{V2}/infer", (b"", ""), 400, "no JSON"),
    ("/v2/models/model/versions/0/infer", (b"{}", ""), 404, "nothing at"),
    ("/nothing", (b"", ""), 404, "nothing at /nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "status", "text"), WRONG)
def test_what_cannot_be_answered_is_refused_with_one_line(address, path, body, status, text):
    refused(call(address + path, *body), status, text)


def test_wrong_lengths_are_refused(address):
    body, _ = infer(png((24, 16))[0], True)
    for length in ("-1", "ten", "9" * 40, str(len(body) + 1)):
        refused(call(f"{address}{V2}/infer", body, "", {"Inference-Header-Content-Length": length}), 400, "header")
    length = body.index(b"]}") + 2 if b"]}" in body else 0
    refused(call(f"{address}{V2}/infer", body[:-3], "", {"Inference-Header-Content-Length": str(length)}), 400, "")


def test_random_bytes_never_make_the_service_fail(address):
    random = np.random.default_rng(0)
    for n in range(40):
        damaged = bytearray(png((20, 20), n, ("PNG", "JPEG", "TIFF")[n % 3])[1])
        for place in random.integers(0, len(damaged), 6):
            damaged[place] = random.integers(0, 256)
        content = bytes(damaged) if n % 2 else random.bytes(300)
        assert call(f"{address}/predict", *form(("image", content)))[0] in (200, 400)


def test_requests_are_counted(address):
    call(f"{address}/predict", *form(("image", GOOD)))
    text = call(f"{address}/metrics")[2].decode()
    assert 'sfumato_requests_total{route="/predict",status="200"}' in text
    assert 'sfumato_requests_total{route="/predict",status="400"}' in text
    assert "sfumato_batch_images_count" in text
    assert "sfumato_requests_in_progress 0.0" in text


def test_a_key_protects_all_but_the_page_and_the_health(model, serve):
    with serve(model, "secret") as url:
        refused(call(f"{url}/predict", *form(("image", GOOD))), 401, "API key")
        refused(call(f"{url}/metrics"), 401, "API key")
        refused(call(url + V2, headers={"Authorization": "Bearer wrong"}), 401, "API key")
        given = {"Authorization": "Bearer secret"}
        assert call(f"{url}/predict", *form(("image", GOOD)), headers=given)[0] == 200
        assert call(f"{url}/v2/health/ready")[0] == 200
        page = call(f"{url}/")[2].decode()
        assert '"name": "model"' in page
        assert "secret" not in page.replace('id="secret"', "").replace('$("secret")', "")


@pytest.fixture
def slow(model, monkeypatch):
    """A model that takes 0.4 s, and the batches that it predicted."""
    seen, predict = [], model.batches.predict

    def slowly(samples):
        seen.append(len(samples))
        time.sleep(0.4)
        return predict(samples)

    monkeypatch.setattr(model.batches, "predict", slowly)
    return model, seen


def together(url, contents):
    """The answers to images that are sent at the same time."""
    with ThreadPoolExecutor(len(contents)) as pool:
        return list(pool.map(lambda content: call(f"{url}/predict", *form(("image", content))), contents))


def at_once(url, count):
    return [answer[0] for answer in together(url, [png(seed=n)[1] for n in range(count)])]


def test_waiting_images_are_predicted_together(slow, serve):
    model, seen = slow
    with serve(model) as url:
        assert at_once(url, 7) == [200] * 7
    assert max(seen) > 1
    assert sum(seen) == 7


def test_more_requests_than_allowed_are_told_to_come_again(slow, serve, monkeypatch):
    model, _ = slow
    monkeypatch.setattr(model, "limits", replace(LIMITS, waiting=2))
    with serve(model) as url:
        found = at_once(url, 6)
    assert set(found) == {200, 429}
    assert found.count(200) >= 2


def test_late_answers_and_slow_bodies_are_given_up(slow, serve, monkeypatch):
    model, _ = slow
    monkeypatch.setattr(model, "limits", replace(LIMITS, timeout=0.2))
    with serve(model) as url:
        refused(call(f"{url}/predict", *form(("image", GOOD))), 503, "no answer within 0.2 s")
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
                               b"Content-Length: 100\r\n\r\n{")  # fmt: skip
            assert b" 408 " in connection.recv(1000)


def test_nothing_is_predicted_for_a_client_that_left(slow, serve):
    model, seen = slow
    with serve(model) as url:
        first = threading.Thread(target=call, args=(f"{url}/predict", *form(("image", GOOD))))
        first.start()
        time.sleep(0.15)
        body, kind = form(("image", png(seed=5)[1]))
        head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as connection:
            connection.sendall(head.encode() + body)
            time.sleep(0.1)
        first.join()
        assert call(f"{url}/predict", *form(("image", GOOD)))[0] == 200
    assert sum(seen) == 2


def test_a_failing_sample_does_not_harm_its_batch(model, serve, monkeypatch):
    predict = model.batches.predict

    def fail(samples):
        time.sleep(0.2)
        if any(int(sample.inputs[0].max()) == 0 for sample in samples):
            raise DataError("black")
        return predict(samples)

    monkeypatch.setattr(model.batches, "predict", fail)
    black = io.BytesIO()
    Image.new("RGB", (64, 48)).save(black, "PNG")
    with serve(model) as url:
        answers = together(url, [GOOD, black.getvalue(), GOOD])
    assert [answer[0] for answer in answers] == [200, 400, 200]


def test_fitted_decisions_are_in_the_answer(exported, serve, expected):
    pixels, content = png()
    prediction = expected(pixels).prediction
    state = prediction_state(Run.open(exported.parent, trust="all"))
    abstention = Abstention(prediction.total.median()[None], 0.1, 0.1, rests_on=state)
    folder = exported.parent / "decisions"
    folder.mkdir()
    abstention.save(folder / "abstention.safetensors")
    OutlierFlag(torch.zeros(99, dtype=torch.float64), 0.05, 0.1, fitted_on=(), rests_on=state).save(
        folder / "flag.safetensors"
    )
    try:
        with serve(Model(exported, LIMITS, trust="all")) as url:
            found = json.loads(call(f"{url}/predict", *form(("image", content)))[2])
    finally:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    summary = found["predictions"][0]["tasks"]["classes"]["summary"]
    assert summary["decision"] == "flagged"
    assert summary["p_value"] == pytest.approx(0.01)
    assert 0.4 < summary["accepted"] < 0.6
    assert summary["accepted"] == pytest.approx(float(abstention(prediction).double().mean()))


def test_a_stereo_run_takes_pairs(make_run, serve):
    run = make_run(task="depth", inputs=("image", "right"))
    with serve(Model(run.folder, LIMITS, trust="all")) as url:
        good = call(f"{url}/predict", *form(("image", GOOD), ("right", GOOD)))
        refused(call(f"{url}/predict", *form(("image", GOOD))), 400, "as many of each")
        refused(call(f"{url}/predict", *form(("image", GOOD), ("right", png((10, 10))[1]))), 400, "different sizes")
        probabilities = call(f"{url}/predict?probabilities=true", *form(("image", GOOD), ("right", GOOD)))
    answer = json.loads(good[2])["predictions"][0]["tasks"]["depth"]
    assert {"mean", "total", "aleatoric", "epistemic"} <= set(answer["maps"])
    assert answer["summary"]["unit"] == "m"
    assert probabilities[2] == good[2]


def test_a_file_of_another_version_says_so(exported, tmp_path):
    onnx = pytest.importorskip("onnx")
    file = onnx.load(exported)
    (entry,) = file.metadata_props
    about = json.loads(entry.value) | {"sfumato": "9.0"}
    del about["kind"]
    entry.value = json.dumps(about)
    onnx.save(file, tmp_path / "other.onnx")
    with pytest.raises(
        DataError, match=r"was written by sfumato 9.0, and this is .* 'kind' is missing .* export again"
    ):
        Model(tmp_path / "other.onnx")


def test_mistakes_before_the_start_are_one_line(tmp_path, exported, capsys, monkeypatch):
    with pytest.raises(MissingFileError):
        Model(tmp_path / "none.onnx")
    with pytest.raises(ConfigError, match="no draws"):
        Model(exported, LIMITS, samples=4, trust="all").warm_up()
    with pytest.raises(ConfigError, match="waiting"):
        Limits(waiting=0)
    with service.listening("127.0.0.1", 0) as used:
        used.listen()
        with pytest.raises(ResourceError, match="is in use: choose another one with --port"):
            service.listening("127.0.0.1", used.getsockname()[1])
    with pytest.raises(ConfigError, match="no address"):
        service.listening("no.such.host.invalid", 0)
    assert main(["serve", str(tmp_path / "run"), "--port", "0"]) == 2
    assert "does not exist" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "sfumato.service.server", None)
    monkeypatch.delitem(sys.modules, "uvicorn")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "sfumato.service.server")
    with pytest.raises(MissingDependencyError, match=r"uvicorn: pip install 'sfumato\[serve\]'"):
        _ = service.listening


def test_a_signal_ends_the_command_after_the_last_answer(exported, tmp_path):
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "sfumato", "serve", str(exported), "--port", "0", "--trust", "tiny_network"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env) as process:
        line = process.stdout.readline()
        assert "answers at http://127.0.0.1:" in line, line + process.stdout.read()
        url = line.split(" answers at ")[1].split(";")[0]
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(at_once, url, 12)
            time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            assert call(f"{url}/v2/health/ready")[0] == 503
            assert waiting.result() == [200] * 12
        assert process.wait(30) == 0
        assert process.stdout.read() == "all requests are answered\n"
