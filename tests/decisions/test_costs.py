"""Actions by expected cost, and the value of looking again, compared with sums by hand and with mutual information."""

import pytest
import torch

from sfumato.decisions import Costs, LogLoss, Looking, LookMoments
from sfumato.errors import ConfigError, DataError
from sfumato.likelihoods import Categorical, Gaussian
from sfumato.methods import MCDropout
from sfumato.predictions import ClassMoments, predict

NAMES = ("road", "car", "person")
TEXT = """
classes: [person, road, car]
costs:
  go: [100, 0, 20]
  stop: [0, 1, 1]
  ask: 0.5
"""


def draws(count=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, 3, 4, 5, generator=generator).mul(2).softmax(2)


def looked(probs, loss):
    found = None
    for p in probs:
        one = LookMoments.of(ClassMoments.of(p.clone()), loss)
        found = one if found is None else found.merge(one)
    return found.prediction()


@pytest.fixture
def costs(tmp_path):
    (tmp_path / "costs.yaml").write_text(TEXT)
    return Costs.read(tmp_path / "costs.yaml", NAMES)


def test_a_file_names_classes_in_any_order(costs):
    assert costs.actions == ("go", "stop", "ask")
    assert costs.matrix.tolist() == [[0, 20, 100], [1, 1, 0], [0.5, 0.5, 0.5]]


def test_the_action_has_the_least_expected_cost(costs):
    probs = draws()[0]
    action, cost = costs.best(probs)
    for place in ((0, 1, 2), (1, 3, 4), (0, 0, 0)):
        p = probs[place[0], :, place[1], place[2]]
        by_hand = [sum(float(c * q) for c, q in zip(row, p)) for row in costs.matrix]
        assert int(action[place]) == by_hand.index(min(by_hand))
        assert float(cost[place]) == pytest.approx(min(by_hand), rel=1e-5)
    sure = torch.tensor([[1.0, 0, 0], [0, 0, 1.0], [0.99, 0.005, 0.005], [0.997, 0.003, 0]])
    assert costs.best(sure)[0].tolist() == [0, 1, 2, 0]  # go, stop, ask whether there is a person, go
    assert costs.realized(torch.tensor([0, 0, 2]), torch.tensor([0, 2, 1])).tolist() == [0, 100, 0.5]


def test_with_log_loss_the_value_of_looking_again_is_the_mutual_information():
    found = looked(draws(), LogLoss())
    assert torch.allclose(found.value, found.prediction.epistemic, atol=1e-6)
    assert float(found.value.min()) > 1e-3


def test_a_fine_table_of_log_losses_gives_nearly_the_mutual_information():
    """Actions are 400 distributions of two classes that cost −log q."""
    q = (torch.arange(400) + 0.5) / 400
    table = Costs(tuple(map(str, range(400))), torch.stack([-q.log(), -(1 - q).log()], 1))
    probs = torch.rand(8, 1, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    found = looked(torch.cat([probs, 1 - probs], 2), table)
    assert torch.allclose(found.value, found.prediction.epistemic, atol=2e-3)


def test_the_value_of_looking_again_is_what_a_loop_gives_and_merges(costs):
    probs = draws()
    found = looked(probs, costs)
    each = torch.stack([costs.best(p)[1] for p in probs])
    assert torch.allclose(found.value, costs.best(probs.mean(0))[1] - each.mean(0), atol=1e-5)
    assert float(found.value.min()) >= 0
    halves = [
        LookMoments(ClassMoments(6, part.sum(0), torch.zeros(2, 4, 5)), sum(costs.least(p) for p in part), costs)
        for part in (probs[:6], probs[6:])
    ]
    assert torch.allclose(halves[0].merge(halves[1]).prediction().value, found.value, atol=1e-5)


def test_looking_again_is_worthless_where_draws_agree_about_the_action(costs):
    """They differ, so epistemic uncertainty is not 0, but each would stop."""
    probs = torch.tensor([[0.1, 0.1, 0.8], [0.2, 0.2, 0.6], [0.3, 0.1, 0.6]])[:, None, :, None, None]
    costs = Costs(("go", "stop"), costs.matrix[:2])
    found = looked(probs, costs)
    assert float(found.value) == pytest.approx(0, abs=1e-6)
    assert float(found.prediction.epistemic) > 0.01


def test_draws_of_a_method_give_it_in_one_pass():
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Dropout(0.5), torch.nn.Conv2d(8, 3, 1)
    ).eval()
    method, image = MCDropout(network, samples=5), torch.rand(2, 3, 8, 8)
    generator = torch.Generator().manual_seed(1)
    found = predict(method, image, likelihood=Looking(Categorical(3), LogLoss()), generator=generator)
    plain = predict(method, image, likelihood=Categorical(3), generator=generator.manual_seed(1))
    assert torch.equal(found.prediction.probs, plain.probs)
    assert torch.allclose(found.value, plain.epistemic, atol=1e-6)
    with pytest.raises(ConfigError, match="predicts values"):
        Looking(Gaussian(1), LogLoss()).moments(torch.zeros(1, 2, 4, 4))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[100, 0, 20]", "[100, 0]", "costs of 'go' are .100, 0., expected 3 numbers"),
        ("[100, 0, 20]", "[100, .nan, 20]", "NaN or infinity"),
        ("[100, 0, 20]", "[100, .inf, 20]", "NaN or infinity"),
        ("[100, 0, 20]", "[100, yes, 20]", "expected numbers"),
        ("[100, 0, 20]", "much", "expected 3 numbers"),
        ("person, road", "person, bike", "expected road, car, person"),
        ("costs:", "cost:", "expected the entries `classes`"),
        ("  stop: [0, 1, 1]\n  ask: 0.5\n", "", "at least two actions"),
        ("ask: 0.5", "ask: [", "costs.yaml"),
    ],
)  # fmt: skip
def test_bad_files(tmp_path, old, new, message):
    path = tmp_path / "costs.yaml"
    path.write_text(TEXT.replace(old, new))
    with pytest.raises(ConfigError, match=message) as found:
        Costs.read(path, NAMES)
    assert "costs.yaml" in str(found.value)


def test_bad_requests(tmp_path, costs):
    with pytest.raises(ConfigError, match="not a regular file"):
        Costs.read(tmp_path / "none.yaml", NAMES)
    with pytest.raises(DataError, match="of 3 classes, the probabilities of 4"):
        costs.best(torch.full((1, 4), 0.25))
