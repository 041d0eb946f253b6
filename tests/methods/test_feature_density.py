import math

import numpy as np
import pytest
import torch
from sklearn.covariance import EmpiricalCovariance
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from torch import nn
from torch.distributions import Categorical as Weights
from torch.distributions import MixtureSameFamily, MultivariateNormal

from sfumato.likelihoods import Categorical
from sfumato.methods import FeatureDensity
from sfumato.metrics import OODScores
from sfumato.models import UNet
from sfumato.predictions import predict


class Net(nn.Module):
    """Its features are the image's channels, mixed."""

    def __init__(self, stride=1):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(4, 4, 1, stride)
        self.head = nn.Conv2d(4, 3, 1)
        self.stride = stride

    def forward(self, image):
        return nn.functional.interpolate(self.head(self.body(image)), scale_factor=self.stride)


def batches(count=4, seed=0, size=12):
    """Class k has features of its own mean and spread."""
    random = torch.Generator().manual_seed(seed)
    data = []
    for _ in range(count):
        target = torch.randint(3, (2, size, size), generator=random)
        image = torch.randn(2, 4, size, size, generator=random) * (1 + target[:, None]) + 3 * target[:, None]
        data.append(((image,), target, torch.rand(2, size, size, generator=random) < 0.8))
    return data


def pixels(net, data, k=None):
    """Valid features (N, F), of class k where it is given."""
    found = []
    with torch.no_grad():
        for (image,), target, valid in data:
            keep = valid if k is None else valid & (target == k)
            found.append(net.body(image).movedim(1, -1)[keep])
    return torch.cat(found).double().numpy()


def test_one_gaussian_is_that_of_sklearn():
    net, data = Net(), batches()
    method = FeatureDensity.fit(net, net.head, data, classes=1)
    seen = pixels(net, data)
    exact = EmpiricalCovariance().fit(seen)
    floor = 1e-5 * np.diag(exact.covariance_).mean()
    precision = np.linalg.inv(exact.covariance_ + floor * np.eye(4))
    mixture = GaussianMixture(1)
    mixture.weights_, mixture.means_, mixture.covariances_ = np.ones(1), seen.mean(0)[None], None
    mixture.precisions_cholesky_ = np.linalg.cholesky(precision)[None]
    features = net.body(data[0][0][0]).detach()
    expected = mixture.score_samples(features.movedim(1, -1).reshape(-1, 4).double().numpy())
    assert np.allclose(method.log_density(features).flatten(), expected, atol=1e-3)


def test_the_mixture_is_that_of_torch_distributions():
    net, data = Net(), batches()
    method = FeatureDensity.fit(net, net.head, data, classes=3)
    exact = MixtureSameFamily(
        Weights(logits=method.log_priors),
        MultivariateNormal(method.means, precision_matrix=method.whitening.mT @ method.whitening),
    )
    output, density = method.look(data[0][0][0])
    features = net.body(data[0][0][0]).movedim(1, -1)
    assert torch.equal(output, net(data[0][0][0]))
    assert torch.allclose(density, exact.log_prob(features), atol=1e-3)
    assert method.peak == pytest.approx(torch.logsumexp(
        method.log_priors + exact.component_distribution.log_prob(method.means), 0).item(), abs=1e-3)  # fmt: skip
    assert (density <= method.peak).all()


def test_each_class_has_the_moments_of_its_pixels():
    net, data = Net(), batches(8)
    method = FeatureDensity.fit(net, net.head, data, classes=3)
    seen = [pixels(net, data, k) for k in range(3)]
    labels = np.repeat(np.arange(3), [len(s) for s in seen])
    reference = QuadraticDiscriminantAnalysis(store_covariance=True).fit(np.concatenate(seen), labels)
    precision = (method.whitening.double().mT @ method.whitening.double()).numpy()
    shared = sum((s - s.mean(0)).T @ (s - s.mean(0)) for s in seen) / len(labels)
    for k, own in enumerate(seen):
        assert math.exp(method.log_priors[k]) == pytest.approx(len(own) / len(labels), rel=1e-5)
        assert np.allclose(method.means[k], reference.means_[k], atol=1e-4)
        # drawn towards the shared one with the weight of F + 1 = 5 pixels, and lifted by the floor
        expected = (len(own) * np.cov(own.T, bias=True) + 5 * shared) / (len(own) + 5)
        expected += 1e-5 * np.diag(shared).mean() * np.eye(4)
        assert np.allclose(np.linalg.inv(precision[k]), expected, rtol=1e-4, atol=1e-4)
        assert np.allclose(expected, reference.covariance_[k], rtol=0.2, atol=0.2)


def test_neither_order_nor_batches_nor_what_is_not_valid_matter():
    net, data = Net(), batches()
    spoilt = [(i, t.where(v, 999), v) for i, t, v in reversed(data)]
    together = [((torch.cat([i[0] for i, _, _ in spoilt]),), *(torch.cat(x) for x in list(zip(*spoilt))[1:]))]
    one, other = (FeatureDensity.fit(net, net.head, d, classes=3) for d in (data, together))
    image = batches(1, seed=7)[0][0][0]
    assert torch.allclose(one.look(image)[1], other.look(image)[1], atol=1e-3)


def test_a_class_of_two_pixels_and_an_absent_one():
    net, ((inputs, target, _),) = Net(), batches(1)
    target = torch.zeros_like(target)
    target[0, 0, :2] = 1
    method = FeatureDensity.fit(net, net.head, [(inputs, target, target >= 0)], classes=3)
    assert len(method.means) == 2
    assert method.look(*inputs)[1].isfinite().all()


def test_a_constant_feature_that_changes_is_very_novel():
    net, data = Net(), batches()
    with torch.no_grad():
        net.body.weight[0] = 0
    method = FeatureDensity.fit(net, net.head, data, classes=3)
    features = net.body(data[0][0][0]).detach()
    changed = features.clone()
    changed[:, 0] += 1
    assert method.log_density(features).isfinite().all()
    assert (method.log_density(changed) < method.log_density(features) - 100).all()


def test_features_smaller_than_the_output():
    net, data = Net(stride=2), batches()
    method = FeatureDensity.fit(net, net.head, data, classes=3)
    output, density = method.look(data[0][0][0])
    assert density.shape == output.shape[:1] + output.shape[2:] == (2, 12, 12)


def test_novel_pixels_are_unlikely():
    net, data = Net(), batches()
    method = FeatureDensity.fit(net, net.head, data, classes=3)
    ((image,), _, valid) = batches(1, seed=5)[0]
    novel = torch.zeros_like(valid)
    novel[:, :4] = True
    image = image.where(~novel[:, None], image.flip(1) - 12)
    output, density = method.look(image)
    prediction = predict(method, image, likelihood=Categorical(3))
    assert torch.equal(prediction.probs, output.softmax(1))
    torch.testing.assert_close(prediction.novelty, method.peak - density)
    assert torch.equal(method.novelty(image), prediction.novelty)
    scores = OODScores()
    scores.update(prediction, novel, valid)
    found = scores.compute()["ood_auroc_novelty"].item()
    assert found == pytest.approx(roc_auc_score(novel[valid], -density[valid]), abs=2e-3)
    assert found > 0.9


def test_any_layer_of_a_real_network():
    net = UNet(3, widths=(4, 8))
    data = [((torch.rand(2, 3, 12, 12),), torch.randint(3, (2, 12, 12)), torch.ones(2, 12, 12) > 0)]
    for layer in (net.head, net.center):
        assert FeatureDensity.fit(net, layer, data, classes=3).look(*data[0][0])[1].shape == (2, 12, 12)


def test_refused():
    net, data = Net(), batches(1)
    inputs, target, valid = data[0]
    with pytest.raises(ValueError, match="classes is 0"):
        FeatureDensity.fit(net, net.head, data, classes=0)
    with pytest.raises(ValueError, match=r"a valid target is 2, expected a class in \[0, 2\)"):
        FeatureDensity.fit(net, net.head, data, classes=2)
    with pytest.raises(ValueError, match="no pixel is valid"):
        FeatureDensity.fit(net, net.head, [(inputs, target, valid & False)], classes=3)
    with pytest.raises(ValueError, match="no pixel is valid"):
        FeatureDensity.fit(net, net.head, [], classes=3)
    with pytest.raises(ValueError, match=r"Net has no module Tanh\(\): its modules are body, head"):
        FeatureDensity.fit(net, nn.Tanh(), data, classes=3)
