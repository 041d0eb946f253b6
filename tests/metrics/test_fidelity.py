import pytest
import torch
from scipy.stats import spearmanr

from sfumato.metrics import FidelityScores
from sfumato.metrics.fidelity import key
from sfumato.predictions import ClassPrediction, ValuePrediction

SEED = torch.Generator().manual_seed(0)


def pair(noise=0.3, size=(3, 4, 40, 50)):
    logits = 2 * torch.randn(size, generator=SEED)
    other = logits + noise * torch.randn(size, generator=SEED)
    out = []
    for f in (logits, other):
        probs = f.softmax(1)
        total = -(probs * probs.log()).sum(1)
        out.append(ClassPrediction(probs, total * (0.5 + 0.5 * torch.rand(total.shape, generator=SEED))))
    return out, torch.rand(size[0], *size[2:], generator=SEED) < 0.8


def test_ranks_and_errors_are_those_of_all_pixels():
    (student, teacher), valid = pair()
    scores = FidelityScores(4)
    scores.update(student, teacher, valid)
    found = scores.compute()
    for kind in ("total", "aleatoric", "epistemic"):
        a, b = getattr(student, kind)[valid], getattr(teacher, kind)[valid]
        assert float(found[f"spearman_{kind}"]) == pytest.approx(spearmanr(a, b).statistic, abs=2e-3)
        assert float(found[f"mae_{kind}"]) == pytest.approx(float((a - b).abs().mean()), abs=1e-6)
        gaps = [abs(float(a[student.label[valid] == k].mean() - b[teacher.label[valid] == k].mean())) for k in range(4)]
        assert float(found[f"class_error_{kind}"]) == pytest.approx(sum(gaps) / 4, abs=1e-6)


def test_a_perfect_student():
    (_, teacher), valid = pair()
    scores = FidelityScores(4)
    scores.update(teacher, teacher, valid)
    found = scores.compute()
    assert float(found["spearman_epistemic"]) == pytest.approx(1, abs=1e-3)
    assert float(found["mae_total"]) == float(found["class_error_total"]) == 0


def test_batches_and_their_order_change_nothing():
    (student, teacher), valid = pair()
    together, apart = FidelityScores(4), FidelityScores(4)
    together.update(student, teacher, valid)
    for i in (2, 0, 1):
        one = [ClassPrediction(p.probs[i : i + 1], p.aleatoric[i : i + 1]) for p in (student, teacher)]
        apart.update(*one, valid[i : i + 1])
    for name, value in together.compute().items():
        assert float(apart.compute()[name]) == pytest.approx(float(value), rel=1e-9)
    assert len(together.per_image()["spearman_total"]) == 3
    assert len(together.intervals()["mae_total"]) == 2


def test_values_have_one_class():
    variance = torch.rand(2, 1, 6, 7, generator=SEED)
    student = ValuePrediction(variance, variance, 2 * variance, "m")
    teacher = ValuePrediction(variance, variance, 3 * variance, "m")
    scores = FidelityScores()
    scores.update(student, teacher, torch.ones(2, 6, 7) > 0)
    found = scores.compute()
    assert float(found["class_error_total"]) == pytest.approx(float(variance.mean()), rel=1e-5)
    assert float(found["mean_epistemic"]) == pytest.approx(3 * float(variance.mean()), rel=1e-5)
    assert float(found["spearman_aleatoric"]) == pytest.approx(1, abs=1e-3)


def test_keys_never_fall():
    values = torch.cat([torch.zeros(1), torch.logspace(-8, 3, 2000)])
    keys = key(values)
    assert bool((keys.diff() >= 0).all())
    assert int(keys[0]) == 0
    assert int(keys[-1]) == 415


def test_what_cannot_be_compared_is_refused():
    (student, teacher), valid = pair()
    with pytest.raises(ValueError, match="the size of the prediction"):
        FidelityScores(4).update(student, teacher, valid[:, :5])
    student.probs[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN at a valid pixel"):
        FidelityScores(4).update(student, teacher, torch.ones_like(valid))


def test_one_prediction_per_image_is_scored_as_a_map_of_one_pixel():
    (student, teacher), valid = pair(size=(50, 4, 1, 1))
    found, expected = FidelityScores(4), FidelityScores(4)
    expected.update(student, teacher, valid)
    single = [ClassPrediction(p.probs[..., 0, 0], p.aleatoric[..., 0, 0]) for p in (student, teacher)]
    found.update(*single, valid[:, 0, 0])
    for name, value in expected.compute().items():
        torch.testing.assert_close(found.compute()[name], value, rtol=1e-6, atol=1e-9, equal_nan=True)
