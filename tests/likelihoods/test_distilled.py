import math
from functools import reduce

import pytest
import torch

from sfumato.likelihoods import Categorical, DistilledClasses, DistilledValues, Gaussian, Laplace
from sfumato.testing import check_likelihood, check_prediction

SIZE = (3, 5, 6)
SEED = torch.Generator().manual_seed(0)


def class_draws(count=4, classes=4):
    outputs = [2 * torch.randn(SIZE[0], classes, *SIZE[1:], generator=SEED) for _ in range(count)]
    return [Categorical(classes).moments(output) for output in outputs], [o.softmax(1) for o in outputs]


def taught(student, draws):
    """What a teacher with these draws teaches."""
    return student.distillation_target(reduce(lambda a, b: a.merge(b), map(student.teacher_statistics, draws)))


def stacked(lesson, target, labeled=True):
    target = target if target.ndim == 4 else target[:, None]
    mask = torch.full_like(lesson[:, :1], float(labeled))
    return torch.cat([target.float(), mask, lesson], 1)


@pytest.mark.parametrize("kind", [{}, {"published": True}, {"probs": True}])
def test_classes_pass_the_checks_of_every_likelihood(kind):
    student = DistilledClasses(4, **kind)
    labels = torch.randint(4, SIZE, generator=SEED)
    check_likelihood(student, stacked(taught(student, class_draws()[0]), labels))


@pytest.mark.parametrize("law", [Gaussian(2), Laplace(2), Gaussian(2, "log", 0.5, 10.0)])
def test_values_pass_the_checks_of_every_likelihood(law):
    student = DistilledValues(law)
    values = 1 + 3 * torch.rand(SIZE[0], 2, *SIZE[1:], generator=SEED)
    draws = [law.moments(torch.randn(SIZE[0], 4, *SIZE[1:], generator=SEED)) for _ in range(3)]
    check_likelihood(student, stacked(taught(student, draws), values))


def test_lesson_is_the_spread_and_the_law_of_the_draws():
    draws, probs = class_draws()
    spread = taught(DistilledClasses(4, published=True), [Categorical(4).moments(p.log()) for p in probs])
    together = torch.stack(probs)
    label = together.mean(0).argmax(1)
    ours = together.gather(2, label.expand(4, *SIZE)[:, :, None])[:, :, 0].std(0)  # unbiased
    assert torch.allclose(spread[:, 0], ours, atol=1e-6)
    lesson = taught(DistilledClasses(4), draws)
    mean = together.mean(0)
    information = -(mean * mean.log()).sum(1) + (together * together.log()).sum(2).mean(0)
    assert torch.allclose(lesson[:, 0], information, atol=1e-6)
    assert torch.allclose(lesson[:, 1:], mean, atol=1e-6)


def test_published_loss_by_hand():
    """Cross-entropy and RMSLE, averaged over the valid pixels, as in the paper but for void pixels."""
    student = DistilledClasses(3, published=True)
    output, label = torch.randn(2, 4, 2, 3, generator=SEED), torch.randint(3, (2, 2, 3), generator=SEED)
    spread, valid = 0.5 * torch.rand(2, 1, 2, 3, generator=SEED), torch.rand(2, 2, 3, generator=SEED) < 0.6
    entropy = -output[:, :3].log_softmax(1).gather(1, label[:, None])[:, 0][valid].mean()
    said = output[:, 3].sigmoid()
    miss = ((1 + said).log() - (1 + spread[:, 0]).log())[valid].square().mean().sqrt()
    loss = student.nll(output, stacked(spread, label), valid)
    assert float(loss.sum() / valid.sum()) == pytest.approx(float(entropy + miss), abs=1e-5)


def test_loss_of_a_perfect_student_is_the_cross_entropy():
    draws, _ = class_draws()
    student = DistilledClasses(4)
    lesson = taught(student, draws)
    share = (lesson[:, :1] / math.log(4)).clamp(1e-6, 1 - 1e-6)
    output = torch.cat([lesson[:, 1:].log(), share.logit()], 1)
    label = torch.randint(4, SIZE, generator=SEED)
    valid = torch.ones(SIZE) > 0
    right = -lesson[:, 1:].gather(1, label[:, None])[:, 0].log()
    assert torch.allclose(student.nll(output, stacked(lesson, label), valid), right, atol=2e-3)
    unlabeled = student.nll(output, stacked(lesson, label, labeled=False), valid)
    assert float(unlabeled.abs().max()) < 2e-3
    prediction = student.moments(output).prediction()
    assert torch.allclose(prediction.epistemic, lesson[:, 0], atol=1e-4)
    check_prediction(prediction)


def test_loss_by_hand():
    """In nats: of the label, of the share that the head says, and of the teacher's law where it is to be learned."""
    output, label = torch.randn(2, 4, 2, 3, generator=SEED), torch.randint(3, (2, 2, 3), generator=SEED)
    probs = torch.randn(2, 3, 2, 3, generator=SEED).softmax(1)
    lesson = torch.cat([0.3 * torch.rand(2, 1, 2, 3, generator=SEED), probs], 1)
    valid = torch.rand(2, 2, 3, generator=SEED) < 0.6
    of_label = -output[:, :3].log_softmax(1).gather(1, label[:, None])[:, 0]
    of_law = (probs * (probs.log() - output[:, :3].log_softmax(1))).sum(1)
    share, said = lesson[:, 0] / math.log(3), output[:, 3].sigmoid()
    of_share = math.log(3) * (share * (share / said).log() + (1 - share) * ((1 - share) / (1 - said)).log())
    for probs_too, labeled in ((False, True), (True, True), (False, False), (True, False)):
        expected = of_share + labeled * of_label + (probs_too or not labeled) * of_law
        loss = DistilledClasses(3, probs=probs_too).nll(output, stacked(lesson, label, labeled), valid)
        assert torch.allclose(loss, expected.where(valid, 0.0), atol=1e-5)


def test_one_kind_of_student_at_a_time():
    with pytest.raises(ValueError, match="published and probs"):
        DistilledClasses(3, published=True, probs=True)


def test_spread_of_two_classes_read_as_nats():
    """p ± u in two draws: the information is u² / (2 p (1 − p)) to second order."""
    p, u = 0.7, 0.05
    student = DistilledClasses(2, published=True)
    output = torch.tensor([math.log(p), math.log(1 - p), math.log(u / (1 - u))]).view(1, 3, 1, 1)
    pair = torch.tensor([[p - u, 1 - p + u], [p + u, 1 - p - u]])
    mean = torch.tensor([p, 1 - p])
    true = float(-(mean * mean.log()).sum() + (pair * pair.log()).sum(1).mean())
    assert float(student.moments(output).prediction().epistemic) == pytest.approx(true, rel=0.01)


def test_unlabeled_values_learn_the_mean_of_the_teacher():
    student = DistilledValues(Gaussian(1))
    lesson = torch.tensor([3.0, 0.5]).view(1, 2, 1, 1)
    output = torch.tensor([3.0, 0.0, math.log(0.5)]).view(1, 3, 1, 1)
    valid = torch.ones(1, 1, 1) > 0
    loss = student.nll(output, stacked(lesson, torch.zeros(1, 1, 1, 1), labeled=False), valid)
    assert float(loss) == pytest.approx(0.5 * math.log(2 * math.pi), abs=1e-4)
    found = student.moments(output).prediction()
    assert float(found.epistemic) == pytest.approx(0.25, rel=1e-5)
    assert float(found.aleatoric) == pytest.approx(1.0)


def test_a_teacher_without_spread_is_refused():
    with pytest.raises(ValueError, match="draws once"):
        taught(DistilledClasses(4, published=True), class_draws(1)[0])
    with pytest.raises(ValueError, match="no epistemic part"):
        taught(DistilledClasses(4), class_draws(1)[0])
    with pytest.raises(ValueError, match="no epistemic part"):
        taught(DistilledValues(Gaussian()), [Gaussian().moments(torch.zeros(1, 2, 2, 2))])
