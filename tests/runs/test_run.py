import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import yaml
from torch import nn

from sfumato.calibration import ConformalSets, Temperature
from sfumato.data import Scenes
from sfumato.errors import ConfigError, DataError, MissingFileError, PluginError, RunError, UntrustedCodeError
from sfumato.runs import Predictor, Run, RunBackend, image_key, resolve_device
from sfumato.runs.run import CALIBRATOR, CONFORMAL
from sfumato.storage import digest, read_tensors


def image(size=(16, 24), batch=1):
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(0))


def test_a_run_predicts_the_same_each_time_it_is_opened(make_run):
    folder = make_run()
    first, second = (Run.open(folder).predict(image(), seed=3) for _ in range(2))
    assert torch.equal(first.probs, second.probs)
    assert not torch.equal(first.probs, Run.open(folder).predict(image(), seed=4).probs)
    assert first.draws == 3


def test_bytes_and_floats_are_the_same_image(make_run):
    run = Run.open(make_run())
    pixels = (image() * 255).round().byte()
    assert torch.equal(run.predict(pixels).probs, run.predict(pixels.float() / 255).probs)


def test_samples_are_checked(make_run):
    run = Run.open(make_run())
    assert run.predict(image(), samples=5).draws == 5
    with pytest.raises(ConfigError, match="samples is 0"):
        run.predict(image(), samples=0)


def test_several_tasks(make_plan, write_run, tmp_path):
    scenes = Scenes(4, size=(16, 24))
    plan = make_plan()
    names = ("classes", "depth")
    facts = replace(plan.facts, task_args={n: vars(scenes.tasks[n]) for n in names}, scales={"depth": (2.0, 0.5)})
    config = replace(plan.config, task="", tasks="classes,depth", likelihood="categorical,gaussian", weighting="equal")

    run = Run.open(write_run(replace(plan, config=config, facts=facts), tmp_path / "run"))
    found = run.predict(image())
    assert set(found) == set(run.per_task) == {"classes", "depth"}
    alone = run.select_task("depth").predict(image())
    assert torch.allclose(alone.mean, found["depth"].mean)
    with pytest.raises(ConfigError, match="name one of them with --task"):
        run.select_task()


@pytest.mark.parametrize(
    ("name", "damage", "error"),
    [
        ("weights-0.safetensors", lambda path: path.unlink(), MissingFileError),
        ("weights-0.safetensors", lambda path: path.write_bytes(path.read_bytes()[:900]), RunError),
        ("plan.yaml", lambda path: path.write_text(path.read_text()[:60]), RunError),
        ("plan.yaml", lambda path: path.unlink(), MissingFileError),
    ],
)
def test_damaged_folders(make_run, name, damage, error):
    folder = make_run()
    damage(folder / name)
    with pytest.raises(error, match=name.partition(".")[0]):
        Run.open(folder)


def test_weights_of_another_network(make_run):
    folder = make_run()
    sections = yaml.safe_load((folder / "plan.yaml").read_text())
    sections["config"]["network_args"]["widths"] = [4, 8, 8]
    (folder / "plan.yaml").write_text(yaml.safe_dump(sections))
    with pytest.raises(RunError, match="another network than the plan"):
        Run.open(folder)


FOREIGN = """
import pathlib
from torch import nn
pathlib.Path({mark!r}).write_text("imported")
class Net(nn.Conv2d):
    def __init__(self, channels):
        super().__init__(3, channels, 1)
def not_a_network(*args, **kwargs):
    pathlib.Path({mark!r}).write_text("called")
"""


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A module that leaves a mark when it is imported."""
    mark = tmp_path / "mark"
    (tmp_path / "foreign_net.py").write_text(FOREIGN.format(mark=str(mark)))
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("foreign_net", None)
    return mark


def renamed(folder, **entries):
    sections = yaml.safe_load((folder / "plan.yaml").read_text())
    sections["config"].update(entries)
    (folder / "plan.yaml").write_text(yaml.safe_dump(sections))
    return folder


@pytest.mark.parametrize("entry", ["network", "likelihood", "method", "task"])
def test_code_of_another_person_is_not_imported(make_run, foreign, entry):
    with pytest.raises(UntrustedCodeError, match=r"foreign_net\.Net.*--trust"):
        Run.open(renamed(make_run(), **{entry: "foreign_net.Net"}))
    assert not foreign.exists()


@pytest.mark.parametrize("path", ["os.system", "subprocess.Popen", "shutil.rmtree", "sfumato.registry.import_module"])
def test_programs_are_not_run(make_run, tmp_path, path):
    target = tmp_path / "ran"
    folder = renamed(make_run(), network=path, network_args={"args": ["touch", str(target)], "bufsize": "CHANNELS"})
    for trust in ("", "all"):
        with pytest.raises((UntrustedCodeError, PluginError, ConfigError)):
            Run.open(folder, trust=trust)
    assert not target.exists()


def test_trusted_code_is_used_if_it_is_a_network(make_run, foreign):
    folder = renamed(make_run(), network="foreign_net.not_a_network", network_args={})
    with pytest.raises(PluginError, match=r"is no nn\.Module"):
        Run.open(folder, trust="foreign_net")
    assert foreign.read_text() == "imported"


def test_opening_and_predicting_need_no_trainer(make_run):
    code = (
        "import sys, torch; from sfumato.runs import Predictor; "
        f"Predictor.open({str(make_run())!r})(torch.rand(1, 3, 20, 30)); "
        "print(*({'lightning', 'kornia', 'matplotlib', 'torchmetrics'} & sys.modules.keys()))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.split() == []


def fitted(run, images):
    """The run with a calibrator and conformal sets that were fitted on these images."""
    keys = tuple(image_key(images[i], run.facts.inputs) for i in range(len(images)))
    replace(Temperature(torch.tensor(2.0)), fitted_on=keys).save(run.file(CALIBRATOR))
    thresholds = torch.full((8,), 0.05)
    rests_on = digest(run.file(CALIBRATOR))
    ConformalSets(thresholds, 0.9, images=9, rests_on=rests_on, fitted_on=keys).save(run.file(CONFORMAL))
    return Run.open(run.folder)


def test_images_of_the_calibration_are_recognized_before_anything_is_predicted(make_run, monkeypatch):
    images = Scenes(3, size=(16, 24), seed=5)
    run = fitted(Run.open(make_run()), images)
    monkeypatch.setattr(nn.Module, "__call__", None)
    with pytest.raises(RunError, match=r"scene-5-000000 was used to calibrate.*--reset"):
        run.check_calibration_leak(images)
    run.check_calibration_leak(Scenes(3, size=(16, 24), seed=6))


def test_other_images_with_known_names_are_no_leak(make_run):
    run = fitted(Run.open(make_run()), Scenes(3, size=(16, 24), seed=5))
    run.check_calibration_leak(Scenes(3, size=(16, 24), seed=5, shift="noise", severity=3))


@pytest.mark.parametrize("size", [(1, 1), (7, 50), (33, 20)])
def test_images_of_any_size(make_run, size):
    found = Predictor.open(make_run())(image(size)).prediction
    assert found.total.shape == (1, *size)
    assert torch.allclose(found.probs.sum(1), torch.ones(1, *size), atol=1e-5)


def test_a_predictor_gives_conformal_sets_of_the_original_size(make_run):
    run = fitted(Run.open(make_run()), Scenes(3, size=(16, 24), seed=5))
    found = Predictor(RunBackend(run))(image((40, 50)))
    assert found.sets["classes"].members.shape == (1, 8, 40, 50)
    assert torch.equal(found.sets["classes"].members, run.conformal(found.prediction).members)


def test_vectors_in_pixels_grow_with_the_image(make_run):
    run = Run.open(make_run("centers"))
    small = run.predict(image())
    large = Predictor(RunBackend(replace(run, plan=halved(run.plan))))(image((32, 48)))
    seen = nn.functional.interpolate(image((32, 48)), (16, 24), mode="bilinear", antialias=True)
    small = run.predict(seen)
    assert float(large.prediction.mean.abs().mean() / small.mean.abs().mean()) == pytest.approx(2, rel=0.2)
    ratio = large.prediction.aleatoric.mean() / small.aleatoric.mean()
    assert float(ratio) == pytest.approx(4, rel=0.2)


def halved(plan):
    return replace(plan, facts=replace(plan.facts, original_size=(32, 48)))


def test_wrong_inputs(make_run):
    predictor = Predictor.open(make_run())
    with pytest.raises(DataError, match="2 inputs, expected 1: image"):
        predictor(image(), image())
    with pytest.raises(DataError, match="has no 'image'"):
        predictor.backend.run.inputs_of({"name": "a"})


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "cpu:zero"])
def test_devices_that_do_not_exist(device):
    with pytest.raises(ConfigError, match="device is"):
        resolve_device(device)


def test_a_run_says_what_it_is(make_run):
    run = Run.open(make_run())
    assert repr(run) == f"Run({run.folder}, mc-dropout, categorical, 1 networks, cpu)"
    assert "\n" not in repr(run)


def test_weights_files_hold_what_the_networks_hold(make_run):
    run = Run.open(make_run())
    stored, _ = read_tensors(run.folder / "weights-0.safetensors")
    assert set(stored) == set(run.networks[0].state_dict())


def tensors_of(thing, seen=None):
    """Every tensor that can be reached from an object."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        yield thing
    elif isinstance(thing, nn.Module):
        yield from thing.parameters()
        yield from thing.buffers()
        for value in vars(thing).values():
            yield from tensors_of(value, seen)
    elif isinstance(thing, dict):
        for value in thing.values():
            yield from tensors_of(value, seen)
    elif isinstance(thing, list | tuple):
        for value in thing:
            yield from tensors_of(value, seen)
    elif hasattr(thing, "__dict__") and type(thing).__module__.startswith("sfumato"):
        yield from tensors_of(vars(thing), seen)


@pytest.mark.parametrize("method", ["deterministic", "mc-dropout", "ensemble", "batch-ensemble", "variational"])
def test_nothing_stays_behind_on_another_device(make_run, method):
    members = {"ensemble": 2, "batch-ensemble": 2}.get(method, 1)
    run = fitted(Run.open(make_run(method=method, members=members)), Scenes(2, size=(16, 24)))
    moved = run.to("meta")
    assert moved.device.type == "meta"
    found = [*tensors_of(moved), *tensors_of(moved.method())]
    assert len(found) > 10
    assert {tensor.device.type for tensor in found} == {"meta"}
    assert {tensor.device.type for tensor in moved.prepare(image())} == {"meta"}
