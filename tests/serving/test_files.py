"""Files, folders, globs and videos are predicted; outputs overwrite nothing."""

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.calibration import ConformalSets
from sfumato.data import Scenes
from sfumato.errors import ConfigError, DataError, MissingFileError
from sfumato.predictions import ClassPrediction, JointPrediction
from sfumato.runs import Predictor, Run, RunBackend
from sfumato.serving import predict_files
from sfumato.serving.files import find_sources

pytestmark = pytest.mark.filterwarnings("ignore")
MAPS = ("label", "probability", "total", "aleatoric", "epistemic")


def picture(path, size=(24, 16), color=100, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color if mode == "L" else (color, color, color)).save(path)
    return str(path)


def predict(run, given, out, **how):
    return predict_files(Predictor(RunBackend(run)), given, out, progress=False, **how)


@pytest.fixture(scope="module")
def run(make_run):
    return make_run(likelihood="categorical")


@pytest.mark.parametrize(("mode", "size"), [("RGB", (30, 20)), ("L", (24, 16)), ("RGBA", (24, 16)), ("RGB", (1, 1))])
def test_every_map_is_written(run, tmp_path, mode, size):
    image = picture(tmp_path / "photo.png", size, mode=mode)
    assert predict(run, [image], tmp_path / "out") == 1
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {f"photo_{name}.png" for name in (*MAPS, "figure")} | {"photo.safetensors", "photo.json"}
    assert ClassPrediction.load(tmp_path / "out" / "photo.safetensors").probs.shape[-2:] == size[::-1]


def test_sets_are_written_for_a_run_that_has_some(run, tmp_path):
    thresholds = torch.full((len(run.task.names),), 0.1)
    ConformalSets(thresholds, 0.9).save(run.file("conformal.safetensors"))
    fitted = Run.open(run.folder, trust="all")
    run.file("conformal.safetensors").unlink()
    predict(fitted, [picture(tmp_path / "a.png")], tmp_path / "out")
    assert {"a_set_size.png", "a_sets.safetensors"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_folders_are_mirrored(run, tmp_path):
    for name in ("one/a.png", "two/a.png", "b.jpg"):
        picture(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    assert predict(run, [str(tmp_path / "in")], tmp_path / "out") == 3
    for name in ("one/a", "two/a", "b"):
        assert (tmp_path / "out" / f"{name}.safetensors").is_file()


def test_globs_and_names_that_start_with_a_dash(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("f0.png", "f1.png", "-dash.png"):
        picture(tmp_path / name)
    assert predict(run, ["f*.png"], tmp_path / "out") == 2
    assert predict(run, ["-dash.png"], tmp_path / "out") == 1
    assert (tmp_path / "out" / "-dash_total.png").is_file()


def test_outputs_never_overwrite_each_other(run, tmp_path):
    first, second = picture(tmp_path / "x" / "a.png"), picture(tmp_path / "y" / "a.jpg")
    with pytest.raises(ConfigError, match=r"a\.png and .*a\.jpg would both be written to .*out/a"):
        predict(run, [first, second], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_outputs_are_no_inputs_the_next_time(run, tmp_path):
    image = picture(tmp_path / "in" / "a.png")
    for given in (str(tmp_path / "in"), image, str(tmp_path / "in" / "*.png")):
        with pytest.raises(ConfigError, match="predictions would be inputs the next time"):
            predict(run, [given], tmp_path / "in")
    out = tmp_path / "in" / "out"
    picture(out / "mine.png")
    with pytest.raises(ConfigError, match=r"mine\.png lies in --out"):  # it is no output, so it is not skipped
        predict(run, [str(tmp_path / "in")], out)
    (out / "mine.png").unlink()
    assert predict(run, [str(tmp_path / "in")], out) == 1
    assert predict(run, [str(tmp_path / "in")], out) == 1  # those of the first call are skipped


def test_names_without_an_image(run, tmp_path):
    with pytest.raises(MissingFileError, match="names no image"):
        predict(run, [str(tmp_path / "none*.png")], tmp_path / "out")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n half")
    with pytest.raises(DataError, match=r"cut\.png"):
        predict(run, [str(tmp_path / "cut.png")], tmp_path / "out")


def test_frames_of_a_video_are_numbered(run, tmp_path):
    cv2 = pytest.importorskip("cv2")
    film = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (24, 16))
    for n in range(3):
        film.write(np.full((16, 24, 3), 60 * n, np.uint8))
    film.release()
    assert predict(run, [str(tmp_path / "film.avi")], tmp_path / "out") == 3
    found = ClassPrediction.load(tmp_path / "out" / "film_000002.safetensors")
    assert found.probs.shape[-2:] == (16, 24)
    with Image.open(tmp_path / "out" / "film_000002_figure.png") as figure:
        assert figure.getpixel((20, 60))[0] == pytest.approx(120, abs=5)


def test_two_inputs_are_matched_by_name(make_run, tmp_path):
    run = make_run(inputs=("image", "right"), likelihood="categorical")
    for name, color in (("a", 10), ("b", 200)):
        picture(tmp_path / "left" / f"{name}.png", color=color)
        picture(tmp_path / "right" / f"{name}.jpg", color=255 - color)
    assert predict(run, [str(tmp_path / "left"), str(tmp_path / "right")], tmp_path / "out") == 2
    found = ClassPrediction.load(tmp_path / "out" / "b.safetensors")
    inputs = [torch.full((1, 3, 16, 24), color, dtype=torch.uint8) for color in (200, 55)]
    torch.testing.assert_close(found.probs, run.predict(*inputs).probs, atol=1e-3, rtol=0)
    with pytest.raises(ConfigError, match="expected 2: one for each of the inputs image, right"):
        predict(run, [str(tmp_path / "left")], tmp_path / "out2")
    (tmp_path / "right" / "b.jpg").unlink()
    with pytest.raises(ConfigError, match="b is given for only one of image and right"):
        predict(run, [str(tmp_path / "left"), str(tmp_path / "right")], tmp_path / "out2")


def test_single_files_of_two_inputs_may_have_any_names(tmp_path):
    files = [picture(tmp_path / "left.png"), picture(tmp_path / "right.png")]
    (source,) = find_sources(files, ("image", "right"), tmp_path / "out")
    assert [path.name for path in source.files] == ["left.png", "right.png"]


def test_several_tasks_are_written_by_name(make_run, tmp_path):
    from dataclasses import asdict, replace

    from sfumato.data import Scenes
    from sfumato.runs import build_network, save_weights, task_and_likelihood, weights_path

    tasks = Scenes(2, size=(16, 24)).tasks
    single = make_run().plan
    facts = replace(single.facts, task_args={name: asdict(tasks[name]) for name in ("classes", "depth")})
    config = replace(
        single.config, task="", tasks="classes,depth", likelihood="categorical,gaussian", network="joint-unet",
        network_args={"widths": (4, 8)}, weighting="equal",
    )  # fmt: skip
    plan, folder = replace(single, config=config, facts=facts), tmp_path / "run"
    folder.mkdir()
    plan.save(folder / "plan.yaml")
    save_weights(build_network(plan, task_and_likelihood(plan)[1]), weights_path(folder, 0))
    run = Run.open(folder, trust="all")
    assert predict(run, [picture(tmp_path / "cat.png", (30, 20))], tmp_path / "out") == 1
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {
        "cat.json", "cat_classes.safetensors", "cat_classes_probability.png", "cat_depth.safetensors",
        "cat_depth_total.png", "cat_depth_mean.png", "cat_depth_figure.png",
    } <= names  # fmt: skip
    assert isinstance(run.predict(torch.zeros(1, 3, 16, 24)), JointPrediction)


def test_exchanged_views_are_refused(make_run, tmp_path):
    run = make_run(task="disparity", inputs=("image", "right"))
    sample = Scenes(1, (48, 64), views=("right",))[0]
    for name in ("image", "right"):
        Image.fromarray((255 * sample[name]).byte().permute(1, 2, 0).numpy()).save(tmp_path / f"{name}.png")
    left, right = str(tmp_path / "image.png"), str(tmp_path / "right.png")
    assert predict(run, [left, right], tmp_path / "out") == 1
    with pytest.raises(DataError, match="the views of sample 'right' seem to be exchanged"):
        predict(run, [right, left], tmp_path / "other")
