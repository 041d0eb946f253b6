"""A training without labels does not read them: not for its loss, not for its scales, and not for its student."""

import pytest
import torch

from sfumato.data import DatasetView, Scenes
from sfumato.distillation import distill
from sfumato.errors import ConfigError, DataError
from sfumato.likelihoods import Gaussian, SelfLaplace
from sfumato.runs import Config
from sfumato.tasks import Depth
from sfumato.testing import check_likelihood
from sfumato.training import fit, make_plan

CHOICES = {
    "task": "depth", "objective": "reprojection", "method": "deterministic", "epochs": 1, "batch": 2,
    "precision": "32-true", "network_args": {"widths": [4, 8], "dropout": 0.0},
}  # fmt: skip


class Relabeled(DatasetView):
    """Scenes whose depth is another one, or none."""

    def __init__(self, whole, factor):
        super().__init__(whole)
        self.factor = factor

    def __getitem__(self, index):
        sample = dict(self.whole[index])
        if not self.factor:
            return {key: value for key, value in sample.items() if key not in ("depth", "depth_valid")}
        return sample | {"depth": self.factor * sample["depth"]}


def scenes(factor=1, count=4):
    return Relabeled(Scenes(count, (32, 48), views=True), factor)


def weights(run):
    return torch.cat([p.flatten() for p in run.networks[0].parameters()])


def trained(folder, data, **choices):
    plan, train, _ = make_plan(Config(**CHOICES | choices), data, device="cpu")
    return fit(plan, train, None, folder, device="cpu", progress=False, logger="csv")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "teacher", scenes())


def test_labels_are_not_read(run, tmp_path):
    """Other labels, and none, give the same weights. A supervised training differs with its labels."""
    for factor in (0, 3):
        assert torch.equal(weights(run), weights(trained(tmp_path / f"{factor}", scenes(factor))))
    supervised = [trained(tmp_path / f"labels-{f}", scenes(f), objective="nll") for f in (1, 3)]
    assert not torch.equal(*map(weights, supervised))


def test_scales_follow_from_the_range_of_the_task(run):
    """The logarithms of 1 to 80 m have the mean log √80, and the deviation log 80 / √12 if they are spread evenly."""
    center, spread = run.facts.scales["depth"]
    assert center == pytest.approx(torch.tensor(80.0).log().item() / 2)
    assert spread == pytest.approx(torch.tensor(80.0).log().item() / 12**0.5)


def test_images_are_not_zoomed(run):
    assert run.config.scale == (1.0, 1.0)
    with pytest.raises(ConfigError, match="none of them sees a zoomed image"):
        make_plan(Config(**CHOICES, scale=(0.5, 2.0)), scenes(), device="cpu")


def test_images_of_an_objective_with_cameras_are_not_mirrored(tmp_path):
    """A mirrored frame would lose its pose, and training would end with an error that names it."""
    trained(tmp_path / "video", scenes(), objective_args={"sources": ["next"]}, batch=4)


def test_crops_keep_their_cameras(tmp_path):
    trained(tmp_path / "crops", scenes(), crop=(16, 24))


def test_missing_frames_end_with_one_line(tmp_path):
    with pytest.raises(DataError, match="no 'later'"):
        trained(tmp_path / "missing", scenes(), objective_args={"sources": ["later", "next"], "poses": "learned"})


class Standing(Relabeled):
    """Scenes whose next picture is the image."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return sample | {"next": sample["image"], "world_from_next": sample["world_from_camera"]}


def test_a_camera_that_stands_still_ends_a_training_and_not_a_validation(tmp_path):
    moving, still = scenes(), Standing(Scenes(2, (32, 48), views=True), 1)
    choices = CHOICES | {"objective_args": {"sources": ["next"], "poses": "learned"}}
    plan, train, val = make_plan(Config(**choices), moving, still, device="cpu")
    run = fit(plan, train, val, tmp_path / "run", device="cpu", progress=False, logger="csv")
    table = (tmp_path / "run" / "log" / "member-0" / "metrics.csv").read_text()
    assert "val_abs_rel" in table
    assert "val_photometric" not in table
    assert "nan" not in table
    assert len(run.networks) == 1
    plan, train, _ = make_plan(Config(**choices), still, device="cpu")
    with pytest.raises(DataError, match="the same in every sample"):
        fit(plan, train, None, tmp_path / "still", device="cpu", progress=False, logger="csv")


def test_disparity_and_flow_train_without_labels(tmp_path):
    for task in ("disparity", "flow"):
        found = trained(tmp_path / task, scenes(), task=task, network=f"{__name__}.Pairs", network_args={})
        if task == "disparity":  # from 0 to a twelfth of the width
            assert found.facts.scales[task] == pytest.approx((2.0, 4 / 12**0.5))
        else:
            assert not found.facts.scales


class Pairs(torch.nn.Module):
    """Two images to one map."""

    def __init__(self, channels_out):
        super().__init__()
        self.layer = torch.nn.Conv2d(6, channels_out, 3, padding=1)

    def forward(self, image, other):
        return self.layer(torch.cat([image, other], 1))


def test_a_student_of_one_network_learns_its_own_spread(run, tmp_path):
    """Poggi's Self: the student's target is the teacher's mean, everywhere, and no label changes it."""
    students = [
        distill(run, scenes(factor), None, tmp_path / f"{factor}", likelihood="self-laplace", epochs=2, progress=False)
        for factor in (1, 3)
    ]
    assert torch.equal(*map(weights, students))
    found = students[0].predict(scenes()[0]["image"][None])
    assert found.aleatoric.min() > 0
    assert found.epistemic.max() == 0
    assert found.aleatoric.std() > 0


def test_the_target_of_self_is_the_mean_of_the_teacher():
    task = Depth(1.0, 80.0)
    student, teacher = SelfLaplace.for_task(task), Gaussian.for_task(task)
    moments = teacher.moments(torch.randn(2, 2, 3, 4))
    target = student.distillation_target(student.teacher_statistics(moments))
    assert torch.equal(target, moments.mean)
    label = torch.full_like(target, torch.nan)
    stacked = torch.cat([label, torch.zeros_like(label), target], 1)
    output = torch.cat([target.log(), torch.zeros_like(target)], 1)
    loss = student.nll(output, stacked, torch.ones(2, 3, 4) > 0)
    assert torch.allclose(loss, torch.tensor(2.0).log() + target[:, 0].log(), atol=1e-5)  # log 2 + 0 + log y


def test_self_is_a_likelihood():
    class Alone(SelfLaplace):
        def nll(self, output, target, valid):
            return super().nll(output, torch.cat([target, torch.ones_like(target[:, :1]), target], 1), valid)

    check_likelihood(Alone(1), 1 + torch.rand(3, 1, 5, 6))
