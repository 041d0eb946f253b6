"""The page of the service, in a browser."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from playwright import sync_api

from sfumato.runs import Predictor, Run, RunBackend
from sfumato.service import Model

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
]
SIZE = (60, 80)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def image():
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return torch.from_numpy(pixels).permute(2, 0, 1)[None], file.getvalue()


def complain(problems, message):
    refused = message.text.startswith("Failed to load resource")  # which some of these tests want
    if message.type == "error" and not refused:
        problems.append(message.text)


@pytest.fixture
def opened(browser):
    """A page of a given width that must load nothing from elsewhere and raise no error."""
    pages = []

    def open_page(url, width):
        page = browser.new_page(viewport={"width": width, "height": 800})
        problems = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: complain(problems, message))
        page.on("request", lambda request: None if request.url.startswith((url, "data:", "blob:")) else
                problems.append(request.url))  # fmt: skip
        page.goto(url)
        pages.append((page, problems))
        return page

    yield open_page
    for page, problems in pages:
        page.close()
        assert not problems


def upload(page, content):
    page.set_input_files("input[type=file]", {"name": "a.png", "mimeType": "image/png", "buffer": content})
    page.wait_for_selector("main:not([hidden])")


def cells(page):
    rows = page.locator("#pixel tr").all()
    return {row.locator("td").nth(0).inner_text(): row.locator("td").nth(1).inner_text() for row in rows}


@pytest.mark.parametrize("width", [1280, 390])
def test_maps_threshold_and_the_distribution_of_a_pixel(make_run, serve, opened, image, width):
    run = make_run(method="ensemble", members=2)
    predicted = Predictor(RunBackend(Run.open(run.folder, trust="all")))(image[0]).prediction
    with serve(Model(run.folder, trust="all")) as url:
        page = opened(f"{url}/", width)
        upload(page, image[1])
        titles = [each.inner_text().split("\n")[0] for each in page.locator("figcaption").all()]
        assert titles == ["label", "image", "total", "aleatoric", "epistemic"]
        assert page.evaluate("document.documentElement.scrollWidth") <= width

        box = page.locator("#maps canvas").nth(2).bounding_box()
        row, column = 40, 25
        place = {"x": (column + 0.5) * box["width"] / SIZE[1], "y": (row + 0.5) * box["height"] / SIZE[0]}
        page.locator("#maps canvas").nth(2).click(position=place)
        assert page.inner_text("#where") == f"Distribution at column {column}, row {row}"
        found, probs = cells(page), predicted.probs[0, :, row, column]
        for name, share in zip(run.task.names, probs.tolist(), strict=True):
            assert float(found[name]) == pytest.approx(share, abs=1e-4)
        assert float(found["total"].split()[0]) == pytest.approx(float(predicted.total[0, row, column]), rel=6e-3)
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
        assert page.inner_text("#where") == f"Distribution at column {column + 1}, row {row + 1}"

        assert page.inner_text("#kept") == "100.0 %"
        page.locator("#threshold").fill("990")
        limit = 0.99 * float(predicted.total.max())
        share = 100 * float((predicted.total <= limit).double().mean())
        assert float(page.inner_text("#kept").split()[0]) == pytest.approx(share, abs=0.2)


def test_values_show_an_interval_and_problems_are_said(make_run, serve, opened, image):
    run = make_run(task="depth", method="ensemble", members=2)
    predicted = Predictor(RunBackend(Run.open(run.folder, trust="all")))(image[0]).prediction
    with serve(Model(run.folder, trust="all"), "secret") as url:
        page = opened(f"{url}/", 800)
        with page.expect_response("**/predict**") as refusal:
            page.set_input_files("input[type=file]", {"name": "a.png", "mimeType": "image/png", "buffer": image[1]})
        assert json.loads(refusal.value.body())["error"] in page.inner_text("#status")
        page.locator("#secret").fill("secret")
        page.locator("#secret").press("Enter")
        page.wait_for_selector("main:not([hidden])")
        page.locator("#maps canvas").first.click(position={"x": 1, "y": 1})
        mean, half = float(predicted.mean[0, 0, 0, 0]), 1.645 * float(predicted.total[0, 0, 0].sqrt())
        low, high = (float(part) for part in cells(page)["90 % interval"].removesuffix(" m").split(" to "))
        assert low == pytest.approx(mean - half, rel=0.02, abs=0.02)
        assert high == pytest.approx(mean + half, rel=0.02, abs=0.02)
        with page.expect_response("**/predict**"):
            page.set_input_files("input[type=file]", {"name": "a.png", "mimeType": "image/png", "buffer": b"no image"})
        page.wait_for_selector("#status.bad")
        assert "not a whole image file" in page.inner_text("#status")
