"""Files of disparities and of optical flow, against files that are written byte by byte, and OpenCV's."""

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data.motion_files import read_disparity, read_flow, read_pfm, write_disparity, write_flow, write_pfm
from sfumato.errors import DataError, MissingFileError


def test_a_pfm_begins_at_the_bottom(tmp_path):
    path = tmp_path / "a.pfm"
    path.write_bytes(b"Pf\n3 2\n-1.0\n" + np.arange(6, dtype="<f4").tobytes())
    assert read_pfm(path).tolist() == [[3, 4, 5], [0, 1, 2]]
    path.write_bytes(b"PF 2 1 1\n" + np.arange(6, dtype=">f4").tobytes())  # big-endian, three channels
    assert read_pfm(path).tolist() == [[[0, 1, 2], [3, 4, 5]]]
    values = np.random.default_rng(0).normal(size=(4, 3, 3)).astype(np.float32)
    write_pfm(path, values)
    assert np.array_equal(read_pfm(path), values)


def test_opencv_reads_the_same_pfm(tmp_path):
    cv2 = pytest.importorskip("cv2")
    values = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    write_pfm(tmp_path / "a.pfm", values)
    assert np.array_equal(cv2.imread(str(tmp_path / "a.pfm"), cv2.IMREAD_UNCHANGED), values)
    cv2.imwrite(str(tmp_path / "b.pfm"), values)
    assert np.array_equal(read_pfm(tmp_path / "b.pfm"), values)


def test_unknown_disparities_are_not_valid(tmp_path):
    write_pfm(tmp_path / "a.pfm", np.array([[1.5, 0, np.inf, np.nan, -3]], np.float32))
    Image.fromarray(np.array([[384, 0, 0, 0, 0]], np.uint16)).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", np.array([[1.5, 0, -1, np.inf, -np.inf]]))
    for name in ("a.pfm", "a.png", "a.npy"):
        disparity, valid = read_disparity(tmp_path / name, shape=(1, 5))
        assert disparity.tolist() == [[[1.5, 0, 0, 0, 0]]], name
        assert valid.tolist() == [[True, False, False, False, False]], name


def test_bytes_have_a_unit_and_may_be_saved_as_color(tmp_path):
    gray = np.array([[8, 0, 255]], np.uint8)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    Image.fromarray(gray).convert("RGB").save(tmp_path / "color.png")
    for name in ("gray.png", "color.png"):
        assert read_disparity(tmp_path / name, 1 / 8)[0].tolist() == [[[1, 0, 31.875]]]
    assert read_disparity(tmp_path / "gray.png")[0].tolist() == [[[8, 0, 255]]]


def test_a_flo_says_with_large_numbers_what_is_unknown(tmp_path):
    path = tmp_path / "a.flo"
    values = np.array([[[1, 2], [3, 4], [2e9, 0]], [[-1, -2], [0, 0], [5, np.nan]]], "<f4")
    path.write_bytes(np.float32(202021.25).tobytes() + np.array([3, 2], "<i4").tobytes() + values.tobytes())
    flow, valid = read_flow(path, (2, 3))
    assert valid.tolist() == [[True, True, False], [True, True, False]]
    assert flow.tolist() == [[[1, 3, 0], [-1, 0, 0]], [[2, 4, 0], [-2, 0, 0]]]


@pytest.mark.parametrize("name", ["a.flo", "a.png", "a.npy"])
def test_flow_is_read_as_it_was_written(tmp_path, name):
    torch.manual_seed(0)
    flow, valid = (torch.randn(2, 6, 5) * 100).mul(64).round().div(64), torch.rand(6, 5) > 0.3
    if name == "a.npy":
        np.save(tmp_path / name, flow.where(valid, torch.nan).numpy())
    else:
        write_flow(tmp_path / name, flow, valid)
    found, known = read_flow(tmp_path / name, (6, 5))
    assert torch.equal(known, valid)
    assert torch.equal(found, flow.where(valid, 0))


@pytest.mark.parametrize("name", ["a.pfm", "a.png"])
def test_disparity_is_read_as_it_was_written(tmp_path, name):
    torch.manual_seed(0)
    disparity, valid = (torch.rand(1, 6, 5) * 250 + 1).mul(256).round().div(256), torch.rand(6, 5) > 0.3
    write_disparity(tmp_path / name, disparity, valid)
    found, known = read_disparity(tmp_path / name, shape=(6, 5))
    assert torch.equal(known, valid)
    assert torch.equal(found, disparity.where(valid, 0))


def test_opencv_writes_the_flow_of_kitti(tmp_path):
    cv2 = pytest.importorskip("cv2")
    stored = np.zeros((1, 2, 3), np.uint16)
    stored[0, 0] = (1, (1 << 15) + 64, (1 << 15) - 128)  # blue is valid, green is v, red is u
    cv2.imwrite(str(tmp_path / "a.png"), stored)
    flow, valid = read_flow(tmp_path / "a.png")
    assert valid.tolist() == [[True, False]]
    assert flow.tolist() == [[[-2, 0]], [[1, 0]]]


def test_a_known_disparity_of_0_is_not_lost(tmp_path):
    write_disparity(tmp_path / "a.png", torch.tensor([[0.0, 3.0]]))
    assert read_disparity(tmp_path / "a.png")[1].all()


def flo(width, height, numbers):
    return b"PIEH" + np.array([width, height], "<i4").tobytes() + np.zeros(numbers, "<f4").tobytes()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pfm", b"", "is no PFM"),
        ("a.pfm", b"P5\n2 2\n255\n1234", "is no PFM"),
        ("a.pfm", b"Pf\n2 2\n0\n" + bytes(16), "is no PFM"),
        ("a.pfm", b"Pf\n2 2\n-1.0\n" + bytes(15), "does not hold the 2 × 2 values"),
        ("a.pfm", b"Pf\n2 2\n-1.0\n" + bytes(20), "does not hold the 2 × 2 values"),
        ("a.pfm", b"Pf\n99999 99999\n-1.0\n", "more than 64 megapixels"),
        ("a.pfm", b"PF\n1 1\n-1.0\n" + bytes(12), "3 channels, expected one: is it optical flow"),
        ("a.png", b"\x89PNG\r\n\x1a\n", "is not a whole image file"),
        ("a.flo", flo(2, 2, 8), "expected one"),
    ],
)
def test_broken_disparities(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    if name == "a.flo":
        with pytest.raises(DataError, match="is not a whole image file"):
            read_disparity(tmp_path / name)
        return
    with pytest.raises(DataError, match=message) as caught:
        read_disparity(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.flo", b"", "is no .flo"),
        ("a.flo", b"HEIP" + bytes(20), "is no .flo"),
        ("a.flo", flo(2, 2, 7), "does not hold the 2 × 2 values"),
        ("a.flo", flo(2, 2, 9), "does not hold the 2 × 2 values"),
        ("a.flo", flo(-1, 2, 0), "expected at least 1: copy"),
        ("a.flo", flo(1 << 20, 1 << 20, 0), "more than 64 megapixels"),
        ("a.pfm", b"Pf\n1 1\n-1.0\n" + bytes(4), "one channel, expected two or three"),
        ("a.png", b"\x89PNG\r\n\x1a\n" + bytes(20), "no PNG with three channels of 16 bits"),
        ("a.jpg", b"", "does not end in .flo"),
    ],
)
def test_broken_flow(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_flow(tmp_path / name)


def test_a_cut_off_png_of_flow(tmp_path):
    write_flow(tmp_path / "a.png", torch.randn(2, 40, 40))
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[:60])
    with pytest.raises(DataError, match="is not a whole PNG file"):
        read_flow(tmp_path / "a.png")


def test_other_mistakes(tmp_path):
    for read in (read_disparity, read_flow, read_pfm):
        with pytest.raises(MissingFileError, match="does not exist"):
            read(tmp_path / "none.pfm")
    write_pfm(tmp_path / "a.pfm", np.full((2, 3), -4, np.float32))
    with pytest.raises(DataError, match="mostly negative disparities"):
        read_disparity(tmp_path / "a.pfm")
    write_disparity(tmp_path / "a.pfm", torch.ones(2, 3))
    with pytest.raises(DataError, match=r"2 × 3 pixels but its image has 3 × 2"):
        read_disparity(tmp_path / "a.pfm", shape=(3, 2))
    with pytest.raises(DataError, match="unit is -1"):
        read_disparity(tmp_path / "a.pfm", -1)
    with pytest.raises(DataError, match="cannot hold disparities"):
        write_disparity(tmp_path / "a.png", torch.full((2, 2), 256.0))
    with pytest.raises(DataError, match="cannot hold vectors"):
        write_flow(tmp_path / "a.png", torch.full((2, 2, 2), 513.0))
    for write, values in ((write_disparity, torch.ones(1, 2, 2)), (write_flow, torch.ones(2, 2, 2))):
        with pytest.raises(DataError, match="does not end in"):
            write(tmp_path / "a.tif", values)
