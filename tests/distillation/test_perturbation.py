"""The teacher is asked about the perturbed image, and labels stay with their pixels."""

import pytest
import torch

from sfumato.data import Scenes, Textures
from sfumato.distillation import Perturbation, Teacher, distill, perturbation, student_plan, students_of
from sfumato.errors import ConfigError
from sfumato.runs import Config
from sfumato.targets import ENTRIES, Image, ImageValue, ScalarMap, Stacked
from sfumato.training import fit, make_plan

pytestmark = pytest.mark.filterwarnings("ignore")  # what Lightning and torch tell developers; none of it is ours
STACKED = {**ENTRIES, "classes": Stacked(((ScalarMap(), 1), (ScalarMap(), 1)))}


def scenes(count=4):
    return Scenes(count, size=(16, 24))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    config = Config(network_args={"widths": (4, 8), "dropout": 0.2}, epochs=1, batch=2, samples=3)
    plan, train, _ = make_plan(config, scenes(), device="cpu")
    return fit(plan, train, None, tmp_path_factory.mktemp("runs") / "teacher", progress=False, device="cpu")


def numbered(count=6, size=(20, 30)):
    """Images whose gray, label, flag and mask say which image they are of."""
    numbers = torch.arange(count).view(-1, 1, 1)
    return {
        "image": (numbers / 10).expand(-1, *size)[:, None].repeat(1, 3, 1, 1),
        "classes": torch.stack([numbers.expand(-1, *size), (numbers < 3).expand(-1, *size)], 1).float(),
        "classes_valid": (numbers % 2 > 0).expand(-1, *size).clone(),
    }


def perturbed(batch, seed=0, share=1.0, entries=STACKED):
    torch.manual_seed(seed)
    return Perturbation(share)(batch, entries)


def test_pasted_pixels_bring_their_label_flag_and_mask(monkeypatch):
    monkeypatch.setattr(perturbation, "_recolor", lambda image, *_: image)
    monkeypatch.setattr(perturbation, "NOISE", (1e-9, 1e-9))
    batch, found = numbered(), perturbed(numbered())
    source = found["classes"][:, 0]
    torch.testing.assert_close(found["image"], source[:, None].expand(-1, 3, -1, -1) / 10)
    assert torch.equal(found["classes"][:, 1], (source < 3).float())
    assert torch.equal(found["classes_valid"], source % 2 > 0)
    pasted = source != batch["classes"][:, 0]
    assert 0 < pasted.flatten(1).any(1).sum() < 6
    for each in pasted[pasted.flatten(1).any(1)]:
        rows, columns = each.any(1), each.any(0)
        assert torch.equal(each, rows[:, None] & columns)
        assert 20 / 4 - 1 <= rows.sum() <= 15
        assert 30 / 4 - 1 <= columns.sum() <= 23


def test_a_seed_determines_the_batch_which_is_not_changed():
    batch = {**numbered(), "image": torch.rand(6, 3, 20, 30), "depth": torch.rand(6, 1, 20, 30)}
    before = {key: value.clone() for key, value in batch.items()}
    first, second, other = perturbed(batch), perturbed(batch), perturbed(batch, seed=1)
    assert all(torch.equal(batch[key], before[key]) for key in batch)
    assert all(torch.equal(first[key], second[key]) for key in batch)
    assert not torch.equal(first["image"], other["image"])
    assert first["image"].min() >= 0
    assert first["image"].max() <= 1
    assert {key: value.dtype for key, value in first.items()} == {key: value.dtype for key, value in batch.items()}


def test_a_share_of_the_images_is_changed():
    batch = {"image": torch.rand(400, 3, 4, 6)}
    unchanged = [int((perturbed(batch, share=s)["image"] == batch["image"]).flatten(1).all(1).sum()) for s in (0, 0.5)]
    assert unchanged[0] == 400
    assert 170 < unchanged[1] < 260  # a half, and a sixteenth of the others, to which nothing happens
    with pytest.raises(ConfigError, match=r"share is 1\.5, expected a probability"):
        Perturbation(1.5)


def test_each_image_has_a_blur_of_its_own():
    image = torch.zeros(2, 1, 41, 61)
    image[:, :, 20, 30] = 1.0
    blurred = perturbation._blur(image, torch.tensor([0.8, 1.2]))
    torch.testing.assert_close(blurred.sum((1, 2, 3)), torch.ones(2))
    place = torch.arange(61) - 30
    variance = (blurred.sum(2)[:, 0] * place**2).sum(1)
    torch.testing.assert_close(variance, torch.tensor([0.64, 1.44]), atol=0.03, rtol=0)


def test_nothing_is_pasted_where_a_target_belongs_to_the_image():
    batch = {"image": torch.rand(8, 3, 9, 9), "speed": torch.arange(8.0)[:, None]}
    plain, whole = (perturbed(batch, entries={"image": Image(), **more}) for more in ({}, {"speed": ImageValue()}))
    assert torch.equal(whole["speed"], batch["speed"])
    different = (plain["image"] != whole["image"]).flatten(1).any(1)
    assert different.any()  # CutMix, which only the images without a speed have
    alone = {key: value[:1] for key, value in numbered().items()}
    assert torch.equal(perturbed(alone, seed=3)["classes"], alone["classes"])


def test_targets_are_those_of_the_perturbed_image(teacher, tmp_path, monkeypatch):
    """They are what the teacher says about the image in the batch that the student sees."""
    batches = []
    add = Teacher.add_targets

    def watched(self, batch):
        seed = torch.random.get_rng_state()
        found = add(self, batch)
        torch.random.set_rng_state(seed)
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        batches.append((found, self(found["image"], generator=generator)["classes"]))
        return found

    monkeypatch.setattr(Teacher, "add_targets", watched)
    distill(
        teacher, scenes(), None, tmp_path / "student", perturb=1.0, epochs=2, progress=False, device="cpu",
        unlabeled=Textures(2, (16, 24)),
    )  # fmt: skip
    assert len(batches) == 6
    for batch, expected in batches:
        torch.testing.assert_close(batch["classes"][:, 2:], expected)
        unlabeled = batch["classes"][:, 1] == 0
        assert batch["classes_valid"][unlabeled & ~_outside(batch)].all()
    assert not list(teacher.folder.glob("distillation-targets/*/*"))  # none is stored


def _outside(batch):
    """Pixels beyond the border of the zoomed image, where label and flag are 0 too."""
    return ~batch["classes_valid"] & (batch["classes"][:, 0] == 0)


def test_an_interrupted_distillation_ends_at_the_same_weights(teacher, tmp_path, monkeypatch):
    def student(name, **how):
        how = {"perturb": 0.5, "unlabeled": Textures(2, (16, 24)), "epochs": 3, **how}
        return distill(teacher, scenes(), None, tmp_path / name, progress=False, device="cpu", **how)

    whole, steps, call = student("whole"), [], Perturbation.__call__

    def stopping(self, batch, entries):
        steps.append(0)
        if len(steps) == 5:
            raise KeyboardInterrupt
        return call(self, batch, entries)

    with monkeypatch.context() as patch:
        patch.setattr(Perturbation, "__call__", stopping)
        with pytest.raises(KeyboardInterrupt):
            student("stopped")
    resumed = student("stopped", resume=True)
    ours, theirs = (run.networks[0].state_dict() for run in (resumed, whole))
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, atol=1e-6, rtol=0)


def test_a_wrong_share_is_refused_before_anything_is_written(teacher, tmp_path):
    with pytest.raises(ConfigError, match="share is 2"):
        distill(teacher, scenes(), None, tmp_path / "student", perturb=2)
    assert not (tmp_path / "student").exists()
    assert students_of(student_plan(teacher))
