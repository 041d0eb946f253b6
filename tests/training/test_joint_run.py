"""Runs of several tasks: one network, one set of draws, a loss for each."""

import csv
import math
from dataclasses import replace

import pytest
import torch
from torch.utils.data import Dataset

from sfumato.data import Scenes
from sfumato.data.augmentation import Augmentation
from sfumato.training import (
    Plan,
    Run,
    Taught,
    Teacher,
    calibrate,
    derive,
    distil,
    evaluate,
    evaluate_each,
    fit,
    question,
    resolve_tasks,
    subset,
    teacher_of,
    with_target_statistics,
)
from sfumato.training.learner import Learner
from sfumato.training.network import build

SMALL = {"widths": (4, 6), "dropout": 0.2}
pytestmark = pytest.mark.filterwarnings("ignore")


def scenes(count=4, seed=0):
    return Scenes(count, size=(16, 24), seed=seed)


def plan(train=None, **choices):
    train = train or scenes()
    known = Plan(
        data="scenes", original_size=(16, 24), members=1, network_args=SMALL, epochs=2, samples=2, scale=(1, 1),
        color=0, batch=2, **{"tasks": "classes,centers,depth", **choices},
    )  # fmt: skip
    known = resolve_tasks(known, scenes().tasks)
    kept = subset(train, question(known)[0])
    return with_target_statistics(derive(kept, question(known)[0], known), kept)


def fitted(folder, known, train=None):
    return fit(known, train or scenes(), None, folder, progress=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return fitted(tmp_path_factory.mktemp("runs") / "run", plan(likelihood="categorical,l1,gaussian"))


def homoscedastic_tasks(run):
    return {name: float(s.detach()) for name, s in run.networks[0].network.log_variances.items()}


def test_a_joint_run_is_opened_and_predicts_every_task(run):
    assert run.plan.weighting == "uncertainty"
    assert run.plan.network == "sfumato.models.JointUNet"
    image = scenes(1, 5)[0]["image"][None]
    first, second = (r.predict(image, seed=3) for r in (run, Run.open(run.folder)))
    for name in ("classes", "centers", "depth"):
        assert torch.equal(first[name].total, second[name].total)
        assert torch.equal(first[name].total, run.per_task[name].predict(image, seed=3).total)
    assert first["centers"].unit == "px"
    assert set(homoscedastic_tasks(run)) == {"classes", "centers"}
    assert all(s != 0 for s in homoscedastic_tasks(run).values())


def test_weights_are_logged(run):
    with (run.folder / "log/member-0/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train_nll"]]
    assert len(rows) == 2
    for name in ("classes", "centers", "depth"):
        assert all(float(row[f"weight_{name}"]) > 0 for row in rows)


def test_tasks_are_scored_from_the_same_draws_as_alone(run):
    found = evaluate_each(run, scenes(2, 1), progress=False)
    assert list(found) == ["classes", "centers", "depth"]
    alone = evaluate(run.per_task["depth"], scenes(2, 1), progress=False)
    assert float(found["depth"].scores.compute()["rmse"]) == float(alone.scores.compute()["rmse"])
    with pytest.raises(ValueError, match="take evaluate_each"):
        evaluate(run, scenes(2, 1), progress=False)


def test_one_task_of_a_run_is_calibrated_and_the_joint_prediction_shows_it(run, tmp_path):
    calibrate(run.per_task["depth"], scenes(2, 9), progress=False)
    opened, image = Run.open(run.folder), scenes(1, 5)[0]["image"][None]
    before, after = run.predict(image), opened.predict(image)
    assert opened.per_task["depth"].calibrator is not None
    assert not torch.equal(before["depth"].total, after["depth"].total)
    assert torch.equal(before["classes"].total, after["classes"].total)
    (run.folder / "depth-calibrator.safetensors").unlink()


def test_one_task_of_a_run_is_distilled(run, tmp_path):
    view = run.per_task["classes"]
    student = distil(view, scenes(2), None, tmp_path / "student", epochs=1, progress=False)
    assert student.plan.network == "sfumato.models.UNet"
    assert student.per_task.keys() == {"classes"}
    image = scenes(1, 5)[0]["image"][None]
    assert student.predict(image).total.shape == run.predict(image)["classes"].total.shape
    assert teacher_of(student).task == view.task


def test_all_tasks_of_a_run_are_distilled_at_once(run, tmp_path):
    """One student, one pass; every task's lesson is from the same draws, and its fidelity is told."""
    student = distil(run, scenes(3), None, tmp_path / "student", unlabeled=scenes(1, 9), epochs=2, progress=False)
    assert student.plan.likelihood == "distilled,distilled-laplace,distilled-gaussian"
    assert student.plan.scales == run.plan.scales
    image = scenes(1, 5)[0]["image"]
    found = Run.open(student.folder).predict(image[None])
    for name, prediction in found.items():
        assert prediction.draws == 1
        assert prediction.epistemic.min() >= 0
        assert prediction.epistemic.mean() > 0, name
        assert teacher_of(student.per_task[name]).task == run.per_task[name].task
    teacher = Teacher(run, question(student.plan)[1])
    lessons = teacher.distillation_target(image)
    expected = run.predict_uncalibrated(run.method(), image[None], 0, 0)  # other dropout: of the same kind, not equal
    assert {name: len(lesson) for name, lesson in lessons.items()} == {"classes": 9, "centers": 4, "depth": 2}
    assert lessons["depth"].isfinite().all()
    assert lessons["classes"][1:].sum(0).sub(1).abs().max() < 5e-3
    assert lessons["depth"][0].mean() == pytest.approx(float(expected["depth"].mean.mean()), rel=0.5)
    assert len(list(run.folder.glob(f"lessons/{teacher.digest[:16]}/*"))) == 5
    for name, each in evaluate_each(student, scenes(2, 1), progress=False).items():
        assert each.scores.compute()["nll"].isfinite(), name
        assert float(each.fidelity.compute()["mae_epistemic"]) > 0
        taught = evaluate_each(run, scenes(2, 1), progress=False)[name].scores.compute()
        assert float(each.teacher.compute()["nll"]) == pytest.approx(float(taught["nll"]), rel=1e-5)


def test_a_student_of_vectors_is_mirrored_whole(run):
    """dx of the label and of its teacher turn round, spreads do not; zoom scales them all."""
    student = distil_plan(run)
    taught = Taught(Teacher(run, question(student)[1]), subset(scenes(), run.task), None, kept=True)
    sample = taught[0]
    batch = {k: v[None] for k, v in sample.items() if isinstance(v, torch.Tensor)}
    for seed in range(20):
        torch.manual_seed(seed)
        out = Augmentation(scale=(1, 1), color=0)(batch)
        if not torch.equal(out["image"], batch["image"]):
            break
    before, after = batch["centers"][0].flip(-1), out["centers"][0]
    known = out["centers_valid"][0]
    signs = torch.tensor([-1.0, 1, 1, -1, 1, 1, 1])[:, None]
    assert known.any()
    assert torch.allclose(after[:, known], signs * before[:, known])


def distil_plan(run):
    from sfumato.training.distillation import student_plan

    return student_plan(run, "", {})


@pytest.mark.parametrize(
    ("likelihood", "message"),
    [("distilled", "one for each of classes,centers,depth"), ("distilled,l1,l1", "expected that of a student")],
)
def test_students_of_several_tasks_are_named_one_by_one(run, tmp_path, likelihood, message):
    with pytest.raises(ValueError, match=message):
        distil(run, scenes(2), None, tmp_path / "student", likelihood=likelihood, progress=False)


class Patchy(Dataset):
    """Scenes some of which lack tasks."""

    def __init__(self, lacks):
        self.whole, self.lacks = scenes(), lacks

    def __len__(self):
        return len(self.whole)

    def __getitem__(self, index):
        sample = self.whole[index]
        return {k: v for k, v in sample.items() if not k.startswith(self.lacks.get(index, ("nothing",)))}


def test_a_task_is_learned_from_the_samples_that_have_it(tmp_path):
    train = Patchy({0: ("depth", "centers"), 1: ("classes",)})
    likelihood = "categorical,l1,laplace"
    run = fitted(tmp_path / "run", plan(train, likelihood=likelihood), train)
    assert run.plan.counts[0] < plan(likelihood=likelihood).counts[0]
    assert all(math.isfinite(s) and s != 0 for s in homoscedastic_tasks(run).values())
    assert all(p.isfinite().all() for p in run.networks[0].parameters())


def test_a_batch_without_targets_leaves_the_weight_where_it_was():
    """Though Adam's momentum would move it on."""
    known = plan(likelihood="categorical,l1,gaussian")
    task, likelihood = question(known)
    learner = Learner(build(known, likelihood), likelihood, task, known, 0)
    optimizer = torch.optim.AdamW(learner.parameters())
    sample = subset(scenes(), task)[0]
    batch = {key: value[None] for key, value in sample.items() if key != "name"}
    seen = []
    for absent in (False, True):
        given = batch | ({"centers_valid": torch.zeros_like(batch["centers_valid"])} if absent else {})
        optimizer.zero_grad()
        learner.objective(learner.network(given["image"]), *task.target_and_mask(given))[0].backward()
        learner.on_before_optimizer_step(optimizer)
        optimizer.step()
        seen.append({name: float(s.detach()) for name, s in learner.network.network.log_variances.items()})
    assert seen[0]["centers"] != 0
    assert seen[1]["centers"] == seen[0]["centers"]
    assert seen[1]["classes"] != seen[0]["classes"]


def test_a_task_that_no_sample_has_is_refused():
    with pytest.raises(ValueError, match="no pixel of 4 training images has a valid centers"):
        plan(Patchy(dict.fromkeys(range(4), ("centers",))))


class Millimetres(Dataset):
    def __init__(self):
        self.whole = scenes()

    def __len__(self):
        return len(self.whole)

    def __getitem__(self, index):
        sample = self.whole[index]
        return sample | {"inverse_depth": sample["inverse_depth"] / 1000}


@pytest.mark.parametrize("weighting", ["uncertainty", "uw-so"])
def test_depth_in_other_units_trains_the_same_network(tmp_path, weighting):
    choices = {"tasks": "classes,inverse_depth", "likelihood": "categorical,l1", "weighting": weighting}
    runs = [
        fitted(tmp_path / str(n), plan(train, **choices), train) for n, train in enumerate((scenes(), Millimetres()))
    ]
    assert runs[0].plan.scales["inverse_depth"][1] == pytest.approx(1000 * runs[1].plan.scales["inverse_depth"][1])
    weights = [r.networks[0].state_dict() for r in runs]
    for key, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][key], rtol=1e-3, atol=1e-5)
    image = scenes(1, 5)[0]["image"][None]
    meters, millimeters = (r.predict(image)["inverse_depth"].mean for r in runs)
    torch.testing.assert_close(meters, 1000 * millimeters, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("weighting", ["equal", "fixed", "dwa", "log1p"])
def test_every_weighting_trains(tmp_path, weighting):
    choices = {"likelihood": "categorical,l1,l1", "tasks": "classes,centers,inverse_depth", "weighting": weighting}
    known = plan(**choices, weights=(1.0, 0.5, 2.0) if weighting == "fixed" else ())
    run = fitted(tmp_path / "run", known)
    assert all(s != 0 for s in homoscedastic_tasks(run).values())


def test_a_network_with_all_heads_in_one_tensor_serves(tmp_path):
    arguments = {"network": "sfumato.models.UNet", "network_args": SMALL | {"channels_out": "CHANNELS"}}
    known = replace(plan(), **arguments)
    assert fitted(tmp_path / "run", replace(known, epochs=1)).predict(torch.rand(1, 3, 16, 24))["depth"].draws == 2


def test_an_ensemble_of_several_tasks(tmp_path):
    run = fitted(tmp_path / "run", replace(plan(method="ensemble", likelihood="categorical,l1,laplace"), members=2))
    found = run.predict(torch.rand(1, 3, 16, 24))
    assert all(prediction.epistemic.mean() > 0 for prediction in found.values())
    assert len({float(n.network.log_variances["centers"].detach()) for n in run.networks}) == 2


@pytest.mark.parametrize("method", ["swag", "snapshot", "variational", "concrete-dropout", "batch-ensemble"])
def test_every_method_trains_and_draws_several_tasks(tmp_path, method):
    """All tasks from one set of draws, whose parts add up; two predictions of the same seed agree."""
    members = 3 if method in ("snapshot", "batch-ensemble") else 1
    known = replace(plan(method=method, likelihood="categorical,l1,laplace"), members=members, batch=3)
    run = fitted(tmp_path / "run", replace(known, epochs=80 if method == "swag" else 3))
    image = torch.rand(2, 3, 16, 24)
    found, again = (Run.open(run.folder).predict(image, samples=3) for _ in range(2))
    for name, prediction in found.items():
        assert prediction.draws == 3
        assert prediction.epistemic.mean() > 0, name
        assert torch.allclose(prediction.total, prediction.aleatoric + prediction.epistemic, atol=1e-5)
        assert torch.equal(prediction.total, again[name].total)


def test_heads_of_several_tasks_are_not_multiplied(tmp_path):
    known = replace(plan(method="multi-head", likelihood="categorical,l1,laplace"), members=3, batch=3)
    with pytest.raises(ValueError, match="one for each: take batch-ensemble"):
        fitted(tmp_path / "run", known)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"tasks": "classes,flow"}, "no task 'flow'"),
        ({"tasks": "classes,classes"}, "each once"),
        ({"tasks": "classes,"}, "names with commas"),
        ({"task": "depth"}, "leave one out"),
        ({"likelihood": "categorical"}, "one for each of classes,centers,depth"),
        ({"likelihood": "categorical,l1,l1"}, "for depth"),
        ({"weighting": "best"}, "expected one of uncertainty"),
        ({"weighting": "dwa"}, "of centers has a noise of its own"),
        ({"weighting": "fixed"}, "fixed weights of no task"),
        ({"weighting": "fixed", "weights": (1.0,)}, "one for each of classes,centers,depth"),
        ({"weights": (1.0, 1.0, 1.0)}, "take fixed"),
        ({"tasks": "", "weighting": "equal"}, "is of several tasks"),
    ],
)
def test_choices_that_do_not_belong_together_are_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        plan(**choices)
