"""LogitNormal against the materialized form, closed forms, and the promises its docstring makes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import softplus

from sfumato.likelihoods import Categorical, LogitNormal, logit_normal_nll
from sfumato.likelihoods.mean_softmax import mean_softmax
from sfumato.testing import check_likelihood


def problem(classes=5, size=(2, 6, 7), scale=1.0, dtype=torch.float64):
    torch.manual_seed(0)
    output = (torch.randn(size[0], 2 * classes, *size[1:], dtype=dtype) * scale).requires_grad_()
    return output, torch.randint(classes, size), torch.rand(size) > 0.2


def seeded_nll(likelihood, output, target, valid, seed=1):
    torch.manual_seed(seed)
    return likelihood.nll(output, target, valid)


def materialized(output, target, valid, samples, seed=1):
    """The usual form, every sample in memory and autograd through it, fed the noise of a call that fits one block."""
    channels, height, width = output.shape[1:]
    classes, pixels = channels // 2, height * width
    torch.manual_seed(seed)
    window = samples // 2 * classes * pixels
    pool = torch.randn(2 * samples * classes * pixels, dtype=output.dtype)
    noises = []
    for labels in target.flatten(1):
        start = int(torch.randint(len(pool) - window + 1, ()))
        noise = pool[start : start + window].view(samples // 2, classes, pixels).clone()
        # The implementation exchanges class 0 and the target's before it applies the noise.
        first, own = noise[:, 0].clone(), noise.gather(1, labels.expand(len(noise), 1, -1))
        noise.scatter_(1, labels.expand(len(noise), 1, -1), first[:, None])
        noise[:, :1] = own
        noises.append(noise.unflatten(-1, (height, width)))
    noise = torch.stack(noises, 1)
    logits, scales = output[:, :classes], softplus(output[:, classes:])
    log_probs = (logits + scales * torch.cat([noise, -noise])).log_softmax(2)
    log_py = log_probs.gather(2, target.expand(samples, -1, -1, -1)[:, :, None])[:, :, 0]
    return (math.log(samples) - log_py.logsumexp(0)).where(valid, 0.0)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 1e-5)])
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("samples", [2, 10])
def test_loss_and_gradient_are_those_of_the_materialized_form(dtype, tolerance, scale, samples):
    output, target, valid = problem(scale=scale, dtype=dtype)
    usual = output.detach().clone().requires_grad_()
    weights = torch.randn(target.shape)
    loss = seeded_nll(LogitNormal(5, samples), output, target, valid)
    expected = materialized(usual, target, valid, samples)
    (loss * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(loss, expected, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(output.grad, usual.grad, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("block", [1, 3 * 4 * 4, 1 << 19])
def test_gradient_is_the_derivative_of_the_loss_in_blocks_of_any_size(monkeypatch, block):
    monkeypatch.setitem(logit_normal_nll.BLOCK, "cpu", block)
    output, target, valid = problem(classes=3, size=(2, 2, 4))
    likelihood = LogitNormal(3, 4)
    assert torch.autograd.gradcheck(lambda x: seeded_nll(likelihood, x, target, valid), (output,))


def test_many_samples_reach_the_exact_law_of_two_classes():
    # p(y=1) = E sigmoid(f1 - f0 + sqrt(s0² + s1²) z): one integral, by Gauss-Hermite
    raw = torch.tensor([0.3, -0.8, 1.0, 0.2], dtype=torch.float64)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    spread = softplus(raw[2:]).square().sum().sqrt()
    exact = (torch.sigmoid(raw[1] - raw[0] + spread * torch.tensor(nodes)) * torch.tensor(weights)).sum()
    exact = (exact / math.sqrt(2 * math.pi)).item()
    output = raw.view(1, 4, 1, 1).expand(1, 4, 40, 50)
    everywhere = torch.ones(1, 40, 50, dtype=torch.bool)
    torch.manual_seed(0)
    nll = LogitNormal(2, 200).nll(output, everywhere.long(), everywhere)
    assert nll.mean().item() == pytest.approx(-math.log(exact), abs=2e-3)
    assert LogitNormal(2).moments(output).probs[0, 1, 0, 0].item() == pytest.approx(exact, abs=5e-3)


def test_probabilities_are_averaged_before_the_logarithm():
    output = torch.tensor([0.0, 0.0, 5.0, 5.0]).view(1, 4, 1, 1).expand(1, 4, 40, 50)
    everywhere = torch.ones(1, 40, 50, dtype=torch.bool)
    torch.manual_seed(0)
    loss = LogitNormal(2, 100).nll(output, everywhere.long(), everywhere).mean().item()
    assert loss == pytest.approx(math.log(2), abs=0.02)  # by symmetry; the mean of cross-entropies would be 2.5


def test_without_noise_it_is_categorical():
    output, target, valid = problem()
    quiet = torch.cat([output[:, :5].detach(), torch.full_like(output[:, 5:], -40.0)], 1)
    expected = Categorical(5).nll(quiet[:, :5], target, valid)
    torch.testing.assert_close(seeded_nll(LogitNormal(5), quiet, target, valid), expected)
    torch.testing.assert_close(LogitNormal(5).moments(quiet).probs, quiet[:, :5].softmax(1))


@pytest.mark.parametrize("raw", [-1000.0, 50.0, 1000.0, 1e6])
@pytest.mark.parametrize("logit", [0.0, 1000.0, -1000.0])
def test_extreme_scales_and_logits_stay_finite(raw, logit):
    output = torch.full((1, 6, 8, 8), raw)
    output[:, :3] = torch.tensor([logit, 0.0, 0.0])[:, None, None]
    output.requires_grad_()
    everywhere = torch.ones(1, 8, 8, dtype=torch.bool)
    loss = LogitNormal(3).nll(output, torch.zeros(1, 8, 8, dtype=torch.long), everywhere)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert output.grad.isfinite().all()
    probs = LogitNormal(3).moments(output).probs
    torch.testing.assert_close(probs.sum(1), torch.ones(1, 8, 8))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([-100, 255, 2**40]), st.floats(-1e4, 1e4))
def test_void_is_never_looked_at(seed, mark, noise):
    output, target, valid = problem()
    likelihood = LogitNormal(5)
    other = output.detach().where(valid[:, None], noise).requires_grad_()
    first = seeded_nll(likelihood, output, target, valid, seed)
    second = seeded_nll(likelihood, other, target.where(valid, mark), valid, seed)
    first.sum().backward()
    second.sum().backward()
    assert torch.equal(first, second)
    assert (second[~valid] == 0).all()
    assert torch.equal(output.grad, other.grad)
    assert (other.grad.movedim(1, -1)[~valid] == 0).all()
    output.grad = None


def test_memory_format_and_autocast_do_not_change_the_loss():
    output, target, valid = problem(dtype=torch.float32)
    likelihood = LogitNormal(5)
    reference = seeded_nll(likelihood, output, target, valid)
    reference.sum().backward()
    last = output.detach().to(memory_format=torch.channels_last).requires_grad_()
    loss = seeded_nll(likelihood, last, target, valid)
    loss.sum().backward()
    assert torch.equal(loss, reference)
    assert torch.equal(last.grad, output.grad)
    half = output.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = seeded_nll(likelihood, half, target, valid)
    loss.sum().backward()
    assert loss.dtype == torch.float32
    assert half.grad.dtype == torch.bfloat16
    torch.testing.assert_close(loss, seeded_nll(likelihood, half.float(), target, valid))


def saved_bytes(samples):
    output, target, valid = problem(size=(1, 32, 32), dtype=torch.float32)
    loss = LogitNormal(5, samples).nll(output, target, valid)
    stack, found = [loss.grad_fn], 0
    while stack:
        node = stack.pop()
        found += sum(t.nbytes for t in getattr(node, "saved_tensors", ()))
        stack += [parent for parent, _ in node.next_functions if parent is not None]
    return found


def peak_bytes(samples):
    """The most that a forward and a backward pass hold at once, from the allocator's own log."""
    output, target, valid = problem(size=(1, 64, 64), dtype=torch.float32)
    likelihood = LogitNormal(5, samples)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as log:
        likelihood.nll(output, target, valid).sum().backward()
    now = peak = 0
    for event in log.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def test_memory_does_not_grow_with_samples(monkeypatch):
    monkeypatch.setitem(logit_normal_nll.BLOCK, "cpu", 1 << 12)
    assert saved_bytes(2) == saved_bytes(100) > 0
    assert peak_bytes(100) < 1.1 * peak_bytes(4)


def test_noise_has_the_law_it_claims():
    torch.manual_seed(0)
    sampler = logit_normal_nll._Sampler(torch.zeros(1, 2, 7, 4000), samples=6)
    noise = torch.cat([sampler.draw(2000)[0].clone() for _ in range(50)], -1)
    flat = noise.flatten(0, 1)  # 21 values per pixel
    assert flat.mean(1).abs().max() < 0.03
    torch.testing.assert_close(torch.cov(flat), torch.eye(21), atol=0.05, rtol=0)


def test_prediction_needs_no_generator_and_every_pixel_stands_alone():
    output, *_ = problem(size=(3, 9, 11), dtype=torch.float32)
    state = torch.random.get_rng_state()
    probs = LogitNormal(5).moments(output).probs
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.testing.assert_close(LogitNormal(5).moments(output[1:2, :, 2:5, 3:4]).probs, probs[1:2, :, 2:5, 3:4])


def sampled_mean(logits, scales, samples=1 << 14):
    """The mean softmax (K, N) over many quasi-random normal numbers."""
    uniform = torch.quasirandom.SobolEngine(len(logits), scramble=True, seed=0).draw(samples).double()
    noise = torch.special.ndtri(uniform.clamp(1e-9, 1 - 1e-9))
    return sum((logits + scales * e[:, None]).softmax(0) for e in noise) / samples


def pixels(classes, largest, count=40):
    generator = torch.Generator().manual_seed(classes)
    logits = 2 * torch.randn(classes, count, generator=generator, dtype=torch.float64)
    return logits, largest * torch.rand(classes, count, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("classes", [2, 4, 11, 19])
@pytest.mark.parametrize(("largest", "mean", "most"), [(0.75, 0.002, 0.004), (3.0, 0.006, 0.022)])
def test_mean_softmax_is_that_of_many_samples(classes, largest, mean, most):
    logits, scales = pixels(classes, largest)
    distance = (mean_softmax(logits, scales) - sampled_mean(logits, scales)).abs().sum(0) / 2
    assert distance.mean() < mean
    assert distance.max() < most


@pytest.mark.parametrize(("classes", "most"), [(2, 0.06), (4, 0.1), (11, 0.1)])
def test_mean_softmax_bears_large_beside_small_scales(classes, most):
    logits, scales = pixels(classes, 30.0)
    distance = (mean_softmax(logits, scales) - sampled_mean(logits, scales)).abs().sum(0) / 2
    assert distance.max() < most


def test_mean_softmax_treats_all_classes_alike():
    logits, scales = pixels(7, 3.0)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mean_softmax(logits[order], scales[order]), mean_softmax(logits, scales)[order])
    torch.testing.assert_close(mean_softmax(logits + 5, scales), mean_softmax(logits, scales))


def test_entropy_is_that_of_the_mean_probabilities():
    torch.manual_seed(0)
    moments = LogitNormal(11).moments(torch.randn(2, 22, 20, 20))
    torch.testing.assert_close(moments.entropy, torch.special.entr(moments.probs).sum(1))
    assert (moments.prediction().aleatoric <= moments.prediction().total).all()


def test_blocks_do_not_change_the_prediction(monkeypatch):
    output, *_ = problem(size=(2, 9, 11), dtype=torch.float32)
    whole = LogitNormal(5).moments(output)
    monkeypatch.setitem(logit_normal_nll.BLOCK, "cpu", 4 * 2 * 5 * 7)
    blocks = LogitNormal(5).moments(output.to(memory_format=torch.channels_last))
    torch.testing.assert_close(blocks.probs, whole.probs)
    torch.testing.assert_close(blocks.entropy, whole.entropy)


def test_exported_graph_gives_the_same_numbers():
    class Network(torch.nn.Module):
        def forward(self, output):
            moments = LogitNormal(5).moments(output)
            return moments.probs, moments.entropy

    output, *_ = problem(size=(2, 6, 7), dtype=torch.float32)
    graph = torch.export.export(Network(), (output.detach(),)).module()
    for found, expected in zip(graph(output.detach()), Network()(output.detach()), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("event", [(), (6,), (3, 4)])
def test_any_event(event):
    check_likelihood(LogitNormal(3), torch.randint(3, (4, *event)))


def test_true_law_wins():
    """On labels drawn from a logit-normal law, neither less nor more noise scores better than the true scale."""
    torch.manual_seed(0)
    logits = torch.tensor([2.0, 0.0, -1.0])
    drawn = (logits + 2.0 * torch.randn(300, 400, 3)).softmax(-1)
    target = torch.multinomial(drawn.flatten(0, 1), 1).view(1, 300, 400)

    def score(scale):
        raw = torch.tensor([2.0, 0.0, -1.0, *[math.log(math.expm1(scale))] * 3])
        probs = LogitNormal(3).moments(raw.view(1, 6, 1, 1)).probs.expand(1, 3, 300, 400)
        return -probs.gather(1, target[:, None]).log().mean().item()

    assert score(2.0) < min(score(0.5), score(6.0)) - 0.01


@pytest.mark.parametrize("arguments", [(1, 10), (3, 0), (3, 5), (3, -2)])
def test_refuses_what_it_cannot_mean(arguments):
    with pytest.raises(ValueError, match="expected"):
        LogitNormal(*arguments)
