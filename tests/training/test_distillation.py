import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sfumato.cli import main
from sfumato.data import Scenes
from sfumato.likelihoods import DistilledClasses
from sfumato.training import (
    Plan,
    Run,
    Taught,
    Teacher,
    derive,
    distil,
    evaluate,
    fit,
    predict_image,
    subset,
    teacher_of,
)

SMALL = {"widths": (4, 8), "dropout": 0.2}
pytestmark = pytest.mark.filterwarnings("ignore")  # what Lightning and torch tell developers; none of it is ours


def scenes(count=4, seed=0):
    return Scenes(count, size=(16, 24), seed=seed)


def taught_by(folder, task="classes", **choices):
    train = scenes()
    known = Plan(
        data="scenes", task=task, task_args=vars(train.tasks[task]), original_size=(16, 24), members=1, network_args=SMALL,
        epochs=1, batch=2, samples=3, likelihood=train.tasks[task].likelihoods[0], **choices,
    )  # fmt: skip
    known = derive(subset(train, train.tasks[task]), train.tasks[task], known)
    return fit(known, train, None, folder, progress=False)


def distilled(run, folder, **how):
    return distil(run, scenes(), None, folder, progress=False, **how)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return taught_by(tmp_path_factory.mktemp("runs") / "teacher")


@pytest.fixture(scope="module")
def student(teacher, tmp_path_factory):
    return distilled(teacher, tmp_path_factory.mktemp("runs") / "student")


def files(run):
    return sorted(run.folder.glob("lessons/*/*.safetensors"))


def test_a_student_is_a_run_of_one_pass(student, teacher):
    again = Run.open(student.folder)
    image = scenes(1, 5)[0]["image"]
    prediction = predict_image(again, image)
    assert prediction.draws == 1
    assert prediction.epistemic.mean() > 0
    assert torch.equal(prediction.probs, predict_image(student, image).probs)
    assert teacher_of(again).folder == teacher.folder
    assert evaluate(student, scenes(2, 1), progress=False).scores.compute()["nll"].isfinite()


def test_values_are_distilled_too(tmp_path):
    teacher = taught_by(tmp_path / "teacher", "depth", method="mc-dropout")
    student = distilled(teacher, tmp_path / "student", unlabeled=scenes(2, 9))
    assert student.plan.likelihood == "distilled-gaussian"
    prediction = predict_image(student, scenes(1, 5)[0]["image"])
    assert prediction.epistemic_variance.min() > 0
    assert len(files(teacher)) == 6


def test_lessons_are_given_once_and_read_again(student, teacher, tmp_path, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in files(teacher)}
    assert len(before) == 4
    lesson = Teacher(teacher, DistilledClasses(8)).distillation_target(scenes()[0]["image"])["classes"]
    assert lesson.dtype == torch.half
    assert lesson.shape == (9, 16, 24)
    calls = []
    monkeypatch.setattr(Teacher, "__call__", lambda self, images, generator=None: calls.append(len(images)))
    distilled(teacher, tmp_path / "again", seed=1)
    assert calls == [1]  # the one that finds out whether there is anything to teach
    assert before == {path: path.stat().st_mtime_ns for path in files(teacher)}


def test_lessons_of_another_teacher_are_never_used(teacher, tmp_path):
    other = taught_by(tmp_path / "other", seed=7)
    student = DistilledClasses(8)
    image = scenes()[0]["image"]
    ours, theirs = (Teacher(run, student) for run in (teacher, other))
    assert ours.digest != theirs.digest
    assert Teacher(teacher, student, samples=5).digest != ours.digest
    assert Teacher(teacher, DistilledClasses(8, published=True)).digest != ours.digest
    theirs.distillation_target(image)
    (file,) = files(other)
    kept = teacher.folder / "lessons" / ours.digest[:16] / file.name
    before = kept.read_bytes()
    shutil.copy(file, kept)
    with pytest.raises(ValueError, match=f"{file.name} is of another teacher.*delete"):
        ours.distillation_target(image)
    kept.write_bytes(before[:100])
    with pytest.raises(ValueError, match=f"{file.name} is cut off.*delete it and distil again"):
        ours.distillation_target(image)
    kept.unlink()
    ours.distillation_target(image)
    assert kept.read_bytes() == before  # the same lesson again


def test_void_pixels_teach_nothing_and_unlabeled_images_everywhere(teacher):
    taught = Taught(Teacher(teacher, DistilledClasses(8)), scenes(), scenes(1, 9), kept=True)
    known, unknown = taught[0], taught[4]
    assert torch.equal(known["classes_valid"], scenes()[0]["classes_valid"])
    assert torch.equal(known["classes"][0].long(), scenes()[0]["classes"])
    assert known["classes"].shape == unknown["classes"].shape == (11, 16, 24)
    assert bool(unknown["classes_valid"].all())
    assert float(known["classes"][1].min()) == 1
    assert float(unknown["classes"][:2].abs().max()) == 0


def test_on_the_fly_keeps_no_lessons(tmp_path):
    teacher = taught_by(tmp_path / "teacher")
    student = distilled(teacher, tmp_path / "student", on_the_fly=True, likelihood="dudes", epochs=2)
    assert not files(teacher)
    assert student.plan.likelihood == "dudes"
    assert predict_image(student, scenes(1, 5)[0]["image"]).epistemic.mean() > 0


def test_a_student_can_start_from_its_teacher(teacher, tmp_path):
    plan = replace(teacher.plan, likelihood="distilled", teacher=str(teacher.folder), init_from=str(teacher.folder))
    from sfumato.training.run import build_network, question

    network = build_network(plan, question(plan)[1]).state_dict()
    theirs = teacher.networks[0].state_dict()
    assert torch.equal(network["network.head.weight"][:8], theirs["network.head.weight"])
    assert all(torch.equal(network[name], value) for name, value in theirs.items() if "head" not in name)
    plan = replace(plan, network_args={"widths": (4, 6), "dropout": 0.2})
    with pytest.raises(ValueError, match="cannot be started from: its network"):
        build_network(plan, question(plan)[1])


def test_what_cannot_teach_or_learn_is_refused(teacher, student, tmp_path):
    single = replace(teacher, plan=replace(teacher.plan, method="deterministic"))
    with pytest.raises(ValueError, match="no epistemic part to teach"):
        distilled(single, tmp_path / "none")
    with pytest.raises(ValueError, match=r"draws once.*distil an ensemble"):
        distilled(single, tmp_path / "none", likelihood="dudes")
    with pytest.raises(ValueError, match="expected that of a student: one of distilled, distilled-probs, dudes"):
        distilled(teacher, tmp_path / "none", likelihood="categorical")
    with pytest.raises(FileExistsError, match="holds a run already"):
        distilled(teacher, student.folder)
    with pytest.raises(ValueError, match="learns from a teacher: use `sfumato distill"):
        fit(replace(teacher.plan, likelihood="distilled"), scenes(), None, tmp_path / "none", progress=False)
    assert not (tmp_path / "none").exists()


def test_from_the_command_line(teacher, tmp_path, capsys):
    out = str(tmp_path / "student")
    command = ["distill", str(teacher.folder), f"--out={out}", "--epochs=1", "--quiet", "--seed=3"]
    # The plan's data are 512 scenes: four of them will do.
    small = replace(teacher.plan, limit=4, batch=2)
    shutil.copytree(teacher.folder, tmp_path / "teacher", ignore=shutil.ignore_patterns("lessons"))
    small.save(tmp_path / "teacher" / "plan.yaml")
    command[1] = str(tmp_path / "teacher")
    assert main([*command, "--likelihood=logit-normal"]) == 2
    assert "expected that of a student" in capsys.readouterr().err
    assert main(command) == 0
    assert "sfumato evaluate" in capsys.readouterr().out
    assert len(list(Path(tmp_path / "teacher").glob("lessons/*/*"))) == 4
    assert Run.open(out).plan.seed == 3
