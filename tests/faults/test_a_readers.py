"""Every reader of images and targets has limits, and what it reads is right or refused."""

import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data.images import PICTURES, read_image
from sfumato.data.stored import read_channel
from sfumato.data.target_files import TARGETS, read_classes, read_probabilities
from sfumato.errors import DataError

GRAY = np.array([[0, 51, 255], [102, 153, 204]], np.uint8)


def bomb(path, side):
    """A small PNG whose header says that it has side × side pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    content = zlib.compress(bytes(1000), 9)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("side", [12_000, 60_000])  # the second is above the limit of Pillow too
@pytest.mark.parametrize("read", [read_image, read_channel])
def test_too_many_pixels_are_refused_from_the_header(tmp_path, side, read):
    path = bomb(tmp_path / "a.png", side)
    with pytest.raises(DataError, match=rf"a\.png has {side} × {side} pixels, more than 64 .*\(max_megapixels"):
        read(path)


def test_an_array_whose_header_asks_for_memory_is_refused(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((2, 2), np.uint8))
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"(2, 2)", b"(99999, 99999)").replace(b" " * 8 + b"\n", b"\n"))
    with pytest.raises(DataError, match=r"a\.npy is not a whole \.npy file"):
        read_channel(path)
    np.save(path, np.zeros((9000, 9000), np.uint8))
    with pytest.raises(DataError, match="9000 × 9000 pixels, more than 64"):
        read_channel(path)


def test_an_archive_of_arrays_is_no_target(tmp_path):
    np.savez(tmp_path / "a.npz", x=GRAY)
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(DataError, match="an archive"):
        read_channel(tmp_path / "a.npy")


def test_the_limit_can_be_raised_above_that_of_pillow(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)  # Pillow refuses more than twice as many
    Image.fromarray(GRAY).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", max_pixels=6).shape == (3, 2, 3)
    assert Image.MAX_IMAGE_PIXELS == 1
    with pytest.raises(DataError, match="more than 5e-06 megapixels"):
        read_image(tmp_path / "a.png", max_pixels=5)


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.npy"])
def test_a_pipe_is_refused_at_once(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=rf"{name} is a folder, a pipe or a device"):
        read_classes(tmp_path / name, {0: 0})
    with pytest.raises(DataError, match=rf"{name} is a folder, a pipe or a device"):
        read_probabilities(tmp_path / name, 2)


def test_gif_is_read_as_image_and_as_target():
    assert ".gif" in PICTURES
    assert ".gif" in TARGETS


def test_of_an_animation_the_first_frame_is_read(tmp_path):
    frames = [Image.fromarray(GRAY), Image.fromarray(255 - GRAY)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert torch.equal(read_image(tmp_path / "a.gif")[0], torch.tensor(GRAY))


def test_one_bit_per_pixel(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(GRAY > 100).save(path)
    with Image.open(path) as stored:
        assert stored.mode == "1"
    assert read_image(path)[0].tolist() == [[0, 0, 255], [255, 255, 255]]
    assert read_classes(path, {0: 0, 1: 1})[0].tolist() == [[0, 0, 1], [1, 1, 1]]


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_sixteen_bits_of_both_byte_orders(tmp_path, order):
    values = np.array([[0, 257, 65535]], order)
    Image.frombytes("I;16B" if order == ">u2" else "I;16", (3, 1), values.tobytes()).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[0].tolist() == [pytest.approx([0, 1 / 255, 1])]
    assert read_channel(tmp_path / "a.tif").tolist() == [[0, 257, 65535]]


def test_other_color_modes_are_converted(tmp_path):
    Image.fromarray(np.full((2, 2, 3), 128, np.uint8)).convert("YCbCr").save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif").unique().tolist() == [128]


def test_a_gray_gif_holds_the_gray_values_whatever_the_order_of_its_palette(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 255, 255, 0, 0, 0])  # index 0 is white
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "a.gif")
    assert read_channel(tmp_path / "a.gif").tolist() == [[255, 0]]


def test_no_other_program_is_run_for_a_format(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")  # Pillow calls Ghostscript
    with pytest.raises(DataError, match="cannot identify"):
        read_image(path)
