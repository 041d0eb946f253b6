"""The boxes of a page in a browser: a slider moves the bounds, and the counts are those of the numbers."""

import shutil
import subprocess
from dataclasses import replace

import pytest

from sfumato.report import BoxSection, write_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr", "--dump-dom",
         "--virtual-time-budget=4000")  # fmt: skip
# Two boxes: one whose left edge is 3 px off with a standard deviation of 2 px, and a false one.
SECTION = BoxSection(
    {
        "images": [
            {
                "name": "a",
                "image": "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAACAkQBADs=",
                "width": 64,
                "height": 48,
                "boxes": [
                    [[13, 10, 30, 30], [2, 2, 2, 2], 0, 0.9, 0],
                    [[40, 10, 60, 30], [1, 1, 1, 1], 1, 0.4, -1],
                ],
                "true": [[[10, 10, 30, 30], 0, 0]],
            }
        ],
        "classes": ["cup", "<b>ball</b>"],
        "colors": ["#ff0000", "#00ff00"],
        "factor": 1.0,
    },
    [("cup", "#ff0000"), ("<b>ball</b>", "#00ff00")],
)
ACTOR = """<script>
  const at = (id) => document.getElementById(id), seen = [];
  const view = at("box-view");
  const look = () => seen.push([at("box-readout").textContent, view.querySelector(".outer").getAttribute("x"),
    view.querySelectorAll("g.box").length].join("|"));
  const set = (id, value) => { at(id).value = value; at(id).dispatchEvent(new Event("input")); look(); };
  look(); set("box-factor", 2); set("box-score", 0.5); set("box-factor", 6);
  document.body.append(Object.assign(document.createElement("pre"), { id: "seen", textContent: seen.join(";") }));
</script>"""


def test_the_slider_moves_the_bounds(class_report, tmp_path):
    page = write_page(replace(class_report, boxes=SECTION), tmp_path / "page.html")
    page.write_text(page.read_text().replace("</body>", ACTOR + "</body>"))
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert "Uncaught" not in done.stderr
    seen = done.stdout.split('id="seen">')[1].split("</pre>")[0].split(";")
    between = "of 1 true boxes that are found lie between their bounds."
    # 1 σ: 2 px are not enough for 3 px. 2 σ are; the outer edge is at 13 − 4. The false box is below a score of 0.5.
    counts = ["2 boxes", " 0 " + between + "|11|2", "2 boxes", " 1 " + between + "|9|2", "1 boxes",
              " 1 " + between + "|9|1", "1 boxes", " 1 " + between + "|1|1"]  # fmt: skip
    assert seen == counts
    assert "<b>ball</b>" not in done.stdout
