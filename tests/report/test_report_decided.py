"""Decisions of a run as layers, p-values and sentences of its report, checked by hand."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from sfumato.data.colors import distinct
from sfumato.decisions import Abstention, Costs, Decisions, OutlierFlag
from sfumato.predictions import ClassPrediction
from sfumato.report import write_page
from sfumato.report.decided import RED, decision_pictures, decision_texts, p_values
from sfumato.runs import image_key

IMAGE = torch.full((3, 1, 3), 0.5)
# Entropies 0, log 2 and 0 in nats.
PREDICTION = ClassPrediction(torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]])[None, :, None], torch.zeros(1, 1, 3))
COSTS = Costs(("go", "stop", "ask"), torch.tensor([[0.0, 10.0], [1.0, 0.0], [0.4, 0.4]]))
ABSTENTION = Abstention(torch.tensor([0.5]), 0.1, 0.1, coverage=0.75, images=60)
FLAG = OutlierFlag.fit(torch.arange(60).double() / 100, 0.1, 0.1, measure="total")


def painted(color):
    return 0.4 * 0.5 + 0.6 * torch.tensor(color) / 255


def test_layers_by_hand():
    found = decision_pictures(Decisions(ABSTENTION, COSTS), PREDICTION, IMAGE)
    assert list(found) == ["abstained", "action"]
    abstained = found["abstained"].pixels
    assert torch.allclose(abstained[:, 0, 1], painted(RED))
    assert torch.allclose(abstained[:, 0, [0, 2]], torch.full((3, 2), 0.375))
    go, stop, ask = distinct(3)
    expected = torch.stack([painted(go), painted(ask), painted(stop)], -1)
    assert torch.allclose(found["action"].pixels[:, 0], expected)
    assert list(found["action"].key) == ["go", "stop", "ask"]
    assert found["action"].key["go"] == "#{:02x}{:02x}{:02x}".format(*go)
    assert "total uncertainty is 0.50" in found["abstained"].meaning


def test_regions_of_a_flag_are_a_layer():
    sharp = OutlierFlag.fit(torch.arange(60).double() / 100, 0.1, 0.1, measure="total", side=1)
    pixels = decision_pictures(Decisions(flag=sharp), PREDICTION, IMAGE)["unusual"].pixels
    assert torch.allclose(pixels[:, 0, 1], painted(RED))
    assert torch.allclose(pixels[:, 0, 0], torch.full((3,), 0.375))
    assert decision_pictures(Decisions(flag=FLAG), PREDICTION, IMAGE) == {}


def test_p_values_say_whether_an_image_is_flagged():
    run, sample = SimpleNamespace(facts=SimpleNamespace(inputs=("image",))), {"name": "a", "image": IMAGE}
    # The mean entropy is log 2 / 3 = 0.231: 36 of 60 scores are at least that large.
    assert p_values(run, Decisions(flag=FLAG), PREDICTION, sample) == {"p-value": pytest.approx(37 / 61)}
    unsure = replace(PREDICTION, probs=torch.full((1, 2, 1, 3), 0.5))
    assert p_values(run, Decisions(flag=FLAG), unsure, sample) == {"p-value (flagged)": pytest.approx(1 / 61)}
    own = replace(FLAG, fitted_on=(image_key(sample, ("image",)),))
    assert p_values(run, Decisions(flag=own), PREDICTION, sample) == {}
    assert p_values(run, Decisions(), PREDICTION, sample) == {}


def test_sentences():
    task = SimpleNamespace(names=("road", "car"))
    found = decision_texts(Decisions(ABSTENTION, COSTS, FLAG, ("flag.safetensors",)), task)
    assert list(found) == ["abstain", "cost", "flag", "outdated"]
    assert "at most 0.1 with probability 0.9. 75 % of the pixels" in found["abstain"]
    assert "go, stop, ask" in found["cost"]
    assert f"above {FLAG.threshold:.3g}. At most 0.1 of images like the 60 held-out ones" in found["flag"]
    assert "Run `sfumato decide` again" in found["outdated"]
    assert decision_texts(Decisions(), task) == {}


def test_the_page_has_sentences_and_the_key_of_a_layer(class_report, tmp_path):
    shown = class_report.images[0]
    wide = Costs(("go", "<b>stop</b>"), torch.rand(2, shown.prediction.probs.shape[1]))
    pictures = decision_pictures(Decisions(costs=wide), shown.prediction, shown.image)
    report = replace(
        class_report, images=(replace(shown, pictures=pictures),), groups={}, ood=None,
        decisions=decision_texts(Decisions(costs=wide), class_report.task),
    )  # fmt: skip
    html = write_page(report, tmp_path / "page.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1])
    assert data["keys"]["action"] == dict(pictures["action"].key)
    assert data["pictures"] == {"action": "The action with the least expected cost."}
    assert "<h2>Decisions</h2>" in html
    assert "of go, &lt;b&gt;stop&lt;/b&gt;." in html
