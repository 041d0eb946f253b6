"""The page in a browser: deep links, keys, layers and the threshold, without an error on the console."""

import base64
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape

import pytest
import torch

from sfumato.evaluation import Value
from sfumato.predictions import ClassPrediction
from sfumato.report import Picture, ReportData, ReportImage, Saliency, display_maps, write_page
from sfumato.tasks import Semantic

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
         "--virtual-time-budget=6000"]  # fmt: skip
# Waits for the page, acts as a reader would, and leaves what it saw in the DOM.
ACTOR = """<script>(async () => {
  const at = (id) => document.getElementById(id), seen = {}, pause = () => new Promise((r) => setTimeout(r, 100));
  const corner = () => {
    const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    pen.drawImage(at("stage"), -2, 2 - at("stage").height);
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  while (!document.body.dataset.shown) await pause();
  const look = (name) => { seen[name] = { kept: at("kept").textContent, score: at("score").textContent,
    hash: location.hash, image: document.body.dataset.shown, picture: at("stage").toDataURL().length,
    corner: corner(),
    caption: at("caption").textContent, thumbs: at("thumbs").children.length,
    on: [...document.querySelectorAll("#tiles [aria-pressed=true]")].map((b) => b.dataset.layer).join() }; };
  look("start");
  for (const [name, act] of [
    ["cut", () => { at("cut").value = 90; at("cut").dispatchEvent(new Event("input")); }],
    ["epistemic", () => document.querySelector("[data-layer=epistemic]").click()],
    ["off", () => document.querySelector("[data-layer=epistemic]").click()],
    ["key", () => document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "3", bubbles: true }))],
    ["right", () => document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }))],
    ["left", () => document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft", bubbles: true }))],
    ["worst", () => document.querySelector("[data-group=worst]").click()],
  ]) { act(); await pause(); await pause(); look(name); }
  document.title = "seen:" + btoa(unescape(encodeURIComponent(JSON.stringify(seen))));
})();</script>"""


def browse(page, folder, hash="", size="800,600"):
    command = [
        CHROMIUM,
        *FLAGS,
        f"--window-size={size}",
        f"--user-data-dir={folder / 'profile'}",
        "--dump-dom",
        f"{page.as_uri()}{hash}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    return done.stdout


def text_of(dom, id):
    return re.search(rf'id="{id}"[^>]*>([^<]*)<', dom)[1]


@pytest.fixture(scope="module")
def pages(class_report, value_report, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    return {
        "classes": write_page(class_report, folder / "classes.html"),
        "values": write_page(value_report, folder / "values.html"),
    }


def kept(shown, by, threshold):
    """Fraction kept and errors of the kept, straight from the prediction."""
    keep = (display_maps(shown.prediction)[by][0] <= threshold) & shown.valid
    return keep, keep.sum().item() / shown.valid.sum().item()


def test_a_deep_link_shows_the_truth_of_classes(pages, class_report, tmp_path):
    dom = browse(pages["classes"], tmp_path, "#image=3&layer=total&threshold=0.4")
    shown = class_report.images[3]
    keep, fraction = kept(shown, "total", float(text_of(dom, "threshold").split()[0]))
    accuracy = (shown.prediction.label[0] == shown.target)[keep].float().mean().item()
    assert float(text_of(dom, "threshold").split()[0]) == pytest.approx(0.4, abs=0.01)
    assert float(text_of(dom, "kept").split()[0]) == pytest.approx(100 * fraction, abs=1)
    assert float(text_of(dom, "score").split()[0]) == pytest.approx(100 * accuracy, abs=0.5)
    assert shown.name in dom


def test_a_deep_link_shows_the_truth_of_values(pages, value_report, tmp_path):
    dom = browse(pages["values"], tmp_path, "#image=2&layer=error&by=epistemic&threshold=0.5")
    shown = value_report.images[2]
    keep, fraction = kept(shown, "epistemic", float(text_of(dom, "threshold").split()[0]))
    rmse = (shown.prediction.mean[0] - shown.target)[0][keep].square().mean().sqrt().item()
    assert float(text_of(dom, "kept").split()[0]) == pytest.approx(100 * fraction, abs=1)
    assert float(text_of(dom, "score").split()[0]) == pytest.approx(rmse, rel=0.03)
    assert text_of(dom, "score").endswith(" m")
    assert re.search(r'data-layer="error"[^>]*aria-pressed="true"', dom)


def test_a_reader_can_act(pages, tmp_path):
    acted = tmp_path / "acted.html"
    html = pages["classes"].read_text(encoding="utf-8")
    acted.write_text(html.replace("</body>", ACTOR + "</body>"), encoding="utf-8")
    dom = browse(acted, tmp_path)
    seen = json.loads(base64.b64decode(re.search(r"<title>seen:([^<]+)</title>", dom)[1]))
    assert seen["start"]["on"] == "total"
    assert seen["start"]["kept"] == "100.0 %"
    assert float(seen["cut"]["kept"].split()[0]) < 100
    assert float(seen["cut"]["score"].split()[0]) > float(seen["start"]["score"].split()[0])
    assert "threshold=" in seen["cut"]["hash"]
    assert seen["cut"]["picture"] != seen["start"]["picture"]
    assert (seen["epistemic"]["on"], seen["off"]["on"], seen["key"]["on"]) == ("epistemic", "image", "error")
    assert seen["epistemic"]["kept"] == seen["cut"]["kept"]  # looking at another layer does not move the threshold
    assert seen["start"]["corner"] == seen["epistemic"]["corner"] == [150, 157, 165], "gray without a target"
    assert seen["off"]["corner"] != [150, 157, 165], "the image itself is whole"
    assert (seen["right"]["image"], seen["left"]["image"]) == ("1", "0")
    assert seen["worst"]["thumbs"] == 3
    assert "1 of 3" in seen["worst"]["caption"]


def test_names_do_not_run(class_report, tmp_path):
    evil = "<img src=x onerror=console.error(1)>"
    shown = replace(class_report.images[0], name=evil, scores={})
    report = replace(
        class_report, title=evil, images=[shown], groups={evil: [evil]}, ood=None, reliability=None, history={}
    )
    dom = browse(write_page(report, tmp_path / "evil.html"), tmp_path)
    assert "<img src=x" not in dom.partition("application/json")[0]


def test_one_black_pixel_without_truth(tmp_path):
    law = ClassPrediction(torch.full((1, 2, 1, 1), 0.5), torch.zeros(1, 1, 1))
    void = ReportImage("void", torch.zeros(3, 1, 1), law, torch.zeros(1, 1).long(), torch.zeros(1, 1).bool())
    report = ReportData("Void", {}, Semantic(("a", "b"), ((0, 0, 0), (255, 255, 255))), {}, [void])
    dom = browse(write_page(report, tmp_path / "void.html"), tmp_path)
    assert (text_of(dom, "kept"), text_of(dom, "score")) == ("–", "–")


def test_a_deep_link_chooses_a_task(class_report, value_report, tmp_path):
    few = {"groups": {}, "ood": None, "history": {}}
    named = [[replace(report.images[0], name="street")] for report in (class_report, value_report)]
    reports = {
        "classes": replace(class_report, images=named[0], **few),
        "depth": replace(value_report, images=named[1], **few),
    }
    page = write_page(reports, tmp_path / "several.html")
    dom = browse(page, tmp_path, "#task=depth&image=0&layer=prediction")
    rmse = (named[1][0].prediction.mean[0] - named[1][0].target)[0][named[1][0].valid].square().mean().sqrt().item()
    assert float(text_of(dom, "score").split()[0]) == pytest.approx(rmse, rel=0.03)
    assert text_of(dom, "score").endswith(" m")
    (on,) = re.findall(r'<button[^>]*data-layer="[^>]*aria-pressed="true"[^>]*>', dom)
    assert 'data-task="depth"' in on
    assert re.search(r'<ul class="swatches" data-task="classes" hidden', dom)
    assert not re.search(r'<div class="swatches" data-task="depth" hidden', dom)


def test_the_score_table_fits_a_phone(class_report, tmp_path):
    long = {"aleatoric_correlation": Value(0.00387, 0.00295, 0.00467)}
    report = replace(class_report, scores={**class_report.scores, **long}, images=[], groups={}, ood=None)
    page = write_page(report, tmp_path / "phone.html")
    measure = """<script>addEventListener("load", () => {
      const wide = (cell) => cell.scrollWidth > cell.clientWidth + 1, table = document.querySelector("table.scores");
      const cells = [...table.querySelectorAll("th, td")].filter((cell) => cell.offsetParent);
      const end = Math.round(table.getBoundingClientRect().right);
      document.title = `cells:${cells.length} wide:${cells.filter(wide).length} end:${end} of:${innerWidth}`;
    });</script>"""
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", measure + "</body>"), encoding="utf-8")
    found = re.search(r"cells:(\d+) wide:(\d+) end:(\d+) of:(\d+)", browse(page, tmp_path, size="400,800"))
    cells, wide, end, width = map(int, found.groups())
    assert cells > 10
    assert wide == 0
    assert end <= width <= 500


CLICKER = """<script>(async () => {
  const at = (id) => document.getElementById(id), seen = [], pause = () => new Promise((r) => setTimeout(r, 200));
  while (!document.body.dataset.shown) await pause();
  const look = async () => {
    await pause();
    seen.push([...at("saliency").querySelectorAll("canvas")].map((c) => c.toDataURL()).join());
  };
  const click = (x, y) => {
    const box = at("stage").getBoundingClientRect();
    const where = { clientX: box.left + x * box.width, clientY: box.top + y * box.height, bubbles: true };
    at("stage").dispatchEvent(new MouseEvent("click", where));
  };
  await look(); click(0.9, 0.9); await look(); click(0.1, 0.1); await look();
  const layers = [...document.querySelectorAll("#tiles [data-further]")].map((b) => b.dataset.layer);
  const same = [seen[0] === seen[1], seen[0] === seen[2]];
  document.title = "seen:" + JSON.stringify({ hidden: at("saliency").hidden, same, layers });
})();</script>"""


def test_a_click_shows_what_the_answer_at_a_point_depends_on(value_report, tmp_path):
    shown = value_report.images[0]
    size = shown.image.shape[-2:]
    random = torch.Generator().manual_seed(0)
    spots = tuple(
        Saliency((place, place), (place * torch.eye(*size), torch.rand(size, generator=random)))
        for place in (0.25, 0.75)
    )
    drawn = torch.rand(3, 96, 128, generator=random)
    pictures = {"right": Picture(shown.image.flip(-1), "The right view."), "drawn": Picture(drawn, "Vectors.")}
    report = replace(value_report, images=(replace(shown, pictures=pictures, saliency=spots),), groups={}, ood=None)
    page = write_page(report, tmp_path / "page.html")
    html = page.read_text(encoding="utf-8")
    page.write_text(html.replace("</body>", CLICKER + "</body>"), encoding="utf-8")
    seen = json.loads(unescape(re.search(r"<title>seen:(.*?)</title>", browse(page, tmp_path))[1]))
    assert seen == {"hidden": False, "same": [False, True], "layers": ["right", "drawn"]}
