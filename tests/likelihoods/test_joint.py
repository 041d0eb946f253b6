"""Several tasks at once: what is counted, how often, and in which unit."""

import math

import pytest
import torch
from torch.nn import functional as F

from sfumato.likelihoods import L1, Categorical, Gaussian, Joint, Laplace, LogitNormal, Tempered
from sfumato.methods import DeepEnsemble, Deterministic, Heads, LastLayerLaplace, MCDropout, TestTimeAugmentation
from sfumato.models import JointUNet
from sfumato.predictions import JointPrediction, predict, predict_tiled
from sfumato.testing import check_likelihood, check_prediction

SIZE = (2, 5, 7)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def joint(**scales):
    return Joint({"classes": Categorical(3), "centers": L1(2, "px"), "depth": Laplace(1, unit="m")}, scales)


def targets(seed=0):
    g = generator(seed)
    batch, *size = SIZE
    found = {
        "classes": torch.randint(3, SIZE, generator=g),
        "centers": torch.randn(batch, 2, *size, generator=g),
        "depth": torch.rand(batch, 1, *size, generator=g) + 1,
    }
    return found, {name: torch.rand(SIZE, generator=g) < 0.6 for name in found}


def output(likelihood, seed=0):
    return torch.randn(SIZE[0], likelihood.channels, *SIZE[1:], generator=generator(seed))


@pytest.mark.parametrize("likelihood", [L1(2, "px", 0.7), Tempered(3)])
def test_new_parts_are_likelihoods(likelihood):
    found = targets()[0]
    check_likelihood(likelihood, found["classes" if isinstance(likelihood, Categorical) else "centers"])


def test_absolute_is_laplace_with_one_scale():
    found, valid = targets()
    law, f = L1(2, "px", 0.7), output(L1(2))
    log_scale = torch.full_like(f, math.log(0.7))
    full = Laplace(2, unit="px")
    both = torch.cat([f, log_scale], 1)
    expected = full.nll(both, found["centers"], valid["centers"])
    torch.testing.assert_close(law.nll(f, found["centers"], valid["centers"]), expected)
    torch.testing.assert_close(law.moments(f).variance, full.moments(both).variance)


def test_terms_are_those_of_the_paper():
    """e^{−s} L + s/2 for classes and values without a noise of their own; the likelihood as it stands for others."""
    likelihood = joint()
    found, valid = targets()
    out = output(likelihood)
    s = {"classes": 0.3, "centers": -1.2}
    out[:, -2], out[:, -1] = s["classes"], s["centers"]
    terms = likelihood.terms(out, found, valid)
    ce = F.cross_entropy(out[:, :3], found["classes"], reduction="none")
    l1 = (out[:, 3:5] - found["centers"]).abs().sum(1)
    for name, loss in {"classes": ce, "centers": l1}.items():
        by_hand = (loss * math.exp(-s[name]) + s[name] / 2) * valid[name]
        torch.testing.assert_close(terms[name], by_hand)
    torch.testing.assert_close(terms["depth"], Laplace().nll(out[:, 5:7], found["depth"], valid["depth"]))
    torch.testing.assert_close(likelihood.nll(out, found, valid), sum(terms.values()))


@pytest.mark.parametrize("name", ["classes", "centers"])
def test_noise_at_its_minimum_is_twice_the_loss(name):
    likelihood = joint()
    found, valid = targets()
    out = output(likelihood)
    place = {"classes": -2, "centers": -1}[name]
    mean = likelihood.losses(out, found, valid)[name].sum() / valid[name].sum()
    s = (2 * mean).log().requires_grad_()
    out = torch.cat([out[:, :place], s.expand(2, 1, 5, 7), *([out[:, place + 1 :]] if place < -1 else [])], 1)
    (slope,) = torch.autograd.grad(likelihood.terms(out, found, valid)[name].sum(), s)
    assert abs(float(slope)) < 1e-4


def test_tempered_softmax_is_exact_and_its_approximation_meets_it_at_one():
    found, valid = targets()
    f = output(Categorical(3))
    target, mask = found["classes"], torch.ones_like(valid["classes"])
    for s in (-0.7, 0.0, 0.9):
        log_variance = torch.tensor(s)
        by_hand = -(f / math.exp(s)).log_softmax(1).gather(1, target[:, None])[:, 0]
        exact = Tempered(3).term(f, log_variance, target, mask)
        torch.testing.assert_close(exact, by_hand)
        gap = (Categorical(3).term(f, log_variance, target, mask) - exact).abs().max()
        assert gap < 1e-6 if s == 0 else gap > 0.01
        found_law = Tempered(3).moments_at(f, log_variance).prediction().probs
        torch.testing.assert_close(found_law, (f / math.exp(s)).softmax(1))


def test_noise_is_counted_once():
    """One constant scale pulls on the values as hard whether it is the task's or the pixels'; never both."""
    found, valid = targets()
    f = output(L1(2))
    b = 0.4
    slopes = []
    for part, extra in ((L1(2), 1), (Laplace(2), 2)):
        likelihood = Joint({"centers": part})
        assert len(likelihood.homoscedastic_tasks) == (extra == 1), "a part with a noise of its own gets another"
        values = f.clone().requires_grad_()
        scale = torch.full((2, extra, 5, 7), math.log(b))
        loss = likelihood.nll(
            torch.cat([values, scale], 1), {"centers": found["centers"]}, {"centers": valid["centers"]}
        )
        slopes.append(torch.autograd.grad(loss.sum(), values)[0])
    torch.testing.assert_close(*slopes)


def test_prediction_carries_the_learned_noise():
    likelihood = Joint({"centers": L1(2, "px")}, {"centers": (3.0, 5.0)})
    out = torch.randn(1, 3, 4, 4, generator=generator())
    out[:, -1] = math.log(2 * 2 * 0.25)  # e^s = 2 D b, with b = 0.25 spreads
    found = likelihood.moments(out).prediction()["centers"]
    torch.testing.assert_close(found.mean, 3 + 5 * out[:, :2])
    torch.testing.assert_close(found.aleatoric_variance, torch.full_like(found.mean, 2 * (0.25 * 5) ** 2))
    assert found.unit == "px"


@pytest.mark.parametrize("part", [L1(1), Laplace(1), Gaussian(1)])
def test_units_change_nothing(part):
    """The same gradients, and so the same network, to rounding."""
    found, valid = targets()
    out = output(Joint({"depth": part}))
    slopes = []
    for unit in (1.0, 1000.0):
        likelihood = Joint({"depth": part}, {"depth": (1.5 * unit, 0.25 * unit)})
        own = out.clone().requires_grad_()
        loss = likelihood.nll(own, {"depth": found["depth"] * unit}, {"depth": valid["depth"]})
        slopes.append(torch.autograd.grad(loss.sum(), own)[0])
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-5)


def test_log_depth_in_millimeters_has_the_gradients_of_meters():
    found, valid = targets()
    slopes = []
    for unit in (1.0, 1000.0):
        part = Gaussian(1, "log", 0.1 * unit, 100 * unit)
        own = output(Joint({"depth": part})).requires_grad_()
        likelihood = Joint({"depth": part}, {"depth": (0.4 + math.log(unit), 0.3)})
        loss = likelihood.nll(own, {"depth": found["depth"] * unit}, {"depth": valid["depth"]})
        slopes.append(torch.autograd.grad(loss.sum(), own)[0])
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-5)


def test_targets_that_are_not_valid_count_for_nothing():
    likelihood = joint(centers=(0.0, 2.0), depth=(1.0, 0.5))
    found, valid = targets()
    out = output(likelihood).requires_grad_()
    spoilt = {n: t.where(valid[n] if t.ndim == 3 else valid[n][:, None], 10**6) for n, t in found.items()}
    losses = [likelihood.nll(out, t, valid) for t in (found, spoilt)]
    assert torch.equal(*losses)
    (slope,) = torch.autograd.grad(losses[0].sum(), out)
    assert not slope[:, :3].sum(1)[~valid["classes"]].any()


class TwoHeads(torch.nn.Module):
    """A network of somebody else: a dict, smaller than the image."""

    def __init__(self, heads):
        super().__init__()
        self.trunk = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3, 2, 1), torch.nn.ReLU(), torch.nn.Dropout(0.5))
        self.heads = torch.nn.ModuleDict({name: torch.nn.Conv2d(6, c, 1) for name, c in heads.items()})

    def forward(self, image):
        seen = self.trunk(image)
        return {"other": None} | {name: head(seen) for name, head in self.heads.items()}


def networks(likelihood):
    torch.manual_seed(0)
    return [
        Heads(TwoHeads(likelihood.heads), likelihood.heads, likelihood.homoscedastic_tasks).eval() for _ in range(2)
    ]


def test_every_method_predicts_every_task_from_the_same_draws():
    likelihood = joint()
    first, second = networks(likelihood)
    with torch.no_grad():
        second.log_variances["centers"].fill_(1.0)
    image = torch.rand(2, 3, 8, 12, generator=generator())
    mirrored = TestTimeAugmentation(first, along_x=[3])
    methods = [Deterministic(first), MCDropout(first, 5), DeepEnsemble([first, second]), mirrored]
    for method in methods:
        found = predict(method, image, likelihood=likelihood, generator=generator())
        assert isinstance(found, JointPrediction)
        assert list(found) == ["classes", "centers", "depth"]
        draws = torch.cat(list(method.draws(image, generator=generator())))
        for name, prediction in found.items():
            check_prediction(prediction)
            alone = predict(method, image, likelihood=likelihood.select_task(name), generator=generator())
            assert torch.equal(alone.total, prediction.total), "a task sees other draws than the others"
            assert prediction.draws == len(draws)
    # A noise of each member: the law of total variance over members, by hand.
    found = predict(methods[2], image, likelihood=likelihood)["centers"]
    variances = [2 * (math.exp(s) / 4) ** 2 for s in (0.0, 1.0)]
    torch.testing.assert_close(found.aleatoric_variance.mean(), torch.tensor(sum(variances) / 2))


def test_last_layer_laplace_of_all_tasks_in_one_layer():
    likelihood = Joint({"classes": Categorical(3), "depth": Gaussian(1)})
    torch.manual_seed(0)
    head = torch.nn.Conv2d(4, likelihood.channels, 1)  # the noise of the classes is one of its outputs
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 1, 1), torch.nn.Tanh(), head)
    found, valid = targets()
    some = {name: found[name] for name in likelihood.parts}, {name: valid[name] for name in likelihood.parts}
    image = torch.rand(2, 3, 5, 7, generator=generator())
    method = LastLayerLaplace.fit(network, head, [((image,), *some)], likelihood.nll, samples=4, prior_precision=10.0)
    for prediction in predict(method, image, likelihood=likelihood, generator=generator()).values():
        check_prediction(prediction)
        assert prediction.epistemic.mean() > 0


def test_tiles_of_every_task_are_those_of_each_alone():
    likelihood = joint()
    (network, _), image = networks(likelihood), torch.rand(1, 3, 16, 24, generator=generator())
    method, how = Deterministic(network), {"tile": (12, 12), "overlap": 4}
    found = predict_tiled(method, image, likelihood=likelihood, generator=generator(), **how)
    for name, prediction in found.items():
        alone = predict_tiled(method, image, likelihood=likelihood.select_task(name), generator=generator(), **how)
        assert torch.equal(prediction.total, alone.total)


def test_joint_prediction_moves_resizes_and_is_written(tmp_path):
    likelihood = joint()
    (network, _), image = networks(likelihood), torch.rand(1, 3, 8, 12)
    found = predict(Deterministic(network), image, likelihood=likelihood)
    found = type(found)(found.parts, image).resized((4, 6)).to("cpu")
    assert found["depth"].mean.shape[-2:] == found["depth"].image.shape[-2:] == (4, 6)
    found.save(tmp_path / "cat.safetensors")
    again = type(found["depth"]).load(tmp_path / "cat_depth.safetensors")
    assert torch.equal(again.mean, found["depth"].mean)


def test_one_tensor_of_all_heads_serves_too():
    likelihood = joint()
    whole = Heads(
        torch.nn.Conv2d(3, sum(likelihood.heads.values()), 1), likelihood.heads, likelihood.homoscedastic_tasks
    )
    assert whole(torch.rand(1, 3, 4, 4)).shape[1] == likelihood.channels


def test_joint_unet_has_one_encoder_and_learns_all_of_it():
    network = JointUNet({"classes": 3, "depth": 2}, widths=(4, 6))
    names = {name.split(".")[0] for name, _ in network.named_parameters()}
    assert names == {"encoder", "decoders"}
    found = network(torch.rand(2, 3, 17, 13))
    assert {name: tuple(v.shape) for name, v in found.items()} == {"classes": (2, 3, 17, 13), "depth": (2, 2, 17, 13)}
    sum(v.square().sum() for v in found.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    with torch.no_grad():
        network.decoders["depth"].head.weight.zero_()
    with pytest.raises(ValueError, match="no task"):
        JointUNet({})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Joint({}), "no task"),
        (lambda: Joint({"depth": Laplace()}, {"classes": (0.0, 1.0)}), "none of the tasks depth"),
        (lambda: Joint({"classes": Categorical(3)}, {"classes": (0.0, 1.0)}), "has no location"),
        (lambda: Joint({"classes": LogitNormal(3)}, {"classes": (0.0, 1.0)}), "has no location"),
        (lambda: Joint({"depth": Laplace()}, {"depth": (0.0, 0.0)}), "spread above 0"),
        (lambda: joint().select_task("flow"), "none of the tasks"),
        (lambda: joint().terms(output(joint()), {"flow": None}, {}), "there is no task 'flow'"),
        (lambda: joint().nll(output(joint()), {}, {}), "no task"),
        (lambda: L1(2, scale=0.0), "above 0"),
        (lambda: L1(2).loss(torch.zeros(1, 2, 3, 3), torch.zeros(1, 1, 3, 3), torch.ones(1, 3, 3)), "shape"),
    ],
)
def test_what_makes_no_sense_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_head_that_is_missing_is_named():
    network = Heads(TwoHeads({"depth": 2}), ("classes", "depth"))
    with pytest.raises(ValueError, match="no entry 'classes'"):
        network(torch.rand(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"'other'.*NoneType"):
        Heads(TwoHeads({"depth": 2}), ("other",))(torch.rand(1, 3, 8, 8))
