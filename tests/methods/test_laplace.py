import pytest
import torch
from torch import nn

from sfumato.errors import ResourceError
from sfumato.likelihoods import Categorical, Gaussian, LogitNormal
from sfumato.methods import LastLayerLaplace
from sfumato.methods.laplace import TRAINING
from sfumato.predictions import predict


class Net(nn.Module):
    def __init__(self, channels=3, after=False):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh())
        self.head = nn.Conv2d(4, channels, 1)
        self.after = after

    def forward(self, image):
        out = self.head(self.body(image))
        return out * 2 if self.after else out


def batches(count=3, seed=0):
    torch.manual_seed(seed)
    return [((torch.randn(2, 2, 4, 5),), torch.randint(3, (2, 4, 5)), torch.rand(2, 4, 5) > 0.2) for _ in range(count)]


def fitted(**how):
    torch.manual_seed(0)
    net, data = Net(), batches()
    return net, data, LastLayerLaplace.fit(net, net.head, data, Categorical(3).nll, **how)


def test_the_covariance_is_that_of_the_exact_hessian():
    net, data, method = fitted(prior_precision=0.7)
    net.eval()

    def loss(flat):  # weights (F + 1, C), channels fastest
        weights = flat.view(5, 3).T
        total = 0.5 * 0.7 * flat.square().sum()
        for (image,), target, valid in data:
            with torch.no_grad():
                features = net.body(image)
            output = nn.functional.conv2d(features, weights[:, :-1, None, None], weights[:, -1])
            total = total + Categorical(3).nll(output, target, valid).sum()
        return total

    at = torch.cat([net.head.weight[:, :, 0, 0], net.head.bias[:, None]], 1).T.flatten().detach()
    precision = torch.autograd.functional.hessian(loss, at).double()
    covariance = (method.factor @ method.factor.T).double()
    assert torch.allclose(covariance @ precision, torch.eye(15, dtype=torch.float64), atol=2e-3)


def test_draws_have_the_spread_of_the_posterior():
    net, data, _ = fitted()
    method = LastLayerLaplace.fit(net, net.head, data, Categorical(3).nll, samples=4000)
    image = torch.randn(1, 2, 2, 2)
    draws = torch.cat(list(method.draws(image, generator=torch.Generator().manual_seed(0))))[:, 0]
    assert not draws.requires_grad  # 4000 of them would keep what they were made of
    net.eval()
    with torch.no_grad():
        phi = torch.cat([net.body(image), torch.ones(1, 1, 2, 2)], 1)[0, :, 0, 0]
        exact = net(image)[0]
    assert torch.allclose(draws.mean(0), exact, atol=0.05)
    jacobian = torch.kron(phi[None], torch.eye(3))  # (C, (F + 1) C)
    covariance = jacobian @ method.factor @ method.factor.T @ jacobian.T
    assert torch.allclose(torch.cov(draws[:, :, 0, 0].T), covariance, rtol=0.1, atol=0.01)


def test_the_diagonal_is_that_of_the_exact_hessian():
    net, data, method = fitted(prior_precision=0.7, temperature=2.0)
    diagonal = LastLayerLaplace.fit(
        net, "head", data, Categorical(3).nll, prior_precision=0.7, temperature=2.0, structure="diagonal"
    )
    precision = torch.linalg.inv((method.factor @ method.factor.T).double() / 2)
    assert torch.allclose(diagonal.factor.double(), (2 / precision.diagonal()).sqrt(), rtol=1e-3)
    draws = torch.cat(list(diagonal.draws(data[0][0][0])))
    assert draws.shape == (20, 2, 3, 4, 5)


def wide(count=512, classes=150):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, count, 1), nn.Conv2d(count, classes, 1))
    data = [((torch.randn(1, 2, 2, 3),), torch.randint(classes, (1, 2, 3)), torch.ones(1, 2, 3) > 0)]
    return net, data, Categorical(classes)


def test_too_much_memory_is_refused_before_it_is_asked_for():
    net, data, likelihood = wide()
    with pytest.raises(ResourceError, match=r"needs about 176\.5 GiB: it has 76950 weights .* structure='diagonal'"):
        LastLayerLaplace.fit(net, "1", data, likelihood.nll)
    with pytest.raises(ResourceError, match=r"the full posterior .* limit is 0\.0 GiB"):
        LastLayerLaplace.fit(*fitted()[:1], "head", batches(), Categorical(3).nll, memory_limit=1000)


def test_a_run_falls_back_to_the_diagonal():
    net, data, likelihood = wide()
    with pytest.warns(UserWarning, match=r"diagonal of the Hessian only: all of it would need 176\.5 GiB"):
        state = TRAINING.fit(net, data, likelihood, 3)
    assert state["factor"].shape == (76950,)
    assert len(list(TRAINING.build([net], 3, state).draws(*data[0][0]))) == 3


def test_more_data_narrow_it_and_temperature_widens_it():
    net, data, _ = fitted()
    traces = [
        LastLayerLaplace.fit(net, net.head, data * n, Categorical(3).nll, temperature=t).factor.square().sum()
        for n, t in ((1, 1.0), (5, 1.0), (5, 4.0))
    ]
    assert traces[1] < traces[0]
    assert traces[2] == pytest.approx(4 * traces[1])


@pytest.mark.parametrize(
    "how", [{"mode": "bilinear"}, {"mode": "bilinear", "align_corners": True}, {"mode": "nearest"}]
)
def test_a_network_that_interpolates_the_output_of_its_head(how):
    """It is the network whose head reads enlarged features."""

    class Late(Net):
        def forward(self, image):
            return nn.functional.interpolate(self.head(self.body(image)), scale_factor=2, **how)

    class Early(Net):
        def forward(self, image):
            return self.head(nn.functional.interpolate(self.body(image), scale_factor=2, **how))

    torch.manual_seed(0)
    late, early = Late(), Early()
    early.load_state_dict(late.state_dict())
    data = [(image, torch.randint(3, (2, 8, 10)), torch.rand(2, 8, 10) > 0.2) for image, _, _ in batches()]
    one, other = (LastLayerLaplace.fit(net, net.head, data, Categorical(3).nll) for net in (late, early))
    covariances = [method.factor @ method.factor.T for method in (one, other)]
    assert torch.allclose(*covariances, atol=1e-5)
    one = LastLayerLaplace(late, "head", other.factor)  # eigenvectors may differ in sign
    drawn = [list(m.draws(torch.ones(1, 2, 4, 5), generator=torch.Generator().manual_seed(1))) for m in (one, other)]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*drawn))
    assert drawn[0][0].shape == (1, 1, 3, 8, 10)


def test_values_with_a_learned_scale():
    net = Net(2)
    data = [(i, torch.randn(2, 1, 4, 5), v) for i, _, v in batches()]
    method = LastLayerLaplace.fit(net, net.head, data, Gaussian().nll)
    prediction = predict(method, torch.randn(1, 2, 4, 5), likelihood=Gaussian())
    assert prediction.epistemic.isfinite().all()
    assert (prediction.epistemic > 0).all()


def test_refused():
    net, data = Net(), batches()
    with pytest.raises(ValueError, match="expected a 1 × 1 convolution"):
        LastLayerLaplace.fit(net, net.body[0], data, Categorical(3).nll)
    strided = nn.Sequential(nn.Conv2d(2, 3, 1, stride=2))
    with pytest.raises(ValueError, match=r"stride=\(2, 2\).*, expected .* stride 1"):
        LastLayerLaplace.fit(strided, "0", data, Categorical(3).nll)
    with pytest.raises(ValueError, match="Net has no module tail: its modules are body"):
        LastLayerLaplace.fit(net, "tail", data, Categorical(3).nll)
    with pytest.raises(ValueError, match="structure is 'kron', expected one of full, diagonal"):
        LastLayerLaplace.fit(net, net.head, data, Categorical(3).nll, structure="kron")
    late = Net(after=True)
    with pytest.raises(ValueError, match="is not what Net does last"):
        LastLayerLaplace.fit(late, late.head, data, Categorical(3).nll)
    with pytest.raises(ValueError, match="expected above 0"):
        LastLayerLaplace.fit(net, net.head, data, Categorical(3).nll, prior_precision=0)
    with pytest.raises(ValueError, match="no batch"):
        LastLayerLaplace.fit(net, net.head, [], Categorical(3).nll)
    noisy = Net(6)
    with pytest.raises(ValueError, match="cannot be differentiated twice"):
        LastLayerLaplace.fit(noisy, noisy.head, data, LogitNormal(3).nll)
