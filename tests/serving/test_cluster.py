"""Batches of arrays and files of a cluster get what `sfumato predict` gives; nothing is predicted twice."""

import io
import json
import sys

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.cli import main
from sfumato.errors import ConfigError, DataError, MissingDependencyError, MissingFileError
from sfumato.runs import Predictor, RunBackend
from sfumato.serving import BatchPredictor, FilePredictor, open_predictor, predict_files, predict_on_ray
from sfumato.serving.cluster import Choices, rows_of

pytestmark = pytest.mark.filterwarnings("ignore")


def pixels(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def png(values):
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def run(make_run):
    return make_run(method="mc-dropout")


def test_arrays_and_bytes_get_the_numbers_of_the_file(exported):
    predict, ours = BatchPredictor(exported, trust="all"), open_predictor(exported, trust="all")
    images = [pixels(size, n) for n, size in enumerate([(61, 66), (64, 68), (40, 40)])]
    column = np.empty(3, object)
    column[:] = [images[0], png(images[1]), images[2]]
    found = predict({"image": column, "path": np.array(["a", "b", "c"])})
    assert list(found["path"]) == ["a", "b", "c"]
    assert "probs" not in found
    for row, image in enumerate(images):
        wanted = ours(torch.from_numpy(image).permute(2, 0, 1)[None]).prediction
        assert (found["label"][row] == wanted.label[0].numpy()).all()
        assert (found["total"][row] == wanted.total[0].numpy()).all()
    same = predict({"image": np.stack([images[0], images[0]])})
    assert same["epistemic"].shape == (2, 61, 66)
    assert (same["epistemic"][0] == found["epistemic"][0]).all()
    assert BatchPredictor(exported, trust="all", probabilities=True)({"image": images[:1]})["probs"].shape[2:] == (
        61,
        66,
    )


def test_any_division_into_batches_gives_the_same(run):
    predict = BatchPredictor(run.folder, trust="all")
    images = np.stack([pixels((16, 24), n) for n in range(4)])
    whole = predict({"image": images})["epistemic"]
    parts = [predict({"image": images[row : row + 1]})["epistemic"][0] for row in (3, 1, 0, 2)]
    assert (whole[[3, 1, 0, 2]] == np.stack(parts)).all()
    assert whole.max() > 0


@pytest.mark.parametrize(("batch", "text"), [
    ({"picture": np.zeros((1, 4, 4, 3), np.uint8)}, "'image' is missing"),
    ({"image": np.zeros((1, 3, 4, 4), np.uint8)}, r"expected bytes, \(H, W, 3\)"),
    ({"image": np.full((1, 4, 4, 3), 2.0)}, "divide by 255"),
    ({"image": np.full((1, 4, 4, 3), np.nan)}, "NaN"),
    ({"image": np.array([b"no image"], object)}, "not a whole image file"),
    ({"image": np.zeros((1, 16, 24, 3), np.uint8), "total": np.zeros(1)}, "name of an output"),
])  # fmt: skip
def test_wrong_batches_are_refused(run, batch, text):
    with pytest.raises(DataError, match=text):
        BatchPredictor(run.folder, trust="all")(batch)


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for n, name in enumerate(("b", "a", "deep/c")):
        (tmp_path / "in" / f"{name}.png").write_bytes(png(pixels((20, 30 + n), n)))
    return str(tmp_path / "in")


def columns(rows):
    return {key: [row[key] for row in rows] for key in rows[0]}


def test_files_at_an_address_get_what_predict_writes(run, photos, tmp_path):
    target = fsspec.filesystem("memory")
    worker = FilePredictor(run.folder, "memory://out", Choices(trust="all"))
    rows = columns(rows_of([photos], ("image",)))
    assert rows["name"] == ["a", "b", "deep/c"]
    found = worker(rows)
    assert list(found["problem"]) == [""] * 3
    assert list(found["written"]) == [True] * 3
    predict_files(Predictor(RunBackend(run)), [photos], tmp_path / "plain", progress=False)
    plain = {str(path.relative_to(tmp_path / "plain")): path.read_bytes()
             for path in (tmp_path / "plain").rglob("*") if path.is_file()}  # fmt: skip
    assert {path.removeprefix("/out/"): target.cat_file(path) for path in target.find("/out")} == plain
    assert list(worker(rows)["written"]) == [False] * 3
    target.rm("/out/a.json")  # as if the worker had been killed before its last file
    target.pipe_file("/out/b.json", json.dumps({"run_state": "another"}).encode())
    assert list(worker(rows)["written"]) == [True, True, False]
    target.rm("/out", recursive=True)


def test_a_damaged_file_does_not_stop_the_others(run, photos, tmp_path):
    (tmp_path / "in" / "a.png").write_bytes(b"no image")
    found = FilePredictor(run.folder, str(tmp_path / "out"), Choices(trust="all"))(
        columns(rows_of([photos], ("image",)))
    )
    assert list(found["written"]) == [False, True, True]
    assert "a.png is not a whole image file" in found["problem"][0]
    assert not list((tmp_path / "out").glob("a*"))


def test_wrong_addresses_and_choices_are_one_line(run, photos, tmp_path, capsys, monkeypatch):
    with pytest.raises(MissingFileError, match="names no image"):
        rows_of([str(tmp_path / "none")], ("image",))
    with pytest.raises(MissingFileError, match="cannot be listed"):
        rows_of(["nosuchprotocol://x"], ("image",))
    with pytest.raises(ConfigError, match="2 addresses, expected 1"):
        rows_of([photos, photos], ("image",))
    with pytest.raises(ConfigError, match="only one of"):
        rows_of([photos, f"{photos}/deep"], ("image", "right"))
    with pytest.raises(ConfigError, match="workers is 0"):
        predict_on_ray(run.folder, [photos], str(tmp_path / "out"), 0)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'ray\[data\]'"):
        predict_on_ray(run.folder, [photos], str(tmp_path / "out"), choices=Choices(trust="all"))
    for options in (["--engine", "dask"], ["--workers", "2"], ["--engine", "ray", "--pairs"]):
        assert main(["predict", str(run.folder), photos, "--out", str(tmp_path / "out"), *options]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3
