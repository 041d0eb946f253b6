"""Section D and own networks: no exception of another library reaches a user."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError

from sfumato import Categorical, registry
from sfumato.cli import main
from sfumato.errors import ConfigError, PluginError, ResourceError, UntrustedCodeError
from sfumato.evaluation import Evaluation
from sfumato.methods import LastLayerLaplace
from sfumato.methods.hessian import bytes_needed
from sfumato.runs import Normalized, Run
from sfumato.runs.network import network_class
from sfumato.storage import write_tensors

TRUST = "--trust=faulty_networks"


def opened():
    return Run.open("run", trust="faulty_networks")


@pytest.mark.parametrize(("name", "stride"), [("Enc32", 32), ("Halves", 8)])
def test_a_network_that_needs_divisible_sizes_is_padded_everywhere(here, fit, capsys, name, stride):
    assert fit(name, method="mc-dropout" if name == "Enc32" else "deterministic") == 0
    assert f"sizes that are multiples of {stride}" in capsys.readouterr().err
    assert opened().facts.stride == stride
    assert main(["evaluate", "run", "--device=cpu", "--quiet", TRUST]) == 0
    for tile in (0, 40):
        assert main(["predict", "run", "data/val/images", f"--tile={tile}", "--device=cpu", "--quiet", TRUST]) == 0
    found = opened().predict(torch.rand(1, 3, 37, 41))
    assert found.event == (37, 41)


def test_padding_repeats_the_border_and_changes_nothing_inside():
    inner = torch.nn.Conv2d(3, 2, 3, padding=1)
    image = torch.rand(1, 3, 10, 13)
    padded, plain = Normalized(inner, stride=8)(image), Normalized(inner)(image)
    assert padded.shape == plain.shape
    torch.testing.assert_close(padded[..., :-1, :-1], plain[..., :-1, :-1])
    wide = torch.nn.functional.pad(image, (0, 3, 0, 6), mode="replicate")
    torch.testing.assert_close(padded, inner(wide)[..., :10, :13])


def test_a_smaller_output_is_enlarged_and_a_known_entry_is_used(fit, capsys):
    assert fit("Quarter") == 0  # called with num_classes, although that is not its first argument
    text = capsys.readouterr().err
    assert "1/4 of the size" in text
    assert "'out' is used" in text
    run = opened()
    assert run.config.output == "out"
    assert run.predict(torch.rand(1, 3, 37, 41)).event == (37, 41)


def test_a_function_that_returns_a_network_can_be_named(fit, capsys):
    assert fit("quarter") == 0
    capsys.readouterr()
    assert fit("anything", "--out=other") == 2
    assert "is no nn.Module class but a function" in capsys.readouterr().err


def test_one_of_several_outputs_has_to_be_named(fit, complaint):
    assert fit("Pair") == 2
    assert "fine (1, 2, 97, 99), coarse (1, 2, 97, 99): name the entry that is used with --output" in complaint()
    assert fit("Pair", "--output=coarse") == 0
    assert opened().config.output == "coarse"


def test_an_entry_that_the_network_lacks_is_refused(fit, complaint):
    assert fit("Pair", "--output=logits") == 2
    assert "no entry 'logits'" in complaint()


def test_a_network_may_take_a_dict_of_inputs(fit):
    assert fit("TakesDict") == 0
    assert opened().predict(torch.rand(1, 3, 20, 30)).event == (20, 30)


def test_an_output_without_its_border_is_refused(fit, complaint):
    assert fit("Valid") == 2
    assert "93 × 95 pixels for an input of 97 × 99" in complaint()


def test_a_network_of_one_size_is_trained_at_it_and_refuses_others(fit, capsys):
    assert fit("OneSize", "--size", "48", "56", "--crop", "48", "56") == 0
    with pytest.raises(ConfigError, match="OneSize failed on inputs of 1 × 3 × 40 × 40: RuntimeError"):
        opened().predict(torch.rand(1, 3, 40, 40))


def test_a_network_that_fails_is_named_with_its_message(fit, complaint):
    assert fit("OneSize", "--size", "50", "70") == 2
    assert "the network OneSize failed on inputs of 1 × 3 × 50 × 70: RuntimeError: " in complaint()


def test_a_network_that_cannot_be_made_is_named_with_its_arguments(fit, complaint):
    assert fit("Quarter", '--network-args={"backbone": "large"}') == 2
    assert "faulty_networks.Quarter(backbone='large', num_classes=2) failed: AssertionError" in complaint()


def test_code_of_the_current_folder_is_found_only_if_the_user_names_it(here):
    with pytest.raises(UntrustedCodeError):
        network_class("faulty_networks.Enc32")
    with pytest.raises(PluginError, match="cannot be imported"):
        network_class("faulty_networks.Enc32", registry.Trust.of("all"))
    assert network_class("faulty_networks.Enc32", registry.Trust.of("faulty_networks")).__name__ == "Enc32"


def test_an_operation_that_onnx_lacks_is_refused_in_one_line(here, fit, capfd):
    assert fit("Bessel") == 0
    capfd.readouterr()
    assert main(["export", "run", TRUST]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("sfumato: faulty_networks.Bessel cannot be exported to onnx: ")
    assert not (here / "run" / "model.onnx").exists()


def test_a_picture_whose_name_starts_with_a_dash_is_predicted(here, fit):
    assert fit("Pair", "--output=fine") == 0
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save("-dash.png")
    assert main(["predict", "run", "-dash.png", "--device=cpu", "--quiet", TRUST]) == 0
    assert any((here / "predictions").glob("-dash*"))


@pytest.mark.parametrize("name", ["Enc32", "Quarter"])
def test_plain_onnxruntime_takes_any_size_and_gives_class_probabilities(fit, name):
    onnxruntime = pytest.importorskip("onnxruntime")
    assert fit(name) == 0
    assert main(["export", "run", TRUST]) == 0
    session, run = onnxruntime.InferenceSession("run/model.onnx"), opened()
    for size in ((31, 33), (100, 65), (64, 96)):
        image = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
        (probs,) = session.run(["probs"], {"image": image.numpy()})
        if min(size) >= 64:  # smaller images are padded to 64 pixels, which a network at a quarter of the size sees
            torch.testing.assert_close(torch.from_numpy(probs), run.predict(image).probs, rtol=0, atol=1e-5)
        assert probs.shape == (2, 2, *size)


def test_a_graph_that_is_right_for_some_sizes_only_is_refused(here, fit, capfd):
    assert fit("Sized") == 0
    capfd.readouterr()
    assert main(["export", "run", TRUST]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("sfumato: ")
    assert not (here / "run" / "model.onnx").exists()


@pytest.mark.parametrize("command", ["evaluate", "calibrate", "report"])
def test_a_run_that_cannot_be_written_to_is_refused_before_the_work(here, fit, complaint, capsys, monkeypatch, command):
    assert fit("Pair", "--output=fine") == 0
    assert main(["evaluate", "run", "--device=cpu", "--quiet", TRUST]) == 0
    capsys.readouterr()

    def refuse(path, *_):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr("pathlib.Path.write_bytes", refuse)
    monkeypatch.setattr(Run, "predict_uncalibrated", None)  # a prediction would fail in another way
    assert main([command, "run", "--device=cpu", TRUST]) == 1
    assert "cannot be written (Read-only file system): change the permissions" in complaint()


def test_results_can_be_written_elsewhere(here, fit):
    assert fit("Pair", "--output=fine") == 0
    assert main(["evaluate", "run", "--device=cpu", "--quiet", "--out=scores.json", TRUST]) == 0
    assert Evaluation.load("scores.json").images == 2
    assert not (here / "run" / "evaluation.json").exists()


def test_a_full_disk_is_named_with_the_file(tmp_path, monkeypatch):
    def full(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("sfumato.storage.save_file", full)
    with pytest.raises(ResourceError, match=r"weights\.safetensors was not written, because the disk is full: free"):
        write_tensors(tmp_path / "weights.safetensors", {"a": torch.zeros(1)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("structure", "advice"), [("full", "structure='diagonal'"), ("diagonal", "smaller crops")])
def test_laplace_estimates_its_memory_before_it_starts(structure, advice):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(4, 150, 1))
    batch = (torch.rand(1, 3, 64, 64),), torch.zeros(1, 64, 64, dtype=torch.long), torch.ones(1, 64, 64).bool()
    with pytest.raises(ResourceError, match=advice):
        LastLayerLaplace.fit(network, "1", [batch], Categorical(150).nll, structure=structure, memory_limit=10**6)


def test_laplace_of_many_classes_needs_memory_for_one_row_of_second_derivatives_at_a_time():
    """All rows of 150 classes and 512 × 512 pixels were 47 GB."""
    layer = torch.nn.Conv2d(15, 150, 1)
    assert bytes_needed(layer, "diagonal", 512 * 512) < 4 * 2**30
