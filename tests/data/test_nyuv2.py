"""NYUv2's own files, MATLAB 7.3 and older: small ones made here."""

import sys

import numpy as np
import pytest
import torch

from sfumato.data import NYUv2, SelectedDataset, load
from sfumato.data.nyuv2 import FILE, MAPPING, SPLITS
from sfumato.errors import MissingDependencyError

h5py = pytest.importorskip("h5py")
io = pytest.importorskip("scipy.io")

H, W, N = 4, 6, 5
# Two chairs (label 2) and a table (label 4), counted from 1 for each label; a wall (1); a lamp (3); no label.
LABELS = np.array([
    [1, 1, 1, 1, 1, 1],
    [2, 2, 4, 4, 2, 0],
    [2, 2, 4, 4, 2, 0],
    [3, 1, 1, 1, 1, 1],
])  # fmt: skip
INSTANCES = np.array([
    [1, 1, 1, 1, 1, 1],
    [1, 1, 1, 1, 2, 0],
    [1, 1, 1, 1, 2, 0],
    [1, 1, 1, 1, 1, 1],
])  # fmt: skip
DEPTHS = np.linspace(0.4, 10.6, H * W, dtype=np.float32).reshape(H, W)
IMAGES = np.random.default_rng(0).integers(0, 256, (N, H, W, 3), np.uint8)
NAMES = ("wall", "chair", "otherprop")


@pytest.fixture
def root(tmp_path):
    """MATLAB writes columns first, so its (H, W, 3, N) is (N, 3, W, H) here; cells of text are references."""
    with h5py.File(tmp_path / FILE, "w") as file:
        file["images"] = IMAGES.transpose(0, 3, 2, 1)
        file["depths"] = np.stack([DEPTHS.T] * N)
        file["labels"] = np.stack([LABELS.T.astype(np.uint16)] * N)
        file["instances"] = np.stack([INSTANCES.T.astype(np.uint8)] * N)
        refs = []
        for i, name in enumerate(("wall", "chair", "lamp", "table")):
            file[f"#refs#/{i}"] = np.array([[ord(c)] for c in name], np.uint16)
            refs.append(file[f"#refs#/{i}"].ref)
        file.create_dataset("names", data=np.array([refs], dtype=h5py.ref_dtype), dtype=h5py.ref_dtype)
    io.savemat(tmp_path / SPLITS, {"trainNdxs": np.array([[2], [4], [5]]), "testNdxs": np.array([[1], [3]])})
    cells = np.empty((1, len(NAMES)), object)
    cells[0] = NAMES
    io.savemat(tmp_path / MAPPING, {"mapClass": np.array([[1, 2, 3, 2]], np.uint8), "className": cells})
    return tmp_path


def refused(kind, name, remedy):
    """Expects one line that names the file and the remedy."""
    return pytest.raises(kind, match=rf"\A[^\n]*{name}[^\n]*{remedy}[^\n]*\Z")


def rewrite(root, **maps):
    with h5py.File(root / FILE, "a") as file:
        for name, values in maps.items():
            del file[name]
            if values is not None:
                file[name] = values


def test_official_split(root):
    assert [NYUv2(root)[i]["name"] for i in range(3)] == ["0002", "0004", "0005"]
    for split in ("val", "test"):
        assert [sample["name"] for sample in (load("nyuv2", root, split)[i] for i in (0, 1))] == ["0001", "0003"]


def test_axes_and_units(root):
    sample = NYUv2(root)[1]  # number 4
    assert torch.equal(sample["image"], torch.tensor(IMAGES[3]).permute(2, 0, 1))
    valid = (DEPTHS >= 0.5) & (DEPTHS <= 10)
    assert np.array_equal(sample["depth_valid"], valid)
    assert torch.equal(sample["depth"][0], torch.tensor(np.where(valid, DEPTHS, 0)))
    assert sample["depth"].dtype == torch.float32
    assert torch.allclose((sample["inverse_depth"] * sample["depth"])[0], sample["depth_valid"].float())


def test_classes_by_the_mapping(root):
    data = NYUv2(root)
    assert data.tasks["classes"].names == NAMES
    assert data.things == (1, 2)
    assert list(data.tasks) == ["classes", "depth", "inverse_depth", "centers"]
    sample = data[0]
    assert np.array_equal(sample["classes_valid"], LABELS > 0)
    assert np.array_equal(sample["classes"], np.array([0, 0, 1, 2, 1])[LABELS])


def test_instances_that_share_a_number_are_told_apart(root):
    sample = NYUv2(root)[0]
    ids = sample["instances"]
    parts = [ids[1:3, :2], ids[1:3, 2:4], ids[1:3, 4], ids[3, 0]]  # chair, table, chair, lamp
    assert all(len(part.unique()) == 1 for part in parts)
    assert len({int(part.flatten()[0]) for part in parts} - {0}) == 4
    assert (ids[0] == 0).all()  # the wall is no thing
    assert torch.equal(sample["centers_valid"], ids > 0)
    assert sample["centers"][:, 1, 0].tolist() == [0.5, 0.5]
    assert sample["centers"][:, 3, 0].tolist() == [0, 0]


def test_size(root):
    full, small = NYUv2(root)[0], NYUv2(root, size=(2, 3))[0]
    assert small["image"].shape == (3, 2, 3)
    assert small["instances"].shape == small["depth_valid"].shape == small["centers"].shape[1:] == (2, 3)
    assert small["intrinsics"][0, 0] == pytest.approx(full["intrinsics"][0, 0] / 2)


def test_without_the_mapping_there_is_depth(root):
    (root / MAPPING).unlink()
    data = NYUv2(root)
    assert list(data.tasks) == ["depth", "inverse_depth"]
    assert "classes" not in data[0]


def test_read_by_worker_processes(root):
    loader = torch.utils.data.DataLoader(NYUv2(root), batch_size=3, num_workers=1)
    assert next(iter(loader))["name"] == ["0002", "0004", "0005"]


@pytest.mark.parametrize("task", ["classes", "depth", "inverse_depth", "centers"])
def test_what_training_of_a_task_reads(root, task):
    data = NYUv2(root)
    sample = SelectedDataset(data, data.inputs, [data.tasks[task]])[0]
    assert sample.keys() == {"name", "image", task, f"{task}_valid"}
    assert torch.equal(sample[f"{task}_valid"], data[0][f"{task}_valid"])


def test_names_and_files_are_known_without_reading(root):
    data = NYUv2(root)
    assert list(data.names) == [sample["name"] for sample in (data[i] for i in range(len(data)))]
    assert all(path.is_file() for path in data.files(0))


def test_missing(root):
    with pytest.raises(ValueError, match=r"split is 'dev', expected one of \['train', 'val', 'test'\]"):
        NYUv2(root, "dev")
    with refused(FileNotFoundError, FILE, "download it from http"):
        NYUv2(root / "nowhere")
    (root / SPLITS).unlink()
    with refused(FileNotFoundError, SPLITS, "download it from http"):
        NYUv2(root)


@pytest.mark.parametrize("name", [FILE, SPLITS, MAPPING])
@pytest.mark.parametrize("keep", [0, 200])
def test_truncated(root, name, keep):
    (root / name).write_bytes((root / name).read_bytes()[:keep])
    with refused(ValueError, name, "download it again from http"):
        NYUv2(root)


def test_another_file(root):
    rewrite(root, instances=None)
    with refused(ValueError, FILE, "lacks instances: download it again"):
        NYUv2(root)
    io.savemat(root / FILE, {"images": 1})
    with refused(ValueError, FILE, "not a whole MATLAB 7.3 file"):
        NYUv2(root)


def test_sizes_differ(root):
    rewrite(root, labels=np.zeros((N, W, H + 1), np.uint16))
    with refused(ValueError, FILE, r"expected images \(N, 3, W, H\)"):
        NYUv2(root)


def test_numbers_and_labels_that_do_not_exist(root):
    rewrite(root, labels=np.full((N, W, H), 5, np.uint16))
    with refused(ValueError, FILE, f"holds label 5, but {MAPPING} ends at 4"):
        NYUv2(root)[0]
    io.savemat(root / SPLITS, {"trainNdxs": [[0], [1]]})
    with refused(ValueError, SPLITS, "names images other than 1 to 5"):
        NYUv2(root)
    io.savemat(root / SPLITS, {"other": [[1]]})
    with refused(ValueError, SPLITS, "does not hold trainNdxs"):
        NYUv2(root)


def test_missing_library(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingDependencyError, match=r"h5py.*pip install 'sfumato\[data\]'"):
        NYUv2(root)
