"""Calibration of classes: known distortions are undone, and nothing else changes."""

import pytest
import torch
from sklearn.isotonic import IsotonicRegression
from torch.nn.functional import nll_loss

from sfumato.calibration import ClassTemperature, Isotonic, LocalTemperature, Temperature, VectorScaling, local
from sfumato.calibration.isotonic import BINS, _place, _rising
from sfumato.errors import NotFiniteError
from sfumato.metrics import ClassScores
from sfumato.predictions import ClassMoments, ClassPrediction, entropy

K, SIZE = 4, (40, 70)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(local, "STEPS", 40)


def drawn(logits, generator):
    """Classes (B, H, W) drawn from the softmax of logits (B, K, H, W)."""
    flat = torch.softmax(logits, 1).movedim(1, -1).reshape(-1, logits.shape[1])
    return torch.multinomial(flat, 1, generator=generator).view(logits.shape[0], *logits.shape[2:])


def scene(distort, images=6, seed=0):
    """Predictions whose true logits were distorted, with a quarter of the pixels void and full of wrong values."""
    generator = torch.Generator().manual_seed(seed)
    held = []
    for _ in range(images):
        image = torch.rand(1, 3, *SIZE, generator=generator)
        truth = 2 * torch.randn(1, K, *SIZE, generator=generator)
        probs = torch.softmax(distort(truth, image), 1)
        valid = torch.rand(1, *SIZE, generator=generator) > 0.25
        target = drawn(truth, generator).where(valid, 255)
        held.append((ClassPrediction(probs, entropy(probs) * 0.6, 5, image), target, valid))
    return held


def nll(calibrator, held):
    return torch.stack([
        nll_loss(calibrator(p).probs.log().movedim(1, -1)[v], t[v]) for p, t, v in held
    ]).mean()  # fmt: skip


def same(prediction):
    return prediction


def test_temperature_is_found():
    held = scene(lambda x, _: 2.5 * x)
    assert Temperature.fit(held).temperature.item() == pytest.approx(2.5, rel=0.05)


def test_temperature_of_a_true_distribution_is_one():
    assert Temperature.fit(scene(lambda x, _: x)).temperature.item() == pytest.approx(1, abs=0.04)


def test_each_class_has_its_temperature():
    factors = torch.tensor([0.5, 1.0, 2.0, 3.0])
    # Scaling by the factor of the largest logit leaves it the largest, so it is undone class by class.
    held = scene(lambda x, _: x * factors[x.argmax(1)][:, None])
    assert torch.allclose(ClassTemperature.fit(held).temperatures, factors, rtol=0.12)


def test_slopes_and_shifts_are_found():
    slope, shift = torch.tensor([0.5, 1.0, 2.0, 1.5]), torch.tensor([0.0, 1.0, -1.0, 0.5])
    generator = torch.Generator().manual_seed(1)
    held = []
    for _ in range(12):
        logs = torch.log_softmax(2 * torch.randn(1, K, *SIZE, generator=generator), 1)
        target = drawn(logs * slope[:, None, None] + shift[:, None, None], generator)
        held.append((ClassPrediction(logs.exp(), torch.zeros(1, *SIZE)), target, torch.ones(1, *SIZE) > 0))
    found = VectorScaling.fit(held)
    assert torch.allclose(found.slope, slope, atol=0.1)
    assert torch.allclose(found.shift - found.shift.mean(), shift - shift.mean(), atol=0.1)  # one shift for all is none


def test_local_temperature_follows_the_image(monkeypatch):
    monkeypatch.setattr(local, "STEPS", 120)

    def distort(x, image):
        return x * (0.5 + 3 * (image.amax(1, keepdim=True) > 0.8))

    fitted, other = scene(distort, 8), scene(distort, 3, seed=5)
    free, one = LocalTemperature.fit(fitted), Temperature.fit(fitted)
    assert nll(free, other) < nll(one, other) - 0.01
    bright = other[0][0].image.amax(1) > 0.8
    temperature = free.temperature(other[0][0])
    assert temperature[bright].mean() > 1.5 * temperature[~bright].mean()


def test_local_temperature_asks_for_the_image():
    held = scene(lambda x, _: x, 2)
    fitted = LocalTemperature.fit(held)
    with pytest.raises(ValueError, match="carry their image"):
        fitted(ClassPrediction(held[0][0].probs, held[0][0].aleatoric))


def test_isotonic_undoes_any_rising_distortion():
    # One class's log-odds bent by a cubic: no temperature undoes it.
    def bend(x, _):
        odds = x[:, :2] - x[:, :2].flip(1)
        return torch.cat([odds + 0.2 * odds**3, torch.full_like(odds, -30)], 1) / 2

    def two(x, image):
        return torch.cat([x[:, :2], torch.full_like(x[:, :2], -30)], 1)

    generator = torch.Generator().manual_seed(3)
    held = []
    for _ in range(8):
        truth = torch.cat([torch.randn(1, 2, *SIZE, generator=generator), torch.full((1, 2, *SIZE), -30.0)], 1)
        probs = torch.softmax(bend(truth, None), 1)
        held.append((ClassPrediction(probs, entropy(probs)), drawn(truth, generator), torch.ones(1, *SIZE) > 0))
    fitted = Isotonic.fit(held)
    truth = torch.randn(1, 4, *SIZE, generator=generator)
    truth[:, 2:] = -30
    found = fitted(ClassPrediction(torch.softmax(bend(truth, None), 1), torch.zeros(1, *SIZE))).probs
    assert (found - torch.softmax(two(truth, None), 1)).abs().mean() < 0.02


def test_isotonic_is_scikit_learns():
    generator = torch.Generator().manual_seed(0)
    probs = torch.rand(20_000, generator=generator)
    hits = (torch.rand(20_000, generator=generator) < probs**2).double()
    bins = _place(probs).round().long()
    seen, right = torch.bincount(bins, minlength=BINS).double(), torch.bincount(bins, hits, BINS).double()
    ours = _rising(right, seen)
    full = seen > 0
    theirs = IsotonicRegression().fit(bins[:], hits.numpy()).predict(torch.arange(BINS)[full])
    assert torch.allclose(ours[full], torch.from_numpy(theirs).double(), atol=0.03)  # one pixel more a pool
    weighted = ((ours[full] - torch.from_numpy(theirs)).abs() * seen[full]).sum() / seen.sum()
    assert weighted < 2e-3
    assert bool((ours.diff() >= 0).all())


EACH = [Temperature, ClassTemperature, VectorScaling, LocalTemperature, Isotonic]


@pytest.mark.parametrize("kind", EACH)
class TestEach:
    def test_parts_add_up_and_keep_their_shares(self, kind):
        held = scene(lambda x, _: 2 * x, 2)
        before = held[0][0]
        after = kind.fit(held)(before)
        assert torch.allclose(after.probs.sum(1), torch.ones(1, *SIZE), atol=1e-5)
        assert torch.allclose(after.aleatoric + after.epistemic, after.total, atol=1e-5)
        assert torch.allclose(after.aleatoric / after.total, torch.full((1, *SIZE), 0.6), atol=1e-3)
        assert after.draws == before.draws

    def test_helps_on_other_images(self, kind):
        calibrator = kind.fit(scene(lambda x, _: 3 * x))
        other = scene(lambda x, _: 3 * x, seed=4)
        assert nll(calibrator, other) < nll(same, other) - 0.1

    def test_what_is_void_changes_nothing(self, kind):
        held = scene(lambda x, _: 2 * x, 2)
        other = [(p, torch.where(v, t, 7), v) for p, t, v in held]
        for a, b in zip(vars(kind.fit(held)).values(), vars(kind.fit(other)).values()):
            assert not isinstance(a, torch.Tensor) or torch.equal(a, b)

    def test_is_kept_in_a_file(self, kind, tmp_path):
        held = scene(lambda x, _: 2 * x, 2)
        fitted = kind.fit(held)
        fitted.save(tmp_path / "it")
        again = kind.load(tmp_path / "it")
        assert torch.equal(again(held[0][0]).probs, fitted(held[0][0]).probs)

    def test_refuses_what_it_cannot_learn_from(self, kind):
        (p, t, v), *_ = scene(lambda x, _: x, 1)
        for held, message in (
            ([], "none of the 0"),
            ([(p, t, torch.zeros_like(v))], "none of the 1"),
            ([(p, t[:, 1:], v)], "the size of the prediction"),
            ([(p, t.where(v, 255) * 0 + K, v)], f"class {K}, expected 0 to {K - 1}"),
            ([(ClassPrediction(p.probs * 2, p.aleatoric), t, v)], "sum to 1"),
            ([(ClassPrediction(p.probs * torch.nan, p.aleatoric), t, v)], "sum to 1"),
        ):
            with pytest.raises(ValueError, match=message):
                kind.fit(held)


@pytest.mark.parametrize("kind", [Temperature, ClassTemperature, LocalTemperature])
def test_labels_stay(kind):
    held = scene(lambda x, _: 3 * x, 2)
    assert torch.equal(kind.fit(held)(held[0][0]).label, held[0][0].label)


def test_many_images_are_thinned_and_still_found(monkeypatch):
    from sfumato.calibration import held as held_module

    monkeypatch.setattr(held_module, "TILES", 5)
    assert len(held_module.Tiles.of(scene(lambda x, _: x)).valid) == 5
    assert Temperature.fit(scene(lambda x, _: 2.5 * x, 20)).temperature.item() == pytest.approx(2.5, rel=0.1)


def image(classes, sure, generator):
    """An image of classes 0 … ``classes`` − 1, predicted by a network that knows four."""
    target = torch.randint(classes, (1, 24, 24), generator=generator)
    logits = torch.randn(1, 4, 24, 24, generator=generator)
    logits = logits.scatter_add(1, target[:, None], torch.full((1, 1, 24, 24), sure))
    return ClassMoments.of(logits.softmax(1)).prediction(), target, target >= 0


@pytest.mark.parametrize("kind", EACH)
def test_a_class_without_a_held_out_pixel_keeps_its_recall(kind):
    generator = torch.Generator().manual_seed(0)
    fitted = kind.fit([image(3, 3.0, generator) for _ in range(10)])
    prediction, target, _ = image(4, 3.0, generator)
    before, after = (
        ((p.label == 3) & (target == 3)).sum() / (target == 3).sum() for p in (prediction, fitted(prediction))
    )
    assert before > 0.85
    assert abs(after - before) < 0.04
    assert torch.allclose(fitted(prediction).probs.sum(1), torch.ones(1, 24, 24), atol=1e-5)
    if kind in (VectorScaling, Isotonic):
        assert torch.equal(fitted(prediction).probs[:, 3], prediction.probs[:, 3])


@pytest.mark.parametrize("kind", EACH)
def test_images_without_errors_say_nothing_about_errors(kind):
    generator = torch.Generator().manual_seed(0)
    right = [(p, p.label, v) for p, _, v in (image(4, 1.0, generator) for _ in range(3))]
    fitted, other = kind.fit(right), [image(4, 1.0, generator) for _ in range(6)]
    before, after = ClassScores(4), ClassScores(4)
    for prediction, target, valid in other:
        before.update(prediction, target, valid)
        after.update(fitted(prediction), target, valid)
    assert after.compute()["ece"] < before.compute()["ece"] + 0.03
    assert after.compute()["accuracy"] == pytest.approx(float(before.compute()["accuracy"]), abs=0.02)


def test_isotonic_is_the_identity_outside_of_the_held_out_probabilities():
    place = torch.arange(BINS)
    counts = ((place > 200) & (place < 300)).double() * 1000
    identity = torch.linspace(-14, 14, BINS, dtype=torch.float64).sigmoid()
    found = _rising(counts * identity.sqrt() * 0.9, counts)
    assert bool((found.diff() >= 0).all())
    assert torch.equal(found[:200], identity[:200])
    assert torch.equal(found[320:], identity[320:])


@pytest.mark.parametrize("kind", EACH)
def test_one_class_per_image_has_the_numbers_of_a_map_of_one_pixel(kind):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(300, K, generator=generator)
    target = drawn(logits[..., None, None], generator)[:, 0, 0]
    probs, valid = (2 * logits).softmax(1), torch.rand(300, generator=generator) > 0.1
    single = ClassPrediction(probs, 0.6 * entropy(probs))
    maps = ClassPrediction(probs[..., None, None], 0.6 * entropy(probs)[:, None, None])
    found, expected = (
        kind.fit([(single, target, valid)]),
        kind.fit([(maps, target[:, None, None], valid[:, None, None])]),
    )
    assert torch.allclose(found(single).probs, expected(maps).probs[..., 0, 0], atol=1e-6)
    assert torch.allclose(found(single).aleatoric, expected(maps).aleatoric[:, 0, 0], atol=1e-6)


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(NotFiniteError, match="temperature of the Temperature is not finite"):
        Temperature(torch.tensor([torch.nan]))
