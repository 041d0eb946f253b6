"""Videos are predicted frame by frame: merged or not, to files or to a playable video; bad frames are named."""

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.cli import main
from sfumato.data import Scenes
from sfumato.errors import ConfigError, DataError, MissingFileError
from sfumato.geometry import dis_flow
from sfumato.predictions import ClassPrediction, TemporalAggregation, ValuePrediction
from sfumato.report.video_frame import OPACITY, VideoPainter
from sfumato.runs import Predictor, RunBackend
from sfumato.serving import predict_videos
from sfumato.tasks import Depth, Semantic

cv2 = pytest.importorskip("cv2")
pytestmark = pytest.mark.filterwarnings("ignore")
SIZE = (32, 48)


def picture(sample, view="image"):
    return (sample[view].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


@pytest.fixture(scope="module")
def pictures():
    """Two scenes of two neighbors each: between them is a cut."""
    return [
        picture(Scenes(1, SIZE, seed=seed, views=("next",))[0], view) for seed in (1, 2) for view in ("image", "next")
    ]


@pytest.fixture
def folder(tmp_path, pictures):
    (tmp_path / "film").mkdir()
    for number, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(tmp_path / "film" / f"frame_{number}.png")
    return tmp_path / "film"


@pytest.fixture(scope="module")
def run(make_run):
    return make_run(likelihood="categorical", method="mc-dropout")


def predict(run, given, out, **how):
    notes = []
    done = predict_videos(Predictor(RunBackend(run)), [str(given)], out, note=notes.append, **how)
    return done, notes


def read(path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        good, frame = capture.read()
        if not good:
            return frames, capture.get(cv2.CAP_PROP_FPS)
        frames.append(frame[..., ::-1])


def stored(out, number):
    return ClassPrediction.load(out / f"film_{number:06d}.safetensors")


def test_merged_frames_have_an_epistemic_part_from_one_draw_each_and_a_cut_starts_again(run, folder, tmp_path):
    done, notes = predict(run, folder, tmp_path / "out", flow=dis_flow, samples=1)
    assert done == 4
    assert [stored(tmp_path / "out", n).draws for n in range(4)] == [1, 2, 1, 2]
    assert len(notes) == 1
    assert "starts again at frame 2" in notes[0]
    found = stored(tmp_path / "out", 1)
    assert found.epistemic.mean() > 1e-3
    torch.testing.assert_close(found.aleatoric + found.epistemic, found.total, atol=1e-5, rtol=1e-5)
    alone, _ = predict(run, folder, tmp_path / "alone", samples=1)
    assert alone == 4
    assert stored(tmp_path / "alone", 1).epistemic.max() < 1e-6
    assert torch.equal(stored(tmp_path / "alone", 2).probs, stored(tmp_path / "out", 2).probs)


@pytest.mark.parametrize(("drawing", "size"), [("side-by-side", (52, 192)), ("overlay", (32, 48))])
def test_a_playable_video_has_all_frames(run, folder, tmp_path, drawing, size):
    assert predict(run, folder, tmp_path / "out", drawing=drawing)[0] == 4
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["film.mp4"]
    frames, rate = read(tmp_path / "out" / "film.mp4")
    assert len(frames) == 4
    assert frames[0].shape[:2] == size
    assert rate == 10


def test_a_video_file_keeps_its_rate_and_its_picture(run, pictures, tmp_path):
    film = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, SIZE[::-1])
    for pixels in pictures:
        film.write(pixels[..., ::-1])
    film.release()
    assert predict(run, tmp_path / "film.avi", tmp_path / "out", drawing="side-by-side", flow=dis_flow)[0] == 4
    frames, rate = read(tmp_path / "out" / "film.mp4")
    assert rate == 25
    shown = frames[3][-32:, :48].astype(float)
    assert np.abs(shown - pictures[3]).mean() < 12  # twice compressed


def test_the_overlay_shows_the_image_where_nothing_is_known():
    task = Semantic(("a", "b"), ((255, 0, 0), (0, 0, 255)))
    probs = torch.tensor([[1.0, 0.5], [0.0, 0.5]]).reshape(1, 2, 1, 2)
    found = ClassPrediction(probs, torch.zeros(1, 1, 2))
    drawn = VideoPainter.starting_with(task, found).overlay(torch.full((3, 1, 2), 0.4), found)
    assert drawn[0, 1].tolist() == [102, 102, 102]
    assert drawn[0, 0].tolist() == pytest.approx(
        [(1 - OPACITY) * 102 + OPACITY * 255, *[(1 - OPACITY) * 102] * 2], abs=1
    )


def test_values_are_drawn_with_the_scale_of_the_first_frame():
    one = torch.ones(1, 1, 8, 10)
    first, later = ValuePrediction(3 * one, 4 * one, 0 * one, "m"), ValuePrediction(3 * one, one, 0 * one, "m")
    painter = VideoPainter.starting_with(Depth(1.0, 80.0), first)
    assert painter.end == 2
    drawn = painter.side_by_side(torch.zeros(3, 8, 10), later)
    assert drawn.shape == (28, 40, 3)
    assert not np.array_equal(drawn[-1, 25], painter.side_by_side(torch.zeros(3, 8, 10), first)[-1, 25])


def test_a_damaged_frame_in_the_middle_is_named_and_left_out(run, folder, tmp_path):
    (folder / "frame_1.png").write_bytes((folder / "frame_1.png").read_bytes()[:60])
    done, notes = predict(run, folder, tmp_path / "out", flow=dis_flow)
    assert done == 3
    assert "frame 1 is left out" in notes[0]
    assert "frame_1.png is not a whole image file" in notes[0]
    assert not (tmp_path / "out" / "film_000001.json").exists()
    assert (tmp_path / "out" / "film_000003.json").exists()


def test_lost_frames_of_a_video_file_are_told(run, pictures, tmp_path):
    film = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, SIZE[::-1])
    for pixels in 3 * pictures:
        film.write(pixels)
    film.release()
    data = (tmp_path / "film.avi").read_bytes()
    (tmp_path / "film.avi").write_bytes(data[: 2 * len(data) // 3])
    done, notes = predict(run, tmp_path / "film.avi", tmp_path / "out", drawing="overlay")
    assert 0 < done < 12
    assert f"{done} frames of" in notes[0]
    assert "it says that it has 12" in notes[0]


def test_frames_of_another_size_end_a_playable_video_and_start_a_merged_one_again(run, folder, tmp_path):
    Image.new("RGB", (40, 32), (9, 9, 9)).save(folder / "frame_1.png")
    with pytest.raises(DataError, match=r"frame 1 of .* has 32 × 40 pixels, and the first 32 × 48"):
        predict(run, folder, tmp_path / "out", drawing="overlay")
    assert not list((tmp_path / "out").iterdir())
    assert predict(run, folder, tmp_path / "out", flow=dis_flow, samples=1)[0] == 4
    assert stored(tmp_path / "out", 1).draws == 1


def test_videos_without_frames(run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingFileError, match="names no frame"):
        predict(run, tmp_path / "empty", tmp_path / "out")
    with pytest.raises(MissingFileError, match=r"none\.mp4 does not exist"):
        predict(run, tmp_path / "none.mp4", tmp_path / "out")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DataError, match=r"text\.mp4 holds no frame"):
        predict(run, tmp_path / "text.mp4", tmp_path / "out", drawing="overlay")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "f1.png").write_text("no picture")
    with pytest.raises(DataError, match="holds no frame"):
        predict(run, tmp_path / "bad", tmp_path / "out", drawing="overlay")
    assert not list((tmp_path / "out").iterdir())


class Camera:
    """Two pictures, then Ctrl-C."""

    pictures = ()

    def __init__(self, number):
        assert number == 0
        self.rest = list(self.pictures)

    def isOpened(self):
        return bool(self.pictures)

    def get(self, which):
        return -1.0

    def read(self):
        if not self.rest:
            raise KeyboardInterrupt
        return True, self.rest.pop(0)

    def release(self):
        pass


def test_a_camera_is_stopped_by_ctrl_c_and_keeps_its_frames(run, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Camera, "pictures", tuple(pictures[:2]))
    with monkeypatch.context() as patch:
        patch.setattr(cv2, "VideoCapture", Camera)
        assert predict(run, "0", tmp_path / "out", drawing="overlay", flow=dis_flow)[0] == 2
    assert len(read(tmp_path / "out" / "camera0.mp4")[0]) == 2
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    monkeypatch.setattr(Camera, "pictures", ())
    with pytest.raises(DataError, match="there is no camera 0"):
        predict(run, "0", tmp_path / "out")


def test_what_does_not_fit_is_refused(run, make_run, folder, tmp_path):
    with pytest.raises(ConfigError, match="video is 'gif', expected side-by-side or overlay"):
        predict(run, folder, tmp_path / "out", drawing="gif")
    with pytest.raises(ConfigError, match="takes image, right"):
        predict(make_run(inputs=("image", "right"), likelihood="categorical"), folder, tmp_path / "out")
    with pytest.raises(ConfigError, match="has the name of another video"):
        predict_videos(Predictor(RunBackend(run)), [str(folder), str(folder)], tmp_path / "out")

    class Exported:
        inputs = ("image",)

    with pytest.raises(ConfigError, match="give the folder of the run"):
        predict_videos(Predictor(Exported()), [str(folder)], tmp_path / "out", flow=dis_flow)
    assert not (tmp_path / "out").exists()


def test_frames_are_merged_by_the_flow_of_a_run(run, make_run, folder, tmp_path):
    flow = make_run(task="flow", inputs=("image", "next"), likelihood="gaussian")
    words = [
        "predict",
        str(run.folder),
        str(folder),
        f"--temporal={flow.folder}",
        "--samples=1",
        "--trust",
        "--device=cpu",
    ]
    assert main([*words, f"--out={tmp_path / 'out'}"]) == 0
    aggregation = TemporalAggregation(lambda first, second: flow.predict(first, second).mean)
    for index in range(2):
        image = torch.from_numpy(np.array(Image.open(folder / f"frame_{index}.png"))).movedim(-1, 0)[None]
        alone = run.predict_uncalibrated(run.method(1), image, index=index)
        expected = aggregation(image / 255, alone)
    torch.testing.assert_close(stored(tmp_path / "out", 1).probs, expected.probs, atol=1e-4, rtol=1e-3)


def test_no_input_is_written_over(run, folder, pictures, tmp_path):
    film = cv2.VideoWriter(str(tmp_path / "a.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 5, SIZE[::-1])
    film.write(pictures[0])
    film.release()
    before = (tmp_path / "a.mp4").read_bytes()
    with pytest.raises(ConfigError, match="would be written over"):
        predict(run, tmp_path / "a.mp4", tmp_path, drawing="overlay")
    for out in (folder, folder / "out"):
        with pytest.raises(ConfigError, match="lies among the frames"):
            predict(run, folder, out)
    assert (tmp_path / "a.mp4").read_bytes() == before


def test_the_command(run, folder, tmp_path, capsys):
    words = ["predict", str(run.folder), str(folder), "--temporal=dis", "--video=overlay", "--samples=1", "--trust"]
    assert main([*words, f"--out={tmp_path / 'out'}", "--device=cpu"]) == 0
    captured = capsys.readouterr()
    assert "4 frames are in" in captured.out
    assert "starts again at frame 2" in captured.err
    assert len(read(tmp_path / "out" / "film.mp4")[0]) == 4
    assert main([*words, "--focal=1", "--baseline=1"]) == 2
    assert main(["predict", str(run.folder), str(folder), f"--temporal={run.folder}", "--trust"]) == 2
    assert "expected a run of flow, or dis" in capsys.readouterr().err
