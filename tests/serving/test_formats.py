"""Disparity and optical flow are written for other programs; networks of several pictures get them from anywhere."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data.motion_files import read_disparity, read_flow
from sfumato.errors import ConfigError, DataError, MissingFileError
from sfumato.predictions import ValuePrediction
from sfumato.runs import Predictor, RunBackend
from sfumato.serving import Stereo, predict_files
from sfumato.serving.files import find_sources, listed_sources
from sfumato.tasks import Disparity, Flow

pytestmark = pytest.mark.filterwarnings("ignore")
STEREO = Stereo(20.0, 0.5)


def picture(path, color=100, size=(24, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(color)
    Image.fromarray(generator.integers(0, 255, (*size[::-1], 3), np.uint8)).save(path)
    return str(path)


def predict(run, given, out, **how):
    return predict_files(Predictor(RunBackend(run)), given, out, progress=False, **how)


@pytest.fixture(scope="module")
def stereo(make_run):
    return make_run(
        task="disparity", inputs=("image", "right"), tasks={"disparity": Disparity()}, likelihood="laplace",
        samples=4, method="mc-dropout",
    )  # fmt: skip


@pytest.fixture(scope="module")
def flow(make_run):
    return make_run(task="flow", inputs=("image", "next"), tasks={"flow": Flow()}, likelihood="laplace-full")


def test_disparity_is_written_as_pfm_and_depth_with_its_interval(stereo, tmp_path):
    pair = [picture(tmp_path / "left.png"), picture(tmp_path / "right.png", 7)]
    assert predict(stereo, pair, tmp_path / "out", stereo=STEREO) == 1
    found = ValuePrediction.load(tmp_path / "out" / "left.safetensors")
    torch.testing.assert_close(
        read_disparity(tmp_path / "out" / "left.pfm")[0], found.mean[0].clamp_min(0), atol=0.2, rtol=0
    )
    about = json.loads((tmp_path / "out" / "left.json").read_text())["maps"]
    maps = {
        name: np.asarray(Image.open(tmp_path / "out" / f"left_{name}.png"))
        for name in ("depth", "depth_near", "depth_far")
    }
    assert about["left_depth_far.png"]["unit"] == "m"
    assert (maps["depth_near"] <= maps["depth"]).all()
    assert (maps["depth"] <= maps["depth_far"]).all()
    expected = (10 / found.mean[0, 0].clamp_min(1e-9)).clamp_max(255)
    torch.testing.assert_close(torch.from_numpy(maps["depth"] / 256).float(), expected, atol=1 / 256, rtol=0)


def test_no_depth_without_a_calibration(stereo, tmp_path):
    predict(stereo, [picture(tmp_path / "left.png"), picture(tmp_path / "right.png")], tmp_path / "out")
    assert not list((tmp_path / "out").glob("*depth*"))


@pytest.mark.parametrize(("focal", "baseline"), [(0, 1), (1, -1), (float("nan"), 1), (1, float("inf"))])
def test_a_calibration_has_positive_numbers(focal, baseline):
    with pytest.raises(ConfigError, match="above 0"):
        Stereo(focal, baseline)


def test_a_calibration_must_fit_task_and_images(stereo, flow, tmp_path):
    pair = [picture(tmp_path / "left.png"), picture(tmp_path / "right.png")]
    with pytest.raises(ConfigError, match="run is of flow"):
        predict(flow, pair, tmp_path / "out", stereo=STEREO)
    with pytest.raises(DataError, match="another size"):
        predict(stereo, pair, tmp_path / "out", stereo=Stereo(2000.0, 0.5))
    assert not list((tmp_path / "out").iterdir())


def test_flow_is_written_as_flo_and_as_a_picture(flow, tmp_path):
    pair = [picture(tmp_path / "a.png"), picture(tmp_path / "b.png", 7)]
    predict(flow, pair, tmp_path / "out")
    found = ValuePrediction.load(tmp_path / "out" / "a.safetensors")
    vectors, valid = read_flow(tmp_path / "out" / "a.flo")
    assert valid.all()
    torch.testing.assert_close(vectors, found.mean[0])
    with Image.open(tmp_path / "out" / "a_vectors.png") as shown:
        assert shown.width >= 960
        assert len(shown.getcolors(1 << 20)) > 10


def test_neighbors_of_a_folder_of_frames_are_predicted_in_the_order_of_their_numbers(flow, tmp_path):
    for number in (8, 9, 10, 11):
        picture(tmp_path / "in" / f"frame_{number}.png", number)
    assert predict(flow, [str(tmp_path / "in")], tmp_path / "out") == 3
    assert not (tmp_path / "out" / "frame_11.flo").exists()
    images = [
        torch.from_numpy(np.array(Image.open(tmp_path / "in" / f"frame_{n}.png"))).movedim(-1, 0)[None] for n in (9, 10)
    ]
    torch.testing.assert_close(read_flow(tmp_path / "out" / "frame_9.flo")[0], flow.predict(*images).mean[0])
    (tmp_path / "in" / "frame_9.png").unlink()
    with pytest.raises(MissingFileError, match="lacks frames"):
        predict(flow, [str(tmp_path / "in")], tmp_path / "out2")


def video(path, colors, size=(24, 16)):
    cv2 = pytest.importorskip("cv2")
    film = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, size)
    for color in colors:
        film.write(np.full((*size[::-1], 3), color, np.uint8))
    film.release()
    return str(path)


def test_neighbors_of_a_video_are_predicted(flow, tmp_path):
    film = video(tmp_path / "film.avi", (10, 200, 90))
    assert predict(flow, [film], tmp_path / "out") == 2
    images = [torch.full((1, 3, 16, 24), color, dtype=torch.uint8) for color in (200, 90)]
    found = read_flow(tmp_path / "out" / "film_000001.flo")[0]
    torch.testing.assert_close(found, flow.predict(*images).mean[0], atol=0.05, rtol=0.05)
    with pytest.raises(DataError, match="1 frames, expected at least 2"):
        predict(flow, [video(tmp_path / "one.avi", (10,))], tmp_path / "out")


def test_videos_of_both_views_must_be_equally_long(stereo, tmp_path):
    left = video(tmp_path / "left.avi", (10, 20, 30))
    assert predict(stereo, [left, video(tmp_path / "right.avi", (10, 20, 30))], tmp_path / "out") == 3
    with pytest.raises(DataError, match="different numbers of frames"):
        predict(stereo, [left, video(tmp_path / "short.avi", (10, 20))], tmp_path / "out2")


def test_views_of_different_sizes_are_refused(stereo, tmp_path):
    with pytest.raises(DataError, match="inputs of different sizes"):
        predict(stereo, [picture(tmp_path / "a.png"), picture(tmp_path / "b.png", size=(20, 16))], tmp_path / "out")


def test_a_list_names_pairs(stereo, tmp_path):
    for scene in ("one", "two views"):
        for name in ("im2", "im6"):
            picture(tmp_path / scene / f"{name}.png", len(scene + name))
    (tmp_path / "pairs.txt").write_text(
        "# left right\none/im2.png one/im6.png\n\n'two views/im2.png' 'two views/im6.png'\n"
    )
    assert predict(stereo, [str(tmp_path / "pairs.txt")], tmp_path / "out", pairs=True) == 2
    assert (tmp_path / "out" / "one" / "im2.pfm").is_file()
    assert (tmp_path / "out" / "two views" / "im2.pfm").is_file()


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("a.png\n", DataError, "line 1 names 1 files, expected 2"),
        ("a.png none.png\n", MissingFileError, r"line 1: .*none\.png"),
        ("# only this\n", DataError, "names no file"),
        ("'a.png b.png\n", DataError, "cannot be read"),
        ("a.png b.png\na.png b.png\n", ConfigError, "both be written"),
        ("out/c.png b.png\n", ConfigError, "lies in --out"),
    ],
)
def test_bad_lists_are_refused(tmp_path, text, error, message):
    for name in ("a.png", "b.png", "out/c.png"):
        picture(tmp_path / name)
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(error, match=message):
        listed_sources([str(tmp_path / "pairs.txt")], ("image", "right"), tmp_path / "out")


def test_a_list_that_does_not_exist_and_a_folder_of_one_frame_are_refused(tmp_path):
    with pytest.raises(MissingFileError, match=r"pairs\.txt does not exist"):
        listed_sources([str(tmp_path / "pairs.txt")], ("image", "right"), tmp_path / "out")
    picture(tmp_path / "in" / "frame_1.png")
    with pytest.raises(DataError, match="1 frames, expected at least 2"):
        find_sources([str(tmp_path / "in")], ("image", "next"), tmp_path / "out")


def test_outputs_of_a_list_stay_in_their_folder(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "pairs.txt").write_text(f"../a.png {tmp_path / 'a.png'}\n")
    (source,) = listed_sources([str(tmp_path / "lists" / "pairs.txt")], ("image", "right"), tmp_path / "out")
    assert source.name == "a"
