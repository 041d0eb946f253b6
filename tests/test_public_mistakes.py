"""Mistakes that public code for dense uncertainty makes, and that this package does not make.

They were found in released pipelines and libraries. Every test computes what the package gives and what the mistake
would give from the same numbers, and shows that the two differ.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sfumato import (
    BaseMethod,
    Categorical,
    ClassPrediction,
    ClassScores,
    DeepEnsemble,
    Deterministic,
    Gaussian,
    LogitNormal,
    MCDropout,
    OODScores,
    ValuePrediction,
    ValueScores,
    predict,
)
from sfumato.calibration import ConformalSets
from sfumato.geometry import Trajectory, absolute_pose_errors, relative_pose_errors
from sfumato.metrics.ranking import pavpu
from sfumato.predictions import ClassMoments, entropy


class Given(BaseMethod):
    """A method with given draws."""

    def __init__(self, *outputs: torch.Tensor) -> None:
        super().__init__()
        self.outputs = outputs

    def draws(self, *_inputs, generator=None):
        yield from (output[None] for output in self.outputs)


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stretched(maps: torch.Tensor) -> torch.Tensor:
    """Each image scaled to [0, 1], as for a picture."""
    low, high = (f(maps, (-2, -1), keepdim=True) for f in (torch.amin, torch.amax))
    return (maps - low) / (high - low)


def binary_entropy(p: torch.Tensor) -> torch.Tensor:
    return -torch.special.xlogy(p, p) - torch.special.xlog1py(1 - p, -p)


def near(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(found, expected, atol=1e-5)


# What is computed from the draws


def test_probabilities_are_not_stretched_before_their_entropies():
    """Saliency pipelines write each sample as a picture stretched to [0, 255], and take entropies of the pictures."""
    ours = 0.45 + 0.1 * torch.rand(4, 1, 1, 5, 6, generator=torch.Generator().manual_seed(0))  # all pixels uncertain
    draws = torch.cat([1 - ours, ours], 2).log()
    prediction = predict(Given(*draws), likelihood=Categorical(2))
    assert near(prediction.total, binary_entropy(ours.mean(0))[:, 0])
    assert (prediction.total > 0.68).all()  # log 2 = 0.693
    mistaken = binary_entropy(stretched(ours).mean(0))[:, 0]
    assert (mistaken < 0.6).any()


def test_uncertainty_maps_are_not_stretched_by_image():
    """Scaled to [0, 1] image by image, a certain image and an uncertain one look the same."""
    certain, uncertain = (
        predict(Given(scale * logits(2, 3, 5, 6)), likelihood=Categorical(3)).total for scale in (9.0, 0.1)
    )
    assert certain.max() < 0.9 < uncertain.min()
    assert stretched(certain).max() == stretched(uncertain).max() == 1.0  # the mistake
    both = predict(Given(torch.cat([9.0 * logits(2, 3, 5, 6), 0.1 * logits(2, 3, 5, 6)])), likelihood=Categorical(3))
    assert near(both.total, torch.cat([certain, uncertain]))  # and the batch does not matter


def test_variances_are_averaged_not_summed():
    """Σ_t σ_t² in place of the mean grows with the number of draws."""
    outputs = [logits(1, 2, 4, 4, seed=t) for t in range(6)]
    found = predict(Given(*outputs), likelihood=Gaussian())
    variances = torch.stack([output[:, 1:].mul(2).exp() for output in outputs])
    means = torch.stack([output[:, :1] for output in outputs])
    assert near(found.aleatoric_variance, variances.mean(0))
    assert near(found.epistemic_variance, means.var(0, unbiased=False))
    assert not near(found.aleatoric_variance, variances.sum(0))
    twice = predict(Given(*outputs, *outputs), likelihood=Gaussian())
    assert near(twice.total, found.total)
    assert near(variances.repeat(2, 1, 1, 1, 1).sum(0), 2 * variances.sum(0))  # the mistake doubles


def test_standard_deviations_are_squared_before_they_are_averaged():
    outputs = [torch.zeros(1, 2, 1, 1), torch.tensor([0.0, math.log(3)]).view(1, 2, 1, 1)]  # σ = 1 and 3
    found = predict(Given(*outputs), likelihood=Gaussian())
    assert found.std.item() == pytest.approx(math.sqrt((1 + 9) / 2))
    assert found.std.item() != pytest.approx((1 + 3) / 2)


def test_total_is_the_entropy_of_the_mean_and_aleatoric_the_mean_of_entropies():
    """Two certain networks that disagree: all uncertainty is epistemic. Swapped parts or mean logits lose it."""
    draws = torch.tensor([[20.0, -20.0], [-20.0, 20.0]]).view(2, 1, 2, 1, 1)
    found = predict(Given(*draws), likelihood=Categorical(2))
    assert found.total.item() == pytest.approx(math.log(2), abs=1e-4)
    assert found.aleatoric.item() == pytest.approx(0, abs=1e-4)
    assert found.epistemic.item() == pytest.approx(math.log(2), abs=1e-4)
    small = predict(Given(*0.1 * draws), likelihood=Categorical(2)).aleatoric.item()
    assert small < 0.1
    assert entropy(draws.mean(0).softmax(1)).item() > 0.6  # the mean of logits loses how certain each one was


def test_one_output_channel_is_refused():
    """A softmax over one channel is 1 everywhere, and so every pixel certain."""
    assert (logits(1, 1, 3, 3).softmax(1) == 1).all()
    with pytest.raises(ValueError, match=r"classes is 1, expected at least 2"):
        Categorical(1)


def test_probabilities_are_averaged_before_the_logarithm():
    """The mean of cross-entropies over noisy logits is another loss: by Jensen a larger one."""
    likelihood = LogitNormal(3, samples=4000)
    output = torch.cat([logits(1, 3, 1, 1), torch.full((1, 3, 1, 1), 2.0)], 1)
    target, valid = torch.zeros(1, 1, 1, dtype=torch.int64), torch.ones(1, 1, 1, dtype=torch.bool)
    torch.manual_seed(0)
    found = likelihood.nll(output, target, valid).item()
    noisy = output[:, :3] + nn.functional.softplus(output[:, 3:]) * torch.randn(4000, 3, 1, 1)
    right, mistaken = -noisy.softmax(1)[:, 0].mean().log(), -noisy.log_softmax(1)[:, 0].mean()
    assert found == pytest.approx(right.item(), abs=0.03)
    assert mistaken - right > 0.1


# What is done to the network


class Small(nn.Module):
    def __init__(self, dropout: type[nn.Module] = nn.Dropout2d) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.dropout, self.head = dropout(0.5), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.head(self.dropout(self.norm(self.layer(x)).relu()))


def test_batch_normalization_uses_its_running_statistics():
    """In training mode test images change its statistics, and an image's uncertainty depends on its batch."""
    network, images = Small(), torch.rand(3, 3, 6, 6) + torch.arange(3).view(3, 1, 1, 1)
    network.dropout.p = 1e-4  # so rare that nothing but the batch could tell the draws apart
    before = network.norm.running_mean.clone()
    single, batched = (
        torch.cat(list(MCDropout(network, 2).draws(batch, generator=torch.Generator().manual_seed(0))))[:, :1]
        for batch in (images[:1], images)
    )
    assert near(single, batched)
    assert torch.equal(network.norm.running_mean, before)
    network.train()
    assert not near(network(images[:1]), network(images)[:1])  # the mistake
    assert not torch.equal(network.norm.running_mean, before)


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout2d, nn.AlphaDropout])
def test_every_kind_of_dropout_is_found(kind):
    """Recognizing only ``nn.Dropout`` leaves most segmentation networks without a draw."""
    prediction = predict(MCDropout(Small(kind), 8), torch.rand(1, 3, 6, 6), likelihood=Categorical(2))
    assert prediction.epistemic.max() > 0


@pytest.mark.parametrize("method", [Deterministic, lambda n: DeepEnsemble([n, n])], ids=["single", "ensemble"])
def test_members_are_evaluated_and_left_as_they_were(method):
    """Members left in training mode drop and normalize by batch, so that equal members disagree."""
    network, image = Small().train(), torch.rand(2, 3, 6, 6)
    found = predict(method(network), image, likelihood=Categorical(2))
    assert found.epistemic.max() < 1e-6
    assert all(module.training for module in network.modules())
    mistaken = [network(image).softmax(1) for _ in range(2)]
    assert not near(*mistaken)


# What is made of the scores


def scored(prediction: ClassPrediction, target: torch.Tensor, valid: torch.Tensor, size: int) -> dict[str, float]:
    scores = ClassScores(prediction.probs.shape[1])
    for start in range(0, len(target), size):
        part = slice(start, start + size)
        scores.update(ClassPrediction(prediction.probs[part], prediction.aleatoric[part]), target[part], valid[part])
    return {name: float(value) for name, value in scores.compute().items()}


def labeled() -> tuple[ClassPrediction, torch.Tensor, torch.Tensor]:
    """Eight images that differ in how certain and how right they are, each with void pixels."""
    size = torch.linspace(0.2, 3, 8).view(8, 1, 1, 1)
    prediction = ClassMoments.of((size * logits(8, 3, 6, 7)).softmax(1)).prediction()
    generator = torch.Generator().manual_seed(1)
    target = prediction.label.where(torch.rand(8, 6, 7, generator=generator) < 0.6, 2)
    valid = torch.rand(8, 6, 7, generator=generator) < 0.8
    return prediction, target.where(valid, 255), valid


def test_scores_are_pooled_over_pixels_not_averaged_over_batches():
    """A library scores batch by batch and averages: the number depends on the batch size."""
    prediction, target, valid = labeled()
    whole = scored(prediction, target, valid, 8)
    for size in (1, 3):
        assert scored(prediction, target, valid, size) == pytest.approx(whole, rel=1e-5, nan_ok=True)
    averaged = sum(
        scored(
            ClassPrediction(prediction.probs[i, None], prediction.aleatoric[i, None]),
            target[i, None],
            valid[i, None],
            1,
        )["ece"]
        for i in range(8)
    )
    assert abs(averaged / 8 - whole["ece"]) > 0.02


def test_every_pixel_is_scored_and_a_single_image_too():
    """A random hundredth of the pixels is noise; a guard against batches of one leaves scores at 0 or NaN."""
    prediction, target, valid = labeled()
    assert scored(prediction, target, valid, 8)["pixels"] == valid.sum()
    one = scored(ClassPrediction(prediction.probs[:1], prediction.aleatoric[:1]), target[:1], valid[:1], 1)
    right = (prediction.label == target)[:1][valid[:1]]
    assert one["accuracy"] == pytest.approx(right.float().mean().item())


def test_void_pixels_leave_before_anything_is_counted():
    """Counted as wrong, or binned and then taken out, they change accuracy and calibration."""
    prediction, target, valid = labeled()
    found = scored(prediction, target, valid, 8)
    right = prediction.label == target
    confident = prediction.confidence[valid]
    bins = (confident * 15).ceil().sub(1).clamp(0, 14).long()
    gaps = torch.zeros(15).index_add_(0, bins, right[valid].float() - confident)
    assert found["ece"] == pytest.approx(gaps.abs().sum().item() / int(valid.sum()), abs=1e-5)
    assert found["accuracy"] == pytest.approx(right[valid].float().mean().item())
    assert abs(found["accuracy"] - right.float().mean().item()) > 0.05  # void counted as wrong


def test_pavpu_counts_the_inaccurate_that_are_uncertain():
    """Public code has (n_ac + n_ic) / n, which is the share of certain pixels and knows nothing of errors."""
    good, bad = torch.tensor([5, 1]), torch.tensor([1, 3])  # of 10 pixels: certain first, then uncertain
    found = pavpu(good, bad, torch.tensor([0.6]))
    assert found["pavpu"].item() == pytest.approx((5 + 3) / 10)
    assert found["pavpu"].item() != pytest.approx((5 + 1) / 10)


def test_false_positives_at_95_are_pooled():
    """Averaged over batches, FPR95 is another number, and a batch without novel pixels has none."""
    generator = torch.Generator().manual_seed(0)
    total = torch.rand(4, 10, 10, generator=generator) + torch.arange(4).view(4, 1, 1) * 0.3
    novel = torch.rand(4, 10, 10, generator=generator) < 0.3
    novel[3] = False
    total = total + 0.4 * novel

    def predicted(part):
        variance = total[part, None]
        return ValuePrediction(0 * variance, variance, 0 * variance)

    def fpr(parts):
        scores = OODScores()
        for part in parts:
            scores.update(predicted(part), novel[part], torch.ones_like(novel[part]))
        return scores.compute()["ood_fpr95_total"].item()

    threshold = total[novel].sort().values[math.floor(0.05 * int(novel.sum()))]
    expected = (total[~novel] >= threshold).float().mean().item()
    batches = [slice(i, i + 1) for i in range(4)]
    assert fpr(batches) == pytest.approx(expected, abs=0.01)
    assert fpr(batches) == fpr([slice(0, 4)])
    single = [fpr([part]) for part in batches]
    assert math.isnan(single[3])
    assert abs(sum(single[:3]) / 3 - expected) > 0.05


def test_the_oracle_of_sparsification_sorts_by_the_error_it_removes():
    """An oracle that sorts by another error (the absolute for the relative one) can be beaten: AUSE below 0."""
    generator = torch.Generator().manual_seed(0)
    target = 1 + 9 * torch.rand(1, 1, 20, 20, generator=generator)
    mean = target + torch.randn(1, 1, 20, 20, generator=generator)
    relative = ((mean - target) / target).abs()
    scores = ValueScores()
    scores.update(ValuePrediction(mean, relative.square(), 0 * mean), target, torch.ones(1, 20, 20, dtype=torch.bool))
    found = {name: float(value) for name, value in scores.compute().items()}
    assert found["ause_abs_rel"] == pytest.approx(0, abs=1e-3)  # sorted by its own error: nothing is better
    kept = relative.flatten()[(mean - target).abs().flatten().argsort()]
    mistaken = kept.cumsum(0) / torch.arange(1, 401)
    best = relative.flatten().sort().values.cumsum(0) / torch.arange(1, 401)
    assert (best - mistaken).mean() < -0.005


def test_images_are_exchangeable_not_pixels():
    """Counting 8 images as 8 × 42 exchangeable pixels claims what eight images cannot show."""
    prediction, target, valid = labeled()
    with pytest.raises(ValueError, match="8 held-out images are too few"):
        ConformalSets.fit([(prediction, target, valid)], level=0.9)
    pixels = int(valid.sum())
    assert pixels > 200  # as pixels they would have been enough: 9 are


def test_paths_have_one_scale_and_the_first_pose_is_no_success():
    """Errors of five-frame pieces, each with a scale of its own and the first pose, whose error is always 0."""
    steps = torch.tensor([1.0, 2, 1, 3, 1, 1, 2, 1])[:, None] * torch.tensor([[0.1, 0, 0.02]])
    right = torch.cat([torch.zeros(1, 3), steps.cumsum(0)]).double()
    found = right.clone()
    found[5:] = right[4] + 4 * (right[5:] - right[4])  # the scale changes in the middle
    poses = torch.eye(4, dtype=torch.float64).repeat(2, 9, 1, 1)
    poses[0, :, :3, 3], poses[1, :, :3, 3] = right, found
    truth, estimate = (Trajectory(torch.arange(9), each) for each in poses)

    def piece(first: int) -> torch.Tensor:
        ours, theirs = (each[first : first + 5] - each[first] for each in (found, right))
        scaled = ours * (ours * theirs).sum() / ours.square().sum()
        return (scaled - theirs).norm() / math.sqrt(5)

    assert max(piece(0), piece(4)) < 1e-9  # the mistake sees no error at all
    assert absolute_pose_errors(estimate, truth, "first").meters[-1] > 1.4
    assert len(absolute_pose_errors(estimate, truth, "first").meters) == 8
    assert relative_pose_errors(estimate, truth, 1).meters[4:].min() > 0.29
