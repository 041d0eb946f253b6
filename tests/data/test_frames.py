"""Readers of stereo pairs and videos, each on a folder in its authors' layout."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data import Video, load
from sfumato.data.cameras import Camera
from sfumato.data.frames import neighbors
from sfumato.data.motion_files import write_disparity, write_flow
from sfumato.data.survey import survey
from sfumato.errors import ConfigError, DataError, MissingFileError
from sfumato.runs import Config
from sfumato.training import make_plan

H, W = 10, 24
REAL = Path(os.environ.get("SFUMATO_DATA", "data"))


def picture(path, seed=0, size=(H, W)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3)).astype(np.uint8)).save(path)


def counts(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def disparity(path, value, unknown=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    valid = torch.ones(H, W, dtype=torch.bool)
    if unknown is not None:
        valid[unknown] = False
    write_disparity(path, torch.full((H, W), float(value)), valid)


def flow(path, x, y, unknown=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    valid = torch.ones(H, W, dtype=torch.bool)
    if unknown is not None:
        valid[unknown] = False
    vectors = torch.tensor([x, y]).view(2, 1, 1).expand(2, H, W)
    if path.suffix == ".pfm":
        from sfumato.data.motion_files import write_pfm

        write_pfm(path, torch.cat([vectors, torch.zeros(1, H, W)]).permute(1, 2, 0).numpy())
    else:
        write_flow(path, vectors, valid)


def keys(sample):
    return sample.keys() - {"name"}


def test_middlebury_of_2001_and_2003(tmp_path):
    for name, value in (("venus", 80), ("cones", 80), ("tsukuba", 80)):
        for side, file in ((0, "im2.png"), (1, "im6.ppm")):
            picture(tmp_path / name / file, side, (H, 450 if name == "cones" else W))
        stored = np.full((H, 450 if name == "cones" else W), value, np.uint8)
        stored[0, 0] = 0
        counts(tmp_path / name / "disp2.pgm", stored)
    counts(tmp_path / "venus" / "disp6.pgm", np.full((H, W), 40, np.uint8))
    data = load("middlebury", tmp_path)
    samples = {each["name"]: each for each in (data[i] for i in range(3))}
    assert [float(samples[name]["disparity"].max()) for name in ("venus", "cones", "tsukuba")] == [10, 20, 5]
    assert samples["venus"]["disparity_right"].unique().tolist() == [5]
    assert not samples["venus"]["disparity_valid"][0, 0]
    assert samples["venus"]["disparity_valid"].sum() == H * W - 1
    assert data.tasks["disparity"].maximum == 64
    assert "depth" not in data.tasks
    assert not torch.equal(samples["venus"]["image"], samples["venus"]["right"])


def test_middlebury_tsukuba_in_the_layout_of_2001(tmp_path):
    for number in (3, 4):
        picture(tmp_path / "tsukuba" / f"scene1.row3.col{number}.ppm", number)
    counts(tmp_path / "tsukuba" / "truedisp.row3.col3.pgm", np.full((H, W), 160, np.uint8))
    (sample,) = load("middlebury", tmp_path)
    assert sample["disparity"].unique().tolist() == [10]


@pytest.mark.parametrize(("width", "unit"), [(1240, 1), (620, 1 / 2), (413, 1 / 3)])
def test_middlebury_of_2005_and_2006(tmp_path, width, unit):
    for number in (1, 5):
        picture(tmp_path / "Art" / f"view{number}.png", number, (3, width))
        counts(tmp_path / "Art" / f"disp{number}.png", np.full((3, width), 60, np.uint8))
    (sample,) = load("middlebury", tmp_path)
    assert sample["disparity"].unique().tolist() == pytest.approx([60 * unit])
    assert keys(sample) == {"image", "right", *(f"disparity{a}{b}" for a in ("", "_right") for b in ("", "_valid"))}


CALIBRATION = """cam0=[40 0 10; 0 40 5; 0 0 1]
cam1=[40 0 {right}; 0 40 5; 0 0 1]
doffs={offset}
baseline=100
width=24
height=10
ndisp=20
"""


def middlebury_2014(folder, offset=2.0, truth="disp0.pfm"):
    for number in (0, 1):
        picture(folder / f"im{number}.png", number)
    disparity(folder / truth, 6.0, unknown=(0, slice(4)))
    (folder / "calib.txt").write_text(CALIBRATION.format(right=10 + offset, offset=offset))


def test_middlebury_of_2014_gives_meters(tmp_path):
    middlebury_2014(tmp_path / "Piano-perfect")
    data = load("middlebury", tmp_path)
    (sample,) = data
    assert (sample["depth"][0][sample["depth_valid"]] == 40 * 0.1 / (6 + 2)).all()
    assert torch.equal(sample["depth_valid"], sample["disparity_valid"])
    assert not sample["depth_valid"][0, :4].any()
    assert sample["intrinsics"].tolist() == [[40, 0, 10], [0, 40, 5], [0, 0, 1]]
    assert set(data.tasks) == {"disparity", "depth"}
    assert data.tasks["disparity"].maximum == 20
    assert "world_from_right" not in sample  # the two cameras differ, and samples hold one camera matrix
    middlebury_2014(tmp_path / "Piano-perfect", offset=0.0)
    assert load("middlebury", tmp_path)[0]["world_from_right"][0, 3] == pytest.approx(0.1)


def test_middlebury_third_evaluation_says_what_is_occluded(tmp_path):
    middlebury_2014(tmp_path / "trainingQ" / "Teddy", truth="disp0GT.pfm")
    mask = np.full((H, W), 255, np.uint8)
    mask[3], mask[0, :4] = 128, 0
    counts(tmp_path / "trainingQ" / "Teddy" / "mask0nocc.png", mask)
    (sample,) = load("middlebury", tmp_path)
    assert sample["name"] == "trainingQ/Teddy"
    assert sample["disparity_occluded"][3].all()
    assert sample["disparity_occluded"].sum() == W
    assert sample["disparity_valid"][3].all()


def test_size_changes_all_entries(tmp_path):
    middlebury_2014(tmp_path / "a")
    sample = load("middlebury", tmp_path, size=(H // 2, W // 2))[0]
    assert sample["disparity"].shape == (1, H // 2, W // 2)
    assert sample["disparity"].max() == 3
    assert sample["depth"].max() == pytest.approx(0.5)
    assert sample["intrinsics"][0, 0] == 20


def kitti(root, year, number="000000", calibration=True):
    left, right, all_, visible, calib = {
        2012: ("colored_0", "colored_1", "disp_occ", "disp_noc", "calib"),
        2015: ("image_2", "image_3", "disp_occ_0", "disp_noc_0", "calib_cam_to_cam"),
    }[year]
    folder = root / "training"
    picture(folder / left / f"{number}_10.png", 0)
    picture(folder / left / f"{number}_11.png", 1)
    picture(folder / right / f"{number}_10.png", 2)
    disparity(folder / all_ / f"{number}_10.png", 8, unknown=0)
    disparity(folder / visible / f"{number}_10.png", 8, unknown=slice(2))
    flow(folder / "flow_occ" / f"{number}_10.png", 3.0, -1.5, unknown=0)
    flow(folder / "flow_noc" / f"{number}_10.png", 3.0, -1.5, unknown=slice(3))
    if calibration:
        name = ("P2", "P3") if year == 2012 else ("P_rect_02", "P_rect_03")
        lines = [f"{n}: 40 0 10 {shift} 0 40 5 0 0 0 1 0" for n, shift in zip(name, (2.0, -18.0))]
        (folder / calib).mkdir(exist_ok=True)
        (folder / calib / f"{number}.txt").write_text("\n".join(["calib_time: 09-Jan-2012", *lines]))


@pytest.mark.parametrize("year", [2012, 2015])
def test_kitti(tmp_path, year):
    kitti(tmp_path, year)
    kitti(tmp_path, year, "000160")
    data = load(f"kitti{year}", tmp_path)
    assert (data.names, load(f"kitti{year}", tmp_path, "val").names) == (["000000"], ["000160"])
    assert len(load(f"kitti{year}", tmp_path, "all")) == 2
    (sample,) = data
    assert sample["disparity"].unique().tolist() == [0, 8]
    assert sample["disparity_valid"].sum() == (H - 1) * W
    assert sample["disparity_occluded"].nonzero()[:, 0].unique().tolist() == [1]
    assert sample["flow"][:, 5, 5].tolist() == [3, -1.5]
    assert sample["flow_occluded"].nonzero()[:, 0].unique().tolist() == [1, 2]
    assert (sample["depth"][0][sample["depth_valid"]] == 40 * 0.5 / 8).all()
    assert sample["world_from_right"][0, 3] == 0.5
    assert set(data.tasks) == {"disparity", "flow", "depth"}


def test_kitti_without_calibration_or_truth(tmp_path):
    kitti(tmp_path, 2015, calibration=False)
    data = load("kitti2015", tmp_path)
    assert "depth" not in data.tasks
    assert "calib_cam_to_cam" in data.lacking["depth"]
    picture(tmp_path / "testing" / "image_2" / "000000_10.png")
    picture(tmp_path / "testing" / "image_3" / "000000_10.png")
    assert keys(load("kitti2015", tmp_path, "test")[0]) == {"image", "right"}


def test_kitti_raw(tmp_path):
    for drive in ("2011_09_26_drive_0001_sync", "2011_09_26_drive_0002_sync"):
        for number in range(4):
            for camera in (2, 3):
                picture(tmp_path / "2011_09_26" / drive / f"image_0{camera}" / "data" / f"{number:010d}.png", number)
    lines = [f"P_rect_0{n}: 40 0 10 {shift} 0 40 5 0 0 0 1 0" for n, shift in ((2, 0.0), (3, -20.0))]
    source = tmp_path / "2011_09_26" / "calib_cam_to_cam.txt"
    source.write_text("\n".join(lines))
    data = load("kitti-raw", tmp_path)
    assert data.names == [f"2011_09_26_drive_0001_sync/{n:010d}" for n in (1, 2)]
    assert load("kitti-raw", tmp_path, "val").names[0].startswith("2011_09_26_drive_0002_sync")
    sample = data[0]
    expected = {"image", "right", "previous", "next", "intrinsics", "world_from_camera", "world_from_right"}
    assert keys(sample) == expected
    source.write_text("\n".join([*lines, "S_rect_02: 1.242000e+03 3.750000e+02"]))
    with pytest.raises(DataError, match=r"calib_cam_to_cam\.txt: the intrinsics are those of pictures of 375 × 1242"):
        load("kitti-raw", tmp_path)[0]
    source.write_text("\n".join([*lines, f"S_rect_02: {W} {H}"]))
    assert load("kitti-raw", tmp_path)[0]["intrinsics"][0, 0] == 40
    (tmp_path / "2011_09_26" / "2011_09_26_drive_0001_sync" / "image_02" / "data" / "0000000002.png").unlink()
    with pytest.raises(MissingFileError, match=r"between 0000000001\.png and 0000000003\.png"):
        load("kitti-raw", tmp_path)


def things(root, part, number="0006", last=False):
    below = Path(part) / "A" / "0000"
    picture(root / "frames_finalpass" / below / "left" / f"{number}.png", 0)
    picture(root / "frames_finalpass" / below / "right" / f"{number}.png", 1)
    disparity(root / "disparity" / below / "left" / f"{number}.pfm", 7)
    disparity(root / "disparity" / below / "right" / f"{number}.pfm", 9)
    flow(root / "optical_flow" / below / "into_future" / "left" / f"OpticalFlowIntoFuture_{number}_L.pfm", 1.0, 2.0)
    flow(root / "optical_flow" / below / "into_past" / "left" / f"OpticalFlowIntoPast_{number}_L.pfm", -1.0, -2.0)


def test_scene_flow(tmp_path):
    for number in ("0006", "0007"):
        things(tmp_path, "TRAIN", number)
    things(tmp_path, "TEST")
    data = load("sceneflow", tmp_path)
    assert data.names == ["TRAIN/A/0000/0006", "TRAIN/A/0000/0007"]
    assert load("sceneflow", tmp_path, "val").names == ["TEST/A/0000/0006"]
    first, last = data
    assert first["disparity"].unique().tolist() == [7]
    assert first["disparity_right"].unique().tolist() == [9]
    assert first["flow"][:, 0, 0].tolist() == [1, 2]
    assert first["flow_back"][:, 0, 0].tolist() == [-1, -2]
    assert "next" in first
    assert not {"next", "flow", "flow_back"} & last.keys()


def test_driving_has_no_split(tmp_path):
    below = "15mm_focallength/scene_forwards/fast"
    for side in ("left", "right"):
        picture(tmp_path / "frames_cleanpass_webp" / below / side / "0001.webp")
    disparity(tmp_path / "disparity" / below / "left" / "0001.pfm", 7)
    data = load("sceneflow", tmp_path)
    assert data.splits == ("train",)
    assert data.names == [f"{below}/0001"]
    assert keys(data[0]) == {"image", "right", "disparity", "disparity_valid"}


@pytest.mark.parametrize("style", ["{}_img1.ppm {}_img2.ppm {}_flow.flo", "{}-img0.ppm {}-img1.ppm {}-gt.flo"])
def test_flying_chairs(tmp_path, style):
    for number in ("00001", "00002", "00003"):
        first, second, vectors = style.replace("{}", number).split()
        picture(tmp_path / first, 0)
        picture(tmp_path / second, 1)
        flow(tmp_path / vectors, 4.0, -2.0)
    data = load("flyingchairs", tmp_path)
    assert len(data) == 3
    assert keys(data[0]) == {"image", "next", "flow", "flow_valid"}
    assert data[0]["flow"][:, 3, 3].tolist() == [4, -2]
    (tmp_path / "FlyingChairs_train_val.txt").write_text("1\n2\n1\n")
    assert load("flyingchairs", tmp_path).names == ["00001", "00003"]
    assert load("flyingchairs", tmp_path, "val").names == ["00002"]
    (tmp_path / "FlyingChairs_train_val.txt").write_text("1\n2\n")
    with pytest.raises(DataError, match="holds 2 marks, expected a 1 or a 2 for each of the 3 samples"):
        load("flyingchairs", tmp_path)


def test_sintel(tmp_path):
    root = tmp_path / "training"
    for number in (1, 2):
        for passed in ("clean", "final"):
            picture(root / passed / "alley_1" / f"frame_{number:04d}.png", number + 9 * (passed == "clean"))
    flow(root / "flow" / "alley_1" / "frame_0001.flo", 1.0, 1.0)
    hidden, unknown = np.zeros((H, W), np.uint8), np.zeros((H, W), np.uint8)
    hidden[:2], unknown[0] = 255, 255
    counts(root / "occlusions" / "alley_1" / "frame_0001.png", hidden)
    counts(root / "invalid" / "alley_1" / "frame_0001.png", unknown)
    (sample,) = load("sintel", tmp_path)
    assert sample["name"] == "alley_1/frame_0001"
    assert not sample["flow_valid"][0].any()
    assert sample["flow_valid"][1:].all()
    assert sample["flow_occluded"].nonzero()[:, 0].unique().tolist() == [1]
    assert not torch.equal(load("sintel", tmp_path, "clean")[0]["image"], sample["image"])
    (root / "final" / "alley_1" / "frame_0002.png").unlink()
    with pytest.raises(MissingFileError, match=r"frame_0002\.png does not exist"):
        load("sintel", tmp_path)


def test_middlebury_flow(tmp_path):
    picture(tmp_path / "other-data" / "Venus" / "frame10.png", 0)
    picture(tmp_path / "other-data" / "Venus" / "frame11.png", 1)
    flow(tmp_path / "other-gt-flow" / "Venus" / "flow10.flo", 1.0, 0.0, unknown=2)
    for name in ("Whale1.png", "Whale2.png"):
        picture(tmp_path / name)
    flow(tmp_path / "Whale.flo", 0.0, 1.0)
    data = load("middlebury-flow", tmp_path)
    assert data.names == ["Venus", "Whale"]
    assert not data[0]["flow_valid"][2].any()
    assert data[1]["flow"][:, 0, 0].tolist() == [0, 1]


def test_only_what_is_read_is_decoded(tmp_path):
    kitti(tmp_path, 2015)
    data = load("kitti2015", tmp_path)
    assert keys(data.providing(["image", "depth"])[0]) == {
        "image", "disparity", "disparity_valid", "disparity_occluded", "depth", "depth_valid", "intrinsics",
        "world_from_camera", "world_from_right",
    }  # fmt: skip
    (tmp_path / "training" / "image_3" / "000000_10.png").write_bytes(b"broken")
    flows = data.providing(["image", "flow"]).providing(["next"])
    assert keys(flows[0]) >= {"image", "next", "flow", "flow_valid", "flow_occluded"}
    with pytest.raises(DataError, match="not a whole image file"):
        flows.providing(["right"])[0]


def test_views_of_different_sizes(tmp_path):
    middlebury_2014(tmp_path / "a")
    picture(tmp_path / "a" / "im1.png", 1, (H, W + 1))
    with pytest.raises(DataError, match=rf"im1\.png has {H} × {W + 1} pixels but .*im0\.png has {H} × {W}"):
        load("middlebury", tmp_path)[0]


def test_intrinsics_of_another_size(tmp_path):
    middlebury_2014(tmp_path / "a")
    (tmp_path / "a" / "calib.txt").write_text(CALIBRATION.format(right=12, offset=2).replace("40 0 10", "400 0 100"))
    with pytest.raises(DataError, match=r"calib\.txt: .*the intrinsics"):
        load("middlebury", tmp_path)[0]


@pytest.mark.parametrize("row", [[0.0, 0, 10], [40, 0, -1], [40, 0, 24], [-3, 0, 10], [float("nan"), 0, 1]])
def test_intrinsics_that_fit_no_camera(row):
    good = np.array([[40.0, 0, 10], [0, 40, 5], [0, 0, 1]])
    Camera(good, size=(H, W)).check((H, W), "here")
    with pytest.raises(DataError, match=r"\Ahere: .*intrinsics"):
        Camera(np.array([row, *good[1:].tolist()])).check((H, W), "here")
    with pytest.raises(DataError, match=r"here: the intrinsics are those of pictures of 10 × 24 pixels, .* 20 × 48"):
        Camera(good, size=(H, W)).check((2 * H, 2 * W), "here")


def test_meters_need_a_baseline():
    with pytest.raises(DataError, match="meters need the distance between the two cameras"):
        Camera(np.eye(3)).depth(torch.ones(1, 2, 2), torch.ones(2, 2, dtype=torch.bool))
    depth, known = Camera(np.eye(3), 1.0, -2.0).depth(torch.tensor([[[4.0, 2.0, 1.0]]]), torch.ones(1, 3).bool())
    assert depth.tolist() == [[[0.5, 0, 0]]]
    assert known.tolist() == [[True, False, False]]


@pytest.mark.parametrize("text", ["", "cam0=[1 2]\n", "cam0=[a 0 1; 0 1 1; 0 0 1]", CALIBRATION.replace("100", "inf")])
def test_broken_calibration(tmp_path, text):
    middlebury_2014(tmp_path / "a")
    (tmp_path / "a" / "calib.txt").write_text(text.format(right=1, offset=1) if "width" in text else text)
    with pytest.raises(DataError, match=r"calib\.txt does not hold"):
        load("middlebury", tmp_path)


def test_frames_of_a_video(tmp_path):
    files = [tmp_path / f"b7-{n:03d}.png" for n in range(0, 50, 10)]
    assert neighbors(files, 2) == [(files[0], files[2], files[4])]
    assert neighbors(files[:2], 1) == []
    for broken, error in ((files[:2] + files[3:], MissingFileError), (files[::-1], DataError)):
        with pytest.raises(error):
            neighbors(broken, 1)
    with pytest.raises(ConfigError, match="gap is 0"):
        neighbors(files, 0)
    with pytest.raises(DataError, match="no number"):
        neighbors([tmp_path / "a.png"], 1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("middlebury", "im2 and im6"),
        ("middlebury-flow", "flow10.flo"),
        ("sceneflow", "frames_finalpass"),
        ("flyingchairs", "NUMBER_flow.flo"),
        ("kitti-raw", "holds no drive"),
    ],
)
def test_empty_folders(tmp_path, name, message):
    with pytest.raises(DataError, match=message):
        load(name, tmp_path)
    with pytest.raises(MissingFileError, match="is not a folder"):
        load(name, tmp_path / "none")
    with pytest.raises(ConfigError, match="name their folder with --root"):
        load(name)


@pytest.mark.parametrize("name", ["kitti2012", "kitti2015", "sintel"])
def test_empty_training_folders(tmp_path, name):
    with pytest.raises(MissingFileError, match="training is not a folder"):
        load(name, tmp_path)
    (tmp_path / "training").mkdir()
    with pytest.raises(DataError, match="holds no sample"):
        load(name, tmp_path)
    with pytest.raises(ConfigError, match="split is 'odd'"):
        load(name, tmp_path, "odd")


def test_a_missing_view(tmp_path):
    middlebury_2014(tmp_path / "a")
    (tmp_path / "a" / "im1.png").unlink()
    with pytest.raises(MissingFileError, match=r"im1\.png does not exist, which belongs to .*im0\.png"):
        load("middlebury", tmp_path)


def test_check_reads_all_of_it(tmp_path):
    kitti(tmp_path, 2015)
    found = survey("kitti2015", tmp_path)
    (train, val) = found.splits
    assert train.images == 1
    assert int(train.pixels["disparity"]) == int(train.pixels["flow"]) == (H - 1) * W
    assert found.problems == [line for line in found.problems if "in split val" in line]
    assert val.images == 0


@pytest.mark.skipif(not (REAL / "middlebury").is_dir(), reason="needs the Middlebury pairs")
def test_the_real_pairs():
    data = load("middlebury", REAL / "middlebury")
    assert data.names == ["barn2", "bull", "cones", "poster", "sawtooth", "teddy", "tsukuba", "venus"]
    teddy = data[5]
    assert teddy["disparity"].max() == 52.75
    x = torch.arange(teddy["image"].shape[2])
    place = (x - teddy["disparity"][0]).round().long()
    inside = teddy["disparity_valid"] & (place >= 0)
    there = teddy["right"].float().gather(2, place.clamp_min(0).expand(3, -1, -1))
    error = (teddy["image"] - there).abs().mean(0)[inside]
    assert error.median() < 6  # of 255; 3 times as much with the views exchanged


@pytest.mark.skipif(not (REAL / "flow").is_dir(), reason="needs the flow pairs")
def test_the_real_flow():
    whale = load("middlebury-flow", REAL / "flow")[0]
    assert whale["flow_valid"].float().mean() == pytest.approx(0.984, abs=1e-3)
    assert len(load("flyingchairs", REAL / "flow")) == 5


def test_meters_without_calibration_are_refused_before_training(tmp_path):
    for file in ("im2.png", "im6.png"):
        picture(tmp_path / "venus" / file)
    counts(tmp_path / "venus" / "disp2.png", np.full((H, W), 80, np.uint8))
    config = Config(data="middlebury", root=str(tmp_path), task="depth")
    with pytest.raises(ConfigError, match=r"middlebury has no task 'depth': not every pair has a calib\.txt"):
        make_plan(config)


def test_a_folder_of_frames(tmp_path):
    for name in ("one", "two"):
        for number in range(5):
            picture(tmp_path / name / f"{name}-{number:03d}.color.png", number)
    np.savetxt(tmp_path / "one" / "camera-intrinsics.txt", [[40, 0, 10], [0, 40, 5], [0, 0, 1]])
    for number in range(5):
        np.savetxt(tmp_path / "one" / f"one-{number:03d}.pose.txt", np.eye(4) + number * np.eye(4, k=3))
    data = Video(tmp_path, gap=2)
    assert data.names == ["one/one-002.color", "two/two-002.color"]
    first, second = data
    assert keys(second) == {"image", "previous", "next"}
    poses = [first[f"world_from_{name}"][0, 3].item() for name in ("previous", "camera", "next")]
    assert poses == [0, 2, 4]
    assert first["intrinsics"][0, 0] == 40
    assert len(load("video", tmp_path)) == 6
    (tmp_path / "two" / "two-003.color.png").unlink()
    with pytest.raises(MissingFileError, match=r"lacks frames of the video between two-002\.color\.png and two-004"):
        Video(tmp_path)
    with pytest.raises(DataError, match="expected at least 11 frames"):
        Video(tmp_path / "one", gap=5)
    for number in (9, 10, 11):
        picture(tmp_path / "three" / f"frame_{number}.png", number)
    assert Video(tmp_path / "three").names == ["frame_10"]
