"""`sfumato acquire`: choose, label, read back, train again; every mistake is one line."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.acquisition import Query, choose
from sfumato.acquisition.answers import VOID
from sfumato.cli import main
from sfumato.data import Folder, Pictures, Scenes
from sfumato.evaluation import dataset_for
from sfumato.runs import Run

SIZE = (16, 24)
NAMES = Scenes(1).tasks["classes"].names
QUIET = ["--quiet", "--device=cpu"]


def pixels(sample):
    return (sample["image"] * 255).round().byte().movedim(0, -1).contiguous().numpy()


@pytest.fixture
def pool(tmp_path):
    """Six images, the last of which is a copy of the first."""
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    scenes = Scenes(5, seed=77, size=SIZE)
    for number in range(5):
        place = folder / "deep" if number == 4 else folder
        Image.fromarray(pixels(scenes[number])).save(place / f"street-{number}.png")
    shutil.copy(folder / "street-0.png", folder / "street-x.png")
    return folder


@pytest.fixture
def costs_file(tmp_path):
    row = ", ".join(["1"] * len(NAMES))
    text = f"classes: [{', '.join(NAMES)}]\ncosts:\n  go: [{row[:-1]}5]\n  stop: 0.9\n"
    (tmp_path / "costs.yaml").write_text(text)
    return tmp_path / "costs.yaml"


def acquire(folder, pool, *more):
    return main(["acquire", str(folder), f"--pool={pool}", *more, *QUIET])


def table(folder):
    with (folder / "regions.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_chosen_units_are_those_with_the_largest_score(make_run, pool):
    folder = make_run()
    assert acquire(folder, pool, "--budget=5", "--side=8", "--selector=top-k") == 0
    rows = table(folder / "acquire")
    assert len(rows) == 5
    query, run, images = Query(side=8, selector="top-k"), Run.open(folder), Pictures(pool)
    every = choose(run, images, 6 * 6, query, {}).units
    assert [float(row["entropy"]) for row in rows] == pytest.approx(every.score[:5].tolist(), rel=1e-4)
    assert int(rows[0]["place"]) == 1
    content = json.loads((folder / "acquire" / "coco.json").read_text())
    assert {image["file_name"] for image in content["images"]} == {row["image"] for row in rows}
    for row in rows:
        own = [each for each in content["annotations"] if each["attributes"]["rank"] == int(row["rank"])]
        assert sum(each["area"] for each in own) == int(row["pixels"]) == 64
    page = (folder / "acquire" / "regions.html").read_text()
    assert page.count('<div class="pair">') == len(content["images"])
    assert "http" not in page.replace("Content-Security-Policy", "").replace("http-equiv", "")


def test_one_round(make_run, pool, tmp_path, quick, capsys):
    folder, out = make_run(), tmp_path / "labeled"
    assert acquire(folder, pool, "--budget=7", "--side=8", "--unit=superpixel", "--per-image=2") == 0
    answers = folder / "acquire" / "coco.json"  # as if a person had accepted what was predicted
    assert acquire(folder, pool, f"--answers={answers}", f"--out={out}") == 0
    chosen = sum(int(row["pixels"]) for row in table(folder / "acquire"))
    assert f"{chosen} pixels" in capsys.readouterr().out

    written, train = Folder(out), dataset_for(Run.open(folder), split="train")
    assert written.tasks["classes"].names == NAMES
    new = [name for name in written.names if name.startswith(("street", "deep"))]
    labeled = {name: written[written.names.index(name)]["classes_valid"] for name in new}
    assert sum(int(mask.sum()) for mask in labeled.values()) == chosen
    assert len(written) == 8 + len(new)  # with the eight images that the run was trained on
    for number, name in enumerate(train.names):
        sample, before = written[written.names.index(name)], train[number]
        assert np.array_equal(sample["image"].movedim(0, -1), pixels(before))
        assert torch.equal(sample["classes"][before["classes_valid"]], before["classes"][before["classes_valid"]])

    fit = [word for word in quick if not word.startswith(("--limit", "--size"))]
    assert main(["fit", f"--data={out}", "--likelihood=categorical", f"--out={tmp_path / 'next'}", *fit]) == 0
    # Labeled pixels are not asked for again.
    assert acquire(tmp_path / "next", pool, "--budget=400", "--unit=pixel", "--per-image=100") == 0
    coco = json.loads((tmp_path / "next" / "acquire" / "coco.json").read_text())
    files = {image["id"]: image["file_name"] for image in coco["images"]}
    for each in coco["annotations"]:
        name = files[each["image_id"]].removesuffix(".png").replace("/", "-")
        left, top, width, height = each["bbox"]
        if name in labeled:
            assert not bool(labeled[name][top : top + height, left : left + width].any())


def test_near_duplicates_are_chosen_once(make_run, pool, capsys):
    folder = make_run()
    assert acquire(folder, pool, "--budget=6", "--unit=image", "--similarity=0.9999", "--selector=random") == 0
    names = {row["image"] for row in table(folder / "acquire")}
    assert len(names & {"street-0.png", "street-x.png"}) == 1
    assert "near-duplicates" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--budget=37", "--side=8"], "budget is 37, but the pool has 36 units that are not labeled: ask for less"),
        (["--budget=7", "--unit=image", "--selector=random"], "budget is 7, but the pool has 6 units"),
        ([], "--budget is missing"),
        (["--budget=3", "--answers=a.json"], "leave one of them out"),
        (["--budget=3", "--beta=0"], "beta is 0"),
        (["--budget=3", "--unit=pixel", "--similarity=0.9"], "similarity is for larger units"),
        (["--answers=none.json"], "none.json does not exist"),
    ],
)
def test_mistakes_are_one_line(make_run, pool, errors, more, message):
    folder = make_run()
    assert acquire(folder, pool, *more) == 2
    (line,) = errors()
    assert message in line
    assert not (folder / "acquire").exists()


def test_a_run_of_values_is_refused(make_run, pool, errors):
    assert acquire(make_run(tasks=("depth",), likelihoods=("gaussian",)), pool, "--budget=3") == 2
    assert "predicts values" in errors()[0]


def test_labeled_images_in_the_pool(make_run, pool, errors):
    folder = make_run()
    sample = dataset_for(Run.open(folder), split="train")[3]
    Image.fromarray(pixels(sample)).save(pool / f"{sample['name']}.png")
    assert acquire(folder, pool, "--budget=3") == 2
    assert f"1 images of the pool are labeled already, the first is {sample['name']}" in errors()[0]


def test_answers_that_cannot_be_used_write_nothing(make_run, pool, tmp_path, errors):
    folder, out = make_run(), tmp_path / "labeled"
    xml = '<annotations><image name="street-0.png">{}</image></annotations>'
    box = '<box label="{}" xtl="0" ytl="0" xbr="4" ybr="4"/>'
    for text, message in (
        ("", "it is empty"),
        (xml.format(""), "it holds no annotation"),
        (xml.format(box.format("unicorn")), "has the class 'unicorn'"),
        (
            xml.format(box.format(NAMES[0]) + box.format(NAMES[1])),
            "annotations of street-0.png overlap: row 0, column 0",
        ),
    ):
        (tmp_path / "cvat.xml").write_text(text)
        assert acquire(folder, pool, f"--answers={tmp_path / 'cvat.xml'}", f"--out={out}") == 2
        assert message in errors()[0]
        assert not list(tmp_path.glob("labeled*"))
    (tmp_path / "cvat.xml").write_text(xml.format(box.format(NAMES[0])))
    out.mkdir()
    assert acquire(folder, pool, f"--answers={tmp_path / 'cvat.xml'}", f"--out={out}") == 2
    assert "exists already" in errors()[0]


def test_clicks_become_a_mask(make_run, pool, tmp_path):
    (tmp_path / "cvat.xml").write_text(
        '<annotations><image name="deep/street-4.png">'
        f'<points label="{NAMES[1]}" points="3.5,2.5"/></image></annotations>'
    )
    out = tmp_path / "labeled"
    assert acquire(make_run(), pool, f"--answers={tmp_path / 'cvat.xml'}", f"--out={out}") == 0
    written = np.array(Image.open(out / "labels" / "deep-street-4.png"))
    assert written[2, 3] == 1
    assert (written != VOID).sum() == 1


def test_one_of_several_tasks_and_images_of_several_sizes(make_run, pool, costs_file):
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(pool / "larger.png")
    folder = make_run(tasks=("classes", "depth"), likelihoods=("categorical", "gaussian"))
    options = ["--budget=8", "--unit=image", "--per-image=1", "--score=evpi", f"--costs={costs_file}", "--task=classes"]
    assert acquire(folder, pool, *options[:1], "--task=classes", "--side=8", "--selector=k-center") == 0
    assert acquire(folder, pool, "--budget=7", *options[1:], "--selector=gumbel", f"--out={folder / 'second'}") == 0
    rows = {row["image"]: row for row in table(folder / "second")}
    assert len(rows) == 7
    assert int(rows["larger.png"]["pixels"]) == 600
    assert all(float(row["evpi"]) >= 0 for row in rows.values())
