import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sfumato.errors import ConfigError, ResourceError
from sfumato.evaluation import Value
from sfumato.predictions import ClassPrediction
from sfumato.report import ReportData, ReportImage, page, write_page
from sfumato.tasks import Semantic

EVIL = "</script><script>alert('x')</script><img src=x onerror=alert(1)>"


def data_of(html):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1])


@pytest.fixture(scope="module", params=["class_report", "value_report"])
def told(request, tmp_path_factory):
    report = request.getfixturevalue(request.param)
    return report, write_page(report, tmp_path_factory.mktemp("page") / "report.html").read_text(encoding="utf-8")


def test_nothing_reaches_out(told):
    _, html = told
    addresses = set(re.findall(r"""(?:src|href|url\()\s*=?\s*["'(]?\s*((?:https?:)?//[^"')\s>]+)""", html))
    assert addresses == set()
    assert "default-src 'none'" in html
    assert "<script src" not in html


def test_everything_asked_for_is_told(told):
    report, html = told
    for fact in report.facts.values():
        assert fact in html
    for words in ("Reliability.", "Rejection.", "Out of distribution: unseen objects", "validation loss", "ratio"):
        assert words in html
    data = data_of(html)
    assert [image["name"] for image in data["images"]][: len(report.images)] == [each.name for each in report.images]
    assert list(data["groups"]) == ["all", "best", "worst", "most uncertain", "out of distribution: unseen objects"]
    for image in data["images"]:
        assert all(
            image[layer].startswith("data:image/") for layer in ("image", "target", "prediction", "parts", "error")
        )


def test_ids_are_unique(told):
    ids = re.findall(r'\sid="([^"]+)"', told[1])
    assert len(ids) == len(set(ids))


def test_names_are_text_never_markup(class_report, tmp_path):
    first = replace(class_report.images[0], name=EVIL, scores={EVIL: 1.0})
    task = replace(class_report.task, names=(EVIL, *class_report.task.names[1:]))
    report = replace(
        class_report, title=EVIL, facts={EVIL: EVIL}, scores={EVIL: Value(1.0, 0.0, 2.0)}, task=task, images=[first],
        groups={EVIL: [EVIL]}, reliability=None, rejection=None, ood=replace(class_report.ood, name=EVIL),
        history={EVIL: ([1], [1.0])},
    )  # fmt: skip
    html = write_page(report, tmp_path / "evil.html").read_text(encoding="utf-8")
    assert "<script>alert" not in html
    assert "<img src=x" not in html
    assert html.count("<script") == 2
    assert data_of(html)["images"][0]["name"] == EVIL


def test_the_page_stays_small_whatever_is_shown(class_report, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "WEIGHT", 40_000)
    report = replace(class_report, reliability=None, rejection=None, history={}, ood=None)
    html = write_page(report, tmp_path / "small.html").read_text(encoding="utf-8")
    texts = [text for image in data_of(html)["images"] for text in image.values() if isinstance(text, str)]
    assert sum(map(len, texts)) <= 40_000


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 2)])
def test_odd_images_without_any_truth(size, tmp_path):
    law = ClassPrediction(torch.full((1, 2, *size), 0.5), torch.full((1, *size), math.log(2)))
    nothing = torch.zeros(size, dtype=torch.int64), torch.zeros(size, dtype=torch.bool)
    task = Semantic(("a", "b"), ((0, 0, 0), (255, 255, 255)))
    shown = ReportImage("void", torch.zeros(3, *size), law, *nothing, scores={"miou": float("nan")})
    html = write_page(ReportData("Void", {}, task, {}, [shown]), tmp_path / "void.html").read_text(encoding="utf-8")
    assert "One draw was made" in html
    assert data_of(html)["images"][0]["scores"] == {}


def test_a_report_without_images_is_a_page(class_report, tmp_path):
    html = write_page(
        ReportData("Scores only", {"seed": "0"}, class_report.task, class_report.scores), tmp_path / "bare.html"
    )
    assert 'id="viewer"' not in html.read_text(encoding="utf-8")


def test_groups_name_images_that_are_shown(class_report, tmp_path):
    with pytest.raises(ConfigError, match="group 'best' names 'nobody'"):
        write_page(replace(class_report, groups={"best": ["nobody"]}), tmp_path / "x.html")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_page(class_report, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(self, text, **_):
        self.touch()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(ResourceError, match="disk is full"):
            write_page(replace(class_report, images=(), groups={}, ood=None), path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "old"


def several(class_report, value_report):
    """Both reports about two images of the same names."""
    few = {"groups": {}, "ood": None}
    named = [[replace(each, name=f"street {n}") for n, each in enumerate(report.images[:2])]
             for report in (class_report, value_report)]  # fmt: skip
    history = {"classes weight": ([1, 2], [1.0, 2.0]), "depth weight": ([1, 2], [1.0, 0.1])}
    return {
        "classes": replace(class_report, images=named[0], history=history, **few),
        "depth": replace(value_report, images=named[1], **few),
    }


def test_several_tasks_share_a_page(class_report, value_report, tmp_path):
    html = write_page(several(class_report, value_report), tmp_path / "several.html").read_text(encoding="utf-8")
    told = json.loads(html.partition('id="data">')[2].partition("</script>")[0])["tasks"]
    assert list(told) == ["classes", "depth"]
    assert [("image" in image) for task in told.values() for image in task["images"]] == [True, True, False, False]
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert html.count('class="swatches" data-task') == 2
    assert html.count("<h3>classes</h3>") == html.count("<h3>depth</h3>") == 2  # above scores, and above curves
    assert ">0.2<" in html  # weights on a logarithmic axis, with plain numbers


def test_tasks_of_a_page_show_the_same_images(class_report, value_report, tmp_path):
    reports = several(class_report, value_report)
    reports["depth"] = replace(reports["depth"], images=reports["depth"].images[::-1])
    with pytest.raises(ConfigError, match="classes, depth show different images"):
        write_page(reports, tmp_path / "x.html")
