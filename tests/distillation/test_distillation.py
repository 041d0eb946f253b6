import shutil
from dataclasses import replace

import pytest
import torch

from sfumato.data import DatasetView, JoinedDataset, Scenes, Textures
from sfumato.data.transforms import Augmentation
from sfumato.data.views import entries_of
from sfumato.distillation import DistillationDataset, Teacher, distill, student_plan, students_of
from sfumato.errors import ConfigError, DataError, RunError, RunExistsError
from sfumato.runs import Config, Run, build_network, task_and_likelihood
from sfumato.training import fit, make_plan, teacher_of

SMALL = {"widths": (4, 8), "dropout": 0.2}
pytestmark = pytest.mark.filterwarnings("ignore")  # what Lightning and torch tell developers; none of it is ours
TASKS = {"tasks": "classes,centers,depth", "likelihood": "categorical,l1,gaussian"}


def scenes(count=4, seed=0):
    return Scenes(count, size=(16, 24), seed=seed)


def image():
    return scenes(1, 5)[0]["image"][None]


def taught_by(folder, **choices):
    usual = {"network_args": SMALL, "epochs": 1, "batch": 2, "samples": 3}
    plan, train, _ = make_plan(Config(**{**usual, **choices}), scenes(), device="cpu")
    return fit(plan, train, None, folder, progress=False, device="cpu")


def distilled(run, folder, **how):
    return distill(run, scenes(), None, folder, progress=False, device="cpu", **how)


def teacher_for(run, **choices):
    return Teacher(run, students_of(student_plan(run, **choices)))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return taught_by(tmp_path_factory.mktemp("runs") / "teacher")


@pytest.fixture(scope="module")
def student(teacher, tmp_path_factory):
    return distilled(teacher, tmp_path_factory.mktemp("runs") / "student")


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    return taught_by(tmp_path_factory.mktemp("runs") / "joint", **TASKS)


def files(run):
    return sorted(run.folder.glob("distillation-targets/*/*.safetensors"))


def test_a_student_is_a_run_of_one_pass(student, teacher):
    again = Run.open(student.folder)
    prediction = again.predict(image())
    assert prediction.draws == 1
    assert prediction.epistemic.mean() > 0
    assert torch.equal(prediction.probs, student.predict(image()).probs)
    assert teacher_of(again).folder == teacher.folder
    assert teacher_of(teacher) is None


def test_values_are_distilled_too(tmp_path):
    teacher = taught_by(tmp_path / "teacher", task="depth")
    student = distilled(teacher, tmp_path / "student", unlabeled=scenes(2, 9))
    assert student.config.likelihood == "distilled-gaussian"
    assert student.facts.scales == teacher.facts.scales
    assert student.facts.images == 6
    assert student.predict(image()).epistemic_variance.min() > 0
    assert len(files(teacher)) == 6


def test_targets_are_the_statistics_of_the_draws(teacher):
    """Epistemic part in nats, and the mean distribution, as the teacher itself predicts them."""
    generator = torch.Generator().manual_seed(3)
    (target,) = teacher_for(teacher)(image(), generator=generator).values()
    expected = teacher.likelihood
    outputs = torch.cat(list(teacher.method().draws(image(), generator=torch.Generator().manual_seed(3))))
    probs = outputs.softmax(2)
    entropy = -(probs * probs.clamp_min(1e-30).log()).sum(2)
    mean = probs.mean(0)
    mutual = -(mean * mean.clamp_min(1e-30).log()).sum(1) - entropy.mean(0)
    assert expected.channels == 8
    torch.testing.assert_close(target[:, 0], mutual, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(target[:, 1:], mean, atol=1e-6, rtol=1e-5)


def test_targets_are_computed_once_and_read_again(student, teacher, tmp_path, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in files(teacher)}
    assert len(before) == 4
    target = teacher_for(teacher).cached_targets((scenes()[0]["image"],))["classes"]
    assert target.dtype == torch.half
    assert target.shape == (9, 16, 24)
    calls = []
    monkeypatch.setattr(Teacher, "__call__", lambda self, *inputs, generator=None: calls.append(len(inputs[0])))
    distilled(teacher, tmp_path / "again", seed=1)
    assert calls == [1]  # the one that finds out whether there is anything to learn
    assert before == {path: path.stat().st_mtime_ns for path in files(teacher)}


def test_targets_of_another_teacher_are_never_used(teacher, tmp_path):
    other = taught_by(tmp_path / "other", seed=7)
    inputs = (scenes()[0]["image"],)
    ours, theirs = teacher_for(teacher), teacher_for(other)
    assert ours.digest != theirs.digest
    assert replace(ours, samples=5).digest != ours.digest
    assert teacher_for(teacher, likelihood="dudes").digest != ours.digest
    ours.cached_targets(inputs)
    theirs.cached_targets(inputs)
    (file,) = files(other)
    stored = ours.path(inputs)
    assert stored.name == file.name
    before = stored.read_bytes()
    shutil.copy(file, stored)
    with pytest.raises(RunError, match=f"{file.name} is of another teacher.*delete"):
        ours.cached_targets(inputs)
    stored.write_bytes(before[:100])
    with pytest.raises(RunError, match=f"{file.name} is cut off.*delete it and distill again"):
        ours.cached_targets(inputs)
    stored.unlink()
    ours.cached_targets(inputs)
    assert stored.read_bytes() == before  # the same targets again


def test_void_pixels_teach_nothing_and_unlabeled_images_everywhere(teacher):
    dataset = DistillationDataset(teacher_for(teacher), scenes(), scenes(1, 9))
    known, unknown = dataset[0], dataset[4]
    assert torch.equal(known["classes_valid"], scenes()[0]["classes_valid"])
    assert torch.equal(known["classes"][0].long(), scenes()[0]["classes"])
    assert known["classes"].shape == unknown["classes"].shape == (11, 16, 24)
    assert bool(unknown["classes_valid"].all())
    assert float(known["classes"][1].min()) == 1
    assert float(unknown["classes"][:2].abs().max()) == 0
    assert list(dataset.names) == [*scenes().names, *scenes(1, 9).names]


class Bytes(DatasetView):
    """Images as 8-bit files hold them."""

    def __getitem__(self, index):
        sample = self.whole[index]
        return {**sample, "image": (255 * sample["image"]).round().byte()}


def test_unlabeled_images_have_the_type_of_the_labeled_ones(teacher):
    """One batch holds both. Bytes beside floats would count as images that are 255 times brighter."""
    texture = Textures(1, (16, 24))[0]["image"]
    floats = DistillationDataset(teacher_for(teacher), scenes(), Textures(1, (16, 24)))
    assert torch.equal(floats[4]["image"], texture.float() / 255)
    others = JoinedDataset([Textures(1, (16, 24)), scenes(1, 9)])
    whole = DistillationDataset(teacher_for(teacher), Bytes(scenes()), others, cached=False)
    assert torch.equal(whole[4]["image"], texture)
    assert whole[5]["image"].dtype == torch.uint8
    torch.testing.assert_close(whole[5]["image"].float() / 255, scenes(1, 9)[0]["image"], atol=0.5 / 255, rtol=0)
    assert all(not sample["classes"].any() and sample["classes_valid"].all() for sample in (whole[4], whole[5]))


def test_an_unlabeled_image_without_an_input_is_refused(teacher, tmp_path):
    with pytest.raises(DataError, match="has no 'image', an input of the teacher"):
        distilled(teacher, tmp_path / "none", unlabeled=[{"name": "a"}], on_the_fly=True)
    assert not (tmp_path / "none").exists()


def test_on_the_fly_stores_no_targets(tmp_path):
    teacher = taught_by(tmp_path / "teacher")
    student = distilled(teacher, tmp_path / "student", on_the_fly=True, likelihood="dudes", epochs=2)
    assert not files(teacher)
    assert student.config.likelihood == "dudes"
    assert student.predict(image()).epistemic.mean() > 0


def test_a_student_can_start_from_its_teacher(teacher):
    plan = student_plan(teacher, choices={"init_from": str(teacher.folder)})
    network = build_network(plan, task_and_likelihood(plan)[1]).state_dict()
    theirs = teacher.networks[0].state_dict()
    assert torch.equal(network["network.head.weight"][:8], theirs["network.head.weight"])
    assert all(torch.equal(network[name], value) for name, value in theirs.items() if "head" not in name)
    plan = student_plan(teacher, choices={"init_from": str(teacher.folder), "network_args": {"widths": (4, 6)}})
    with pytest.raises(RunError, match="cannot start from"):
        build_network(plan, task_and_likelihood(plan)[1])


def test_what_cannot_teach_or_learn_is_refused(teacher, student, tmp_path):
    single = replace(teacher, plan=replace(teacher.plan, config=replace(teacher.config, method="deterministic")))
    refused = tmp_path / "none"
    with pytest.raises(DataError, match="no epistemic part"):
        distilled(single, refused)
    with pytest.raises(DataError, match="draws once"):
        distilled(single, refused, likelihood="dudes")
    with pytest.raises(ConfigError, match="expected that of a student: one of distilled, distilled-probs, dudes"):
        distilled(teacher, refused, likelihood="categorical")
    with pytest.raises(RunExistsError, match="holds a run already"):
        distilled(teacher, student.folder)
    with pytest.raises(ConfigError, match="'epoch' is no choice"):
        distilled(teacher, refused, epoch=3)
    untaught = replace(teacher.plan, config=replace(teacher.config, likelihood="distilled"))
    with pytest.raises(ConfigError, match="learns from a teacher: use `sfumato distill"):
        fit(untaught, scenes(), None, refused, progress=False, device="cpu")
    assert not refused.exists()


def test_one_task_of_a_run_is_distilled(joint, tmp_path):
    view = joint.per_task["classes"]
    student = distilled(view, tmp_path / "student")
    assert student.per_task.keys() == {"classes"}
    assert student.predict(image()).total.shape == joint.predict(image())["classes"].total.shape
    assert teacher_of(student).task == view.task


def test_all_tasks_of_a_run_are_distilled_at_once(joint, tmp_path):
    """One student and one pass. The targets of all tasks are of the same draws."""
    student = distilled(joint, tmp_path / "student", unlabeled=scenes(1, 9), epochs=2)
    assert student.config.likelihood == "distilled,distilled-laplace,distilled-gaussian"
    assert student.facts.scales == joint.facts.scales
    for name, prediction in Run.open(student.folder).predict(image()).items():
        assert prediction.draws == 1
        assert prediction.epistemic.min() >= 0
        assert prediction.epistemic.mean() > 0, name
        assert teacher_of(student.per_task[name]).task == joint.per_task[name].task
    teacher = teacher_for(joint)
    targets = teacher.cached_targets((image()[0],))
    expected = joint.predict_uncalibrated(joint.method(), image())  # other dropout: similar, not equal
    assert {name: len(target) for name, target in targets.items()} == {"classes": 9, "centers": 4, "depth": 2}
    assert targets["depth"].isfinite().all()
    assert targets["classes"][1:].sum(0).sub(1).abs().max() < 5e-3
    assert targets["depth"][0].mean() == pytest.approx(float(expected["depth"].mean.mean()), rel=0.5)
    assert len(list(teacher.path((image()[0],)).parent.iterdir())) == 6


def test_stacked_targets_are_augmented_by_their_parts(joint):
    """dx of the label and of the teacher turns with a flip, and spreads do not."""
    dataset = DistillationDataset(teacher_for(joint), scenes())
    batch = {k: v[None] for k, v in dataset[0].items() if isinstance(v, torch.Tensor)}
    for seed in range(20):
        torch.manual_seed(seed)
        out = Augmentation(scale=(1, 1), color=0)(batch, entries_of(dataset))
        if not torch.equal(out["centers_valid"], batch["centers_valid"]):
            break
    before, after = batch["centers"][0].flip(-1).float(), out["centers"][0]
    known = out["centers_valid"][0]
    signs = torch.tensor([-1.0, 1, 1, -1, 1, 1, 1])[:, None]
    assert known.any()
    torch.testing.assert_close(after[:, known], signs * before[:, known])


@pytest.mark.parametrize(
    ("likelihood", "message"),
    [("distilled", "one for each of classes,centers,depth"), ("distilled,l1,l1", "expected that of a student")],
)
def test_students_of_several_tasks_are_named_one_by_one(joint, tmp_path, likelihood, message):
    with pytest.raises(ConfigError, match=message):
        distilled(joint, tmp_path / "student", likelihood=likelihood)
