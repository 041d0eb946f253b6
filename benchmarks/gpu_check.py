"""Does everything run on a GPU, and does it compute there what the CPU computes?

    PYTHONPATH=src python benchmarks/gpu_check.py --device cuda
    PYTHONPATH=src python benchmarks/gpu_check.py --device cpu --only fit-swag    # some of the checks

In one process, on a folder with generated scenes of 64 × 96 pixels: every method, likelihood, objective, weighting and
calibrator of the registry, the commands, and the same run on the device and on the CPU. A check that fails is printed
with the end of its traceback, and the others go on. Where the device is compared with the CPU, TF32 is off: maps may
differ by 2e-4 of the largest value of a map, scores by 5e-3 of their size. Convolutions in TF32, which is torch's
default on a GPU, are compared as well, and their difference is printed. Masks of MC dropout are drawn on the device, so
its draws are compared by their means. The result is one line per check and a JSON file.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import math
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import sfumato
from sfumato import registry
from sfumato.calibration import local
from sfumato.cli import main as command_line
from sfumato.data import Scenes
from sfumato.evaluation import Evaluation, reset
from sfumato.instances import find_instances
from sfumato.methods import MCDropout
from sfumato.runs import Predictor, Run, RunBackend, generator_for
from sfumato.serving import export
from sfumato.training import fit_post_hoc

SIZE, TRAIN, VAL = (64, 96), 12, 8
MAPS, SCORES = 2e-4, 5e-3  # the largest difference from the CPU: of a map by its largest value, of a score by its size
SMALL = {"widths": (8, 16), "dropout": 0.2}
USUAL: dict[str, Any] = {
    "network_args": SMALL, "batch": 4, "samples": 4, "epochs": 2, "precision": "32-true", "workers": 0, "cache": "none",
    "progress": False, "logger": "csv",
}  # fmt: skip
MEMBERS = {"ensemble": 2, "snapshot": 2, "batch-ensemble": 2, "multi-head": 2}
EPOCHS = {"swag": 27, "snapshot": 4}  # SWAG needs 80 steps
WEIGHTINGS = ("uncertainty", "equal", "uw-so", "log1p", "dwa")
LIKELIHOODS = {
    "classes": ("categorical", "logit-normal", "dirichlet", "tempered"),
    "depth": ("gaussian", "laplace", "normal-inverse-gamma", "l1"),
}
CALIBRATORS = {
    "classes": ("temperature", "class-temperature", "vector", "local", "isotonic"), "depth": ("scale", "quantile"),
}  # fmt: skip
OBJECTIVES: dict[str, dict[str, Any]] = {
    "weighted-nll": {"class_weights": "balanced"}, "focal": {}, "dice": {}, "sum": {"nll": 1.0, "dice": 1.0},
}  # fmt: skip
Work = Callable[[], str | None]


class DifferenceError(AssertionError):
    """A result is not what it should be."""


class Plain(nn.Module):
    """A network of somebody else, as it is wrapped."""

    def __init__(self, classes: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(8, classes, 1))

    def forward(self, image: Tensor) -> Tensor:
        """The logits (B, K, H, W)."""
        return self.layers(image)


def write_folder(folder: Path) -> Path:
    """Generated scenes as a folder of images, labels and depths."""
    scenes = {"train": Scenes(TRAIN, SIZE, seed=0), "val": Scenes(VAL, SIZE, seed=1)}
    for split, data in scenes.items():
        for kind in ("images", "labels", "depth"):
            (folder / split / kind).mkdir(parents=True)
        for number in range(len(data)):
            sample, name = data[number], f"{number:03d}.png"
            label = sample["classes"].where(sample["classes_valid"], 255).byte().numpy()
            depth = (sample["depth"][0] * sample["depth_valid"] * 500).clamp(0, 65535).numpy().astype(np.uint16)
            image = (sample["image"] * 255).byte().permute(1, 2, 0).numpy()
            for kind, pixels in (("images", image), ("labels", label), ("depth", depth)):
                Image.fromarray(pixels).save(folder / split / kind / name)
    names = data.tasks["classes"].names
    (folder / "sfumato.yaml").write_text(
        "splits:\n"
        + "".join(f"  {s}: {{images: {s}/images, labels: {s}/labels, depth: {s}/depth}}\n" for s in scenes)
        + f"classes: [{', '.join(names)}]\nvoid: 255\ndepth: {{unit: 0.002, minimum: 1, maximum: 80}}\n"
    )
    return folder


class Checks:
    """The checks, and the runs that several of them use.

    Args:
        device: The device that is checked.
        folder: Where data and runs are written.
    """

    def __init__(self, device: str, folder: Path) -> None:
        self.device, self.folder = device, folder
        self.data = str(write_folder(folder / "data"))
        self.novel = Scenes(2, SIZE, seed=1, novel=True)

    def fit(self, name: str, **choices: Any) -> sfumato.Run:
        """Train a run of this name, and check that it is on the device."""
        method = choices.get("method", "mc-dropout")
        known = {"epochs": EPOCHS.get(method, 2), "device": self.device} | (
            {"members": MEMBERS[method]} if method in MEMBERS else {}
        )
        data = choices.pop("data", self.data)
        run = sfumato.fit(data, out=self.folder / "runs" / name, **{**USUAL, **known, **choices})
        self.on_device(run)
        return run

    def on_device(self, run: Run) -> None:
        """The run and its prediction are on the device and finite."""
        if run.device.type != torch.device(self.device).type:
            raise DifferenceError(f"the run is on {run.device}, expected {self.device}")
        image = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))
        for name, values in maps_of(run.predict(image, samples=2)).items():
            if values.device.type != run.device.type or not bool(values.isfinite().all()):
                raise DifferenceError(f"{name} is on {values.device}, finite: {bool(values.isfinite().all())}")

    @cached_property
    def trained(self) -> sfumato.Run:
        """A run of one pass."""
        return self.fit("trained", task="classes", method="deterministic", epochs=4)

    @cached_property
    def dropout(self) -> sfumato.Run:
        """A run of MC dropout."""
        return self.fit("dropout", task="classes", likelihood="logit-normal", epochs=4)

    @cached_property
    def depth(self) -> sfumato.Run:
        """A run of depth."""
        return self.fit("depth", task="depth", likelihood="gaussian", epochs=4)

    @cached_property
    def joint(self) -> sfumato.Run:
        """A run of three tasks."""
        scenes = Scenes(6, SIZE), Scenes(4, SIZE, seed=1)
        return self.fit(
            "joint", data=scenes, tasks="classes,centers,depth", likelihood="categorical,l1,gaussian", scale=(1.0, 1.0)
        )

    def table(self) -> dict[str, Work]:
        """All checks by name."""
        trained = [n for n in registry.BUILT_IN["methods"] if n not in POST_HOC]
        found: dict[str, Work] = {}
        for task in ("classes", "depth"):
            for method in trained:
                found[f"fit-{task}-{method}"] = partial(self._fits, f"{task}-{method}", task=task, method=method)
            for each in LIKELIHOODS[task]:
                found[f"likelihood-{each}-{task}"] = partial(
                    self._fits, f"likelihood-{each}-{task}", task=task, likelihood=each, scores=True
                )
        for each in ("logit-normal", "gaussian", "normal-inverse-gamma"):
            task = "classes" if each == "logit-normal" else "depth"
            found[f"bf16-{each}"] = partial(
                self._fits, f"bf16-{each}", task=task, likelihood=each, precision="bf16-mixed"
            )
        for name, arguments in OBJECTIVES.items():
            found[f"objective-{name}"] = partial(
                self._fits, name, task="classes", objective=name, objective_args=arguments
            )
        for name in WEIGHTINGS:
            found[f"weighting-{name}"] = partial(
                self._fits,
                f"weighting-{name}",
                tasks="classes,depth",
                likelihood="categorical,l1",
                weighting=name,
                epochs=3,
            )
        found |= {
            "fit-workers-cache": partial(self._fits, "workers", task="classes", workers=2, cache="auto"),
            "fit-deterministic": partial(self._fits, "sure", scores=True, task="classes", likelihood="categorical",
                                         deterministic=True),
            "fit-deterministic-noise": partial(self._fits, "sure-noise", task="classes", likelihood="logit-normal",
                                               deterministic=True),
            "fit-deterministic-depth": partial(self._fits, "sure-depth", task="depth", deterministic=True),
            "fit-cuda-graph": self._graphs,
            "fit-tensorboard": partial(self._fits, "board", task="classes", logger="tensorboard"),
            "fit-init-from": self._starts_from,
            "joint-evaluate": self._joint_scores,
            "instances": self._instances,
        }  # fmt: skip
        for method in POST_HOC:
            for task in ("classes", "depth"):
                found[f"posthoc-{method}-{task}"] = partial(self._posthoc, method, task)
        for task, names in CALIBRATORS.items():
            for name in names:
                found[f"calibrate-{name}"] = partial(self._calibrates, task, name)
        found |= {
            "conformal-classes": partial(self._conformal, "classes"),
            "conformal-depth": partial(self._conformal, "depth"),
            "distill-cached": partial(self._distills, "student", on_the_fly=False),
            "distill-cached-workers": partial(self._distills, "student-workers", on_the_fly=False, workers=2),
            "distill-on-the-fly": partial(self._distills, "student-fly", on_the_fly=True),
            "distill-perturbed": partial(self._distills, "student-perturbed", perturb=1.0),
            "distill-joint": partial(self._distills, "student-joint", teacher="joint", on_the_fly=False),
            "distill-depth": partial(self._distills, "student-depth", teacher="depth", on_the_fly=False),
            "evaluate-ood": self._evaluates,
            "evaluate-further-scores": self._further,
            "evaluate-student": self._student_scores,
            "evaluate-memory": self._memory,
            "predict-files": partial(self._predicts, "dropout"),
            "predict-files-depth": partial(self._predicts, "depth"),
            "predict-files-joint": partial(self._predicts, "joint"),
            "predict-save-and-show": self._saves,
            "predict-tiles": self._tiles,
            "predict-chunks": self._chunks,
            "report": self._reports,
            "report-depth": self._reports_depth,
            "compare": self._compares,
            "export-onnx": partial(self._exports, "model.onnx", "onnx"),
            "export-pt2": partial(self._exports, "model.pt2", "torch-export"),
            "wrap": partial(self._wraps, "cpu"),
            "wrap-network-on-device": partial(self._wraps, self.device),
            "compiled": self._compiled,
            "equal-fit-and-open": self._crosses,
            "equal-tf32": self._tf32,
        }
        for task in ("classes", "depth"):
            for method in (*trained, *POST_HOC):
                found[f"equal-{task}-{method}"] = partial(self._equal, task, method)
        found |= {f"equal-scores-{task}": partial(self._equal_scores, task) for task in ("classes", "depth")}
        found["fit-parallel-members"] = partial(
            self._fits, "parallel", task="classes", method="ensemble", parallel_members=2
        )
        return {name: found[name] for name in sorted(found, key=lambda name: name in SLOW)}

    def _graphs(self) -> str:
        """A training that replays its passes gives the weights of one that does not."""
        if torch.device(self.device).type != "cuda":
            return "only cuda has graphs"
        plain, graph = (
            self.fit(f"graph-{replayed}", task="classes", cuda_graph=replayed).networks[0].state_dict()
            for replayed in (False, True)
        )
        largest = max(float((value.float() - graph[name].float()).abs().max()) for name, value in plain.items())
        if largest > 1e-2:
            raise DifferenceError(f"weights differ by {largest:.2g}")
        return f"weights differ by {largest:.2g} at most"

    def _fits(self, name: str, scores: bool = False, **choices: Any) -> str | None:
        run = self.fit(name, **choices)
        if not scores:
            return None
        found = run.evaluate(progress=False, device=self.device, workers=0)
        (task,) = found.tasks.values()
        return ", ".join(f"{key} {task.scores[key].value:.3g}" for key in task.headline[:2])

    def _starts_from(self) -> None:
        self.fit("started", task="classes", init_from=str(self.trained.folder))

    def _joint_scores(self) -> str:
        found = self.joint.evaluate(Scenes(4, SIZE, seed=1), ood=self.novel, progress=False, device=self.device)
        return f"pq {found.tasks['centers'].scores['pq'].value:.3g}"

    def _instances(self) -> str:
        found = self.joint.predict(Scenes(1, SIZE, seed=1)[0]["image"][None])
        (image,) = find_instances(found["centers"], found["classes"], Scenes.things)
        return f"{len(image.scores)} instances"

    def _posthoc(self, method: str, task: str) -> str | None:
        run = self.trained if task == "classes" else self.depth
        folder = self.folder / "runs" / f"{task}-{method}"
        self.on_device(fit_post_hoc(run, method, folder, samples=4, progress=False))
        again = sfumato.Run.open(folder, device=self.device)
        self.on_device(again)
        return None

    def _calibrates(self, task: str, name: str) -> str:
        run = self.dropout if task == "classes" else self.depth
        report = run.calibrate(method=name, progress=False)
        calibrated = run.calibrated_copy()
        self.on_device(calibrated)
        calibrated.evaluate(split="val[50%:]", progress=False, device=self.device, workers=0)
        reset(run)
        return ", ".join(f"{key} {old:.3g} → {report.after[key]:.3g}" for key, old in report.before.items())

    def _conformal(self, task: str) -> None:
        run = self.dropout if task == "classes" else self.depth
        fitted = run.fit_conformal(level=0.5, progress=False)
        fitted.evaluate(split="val[50%:]", progress=False, device=self.device, workers=0)
        Predictor(RunBackend(fitted))(torch.rand(1, 3, *SIZE))
        reset(run)

    def _distills(self, name: str, teacher: str = "dropout", **how: Any) -> None:
        run = getattr(self, teacher)
        options = {"epochs": 2, "workers": 0, "progress": False, "cache": "none", "unlabeled": self.novel, **how}
        data = Scenes(6, SIZE) if teacher == "joint" else ""  # what the teacher was trained on
        self.on_device(run.distill(self.folder / "runs" / name, data, **options))

    def _evaluates(self) -> str:
        folder = self.dropout.folder
        said("evaluate", str(folder), "--device", self.device, "--ood", "scenes:novel[:4%]", "--quiet",
             "--workers", "1", "--split", "val[50%:]")  # fmt: skip
        found = Evaluation.load(folder / "evaluation.json").tasks["classes"].scores
        return f"miou {found['miou'].value:.3g}, ood_auroc {found['ood_auroc_total'].value:.3g}"

    def _further(self) -> None:
        names = list(registry.BUILT_IN["scores"])
        self.dropout.evaluate(progress=False, device=self.device, workers=0, scores=names)

    def _student_scores(self) -> str:
        folder = self.folder / "runs" / "student"
        if not folder.exists():
            self._distills("student", on_the_fly=False)
        run = sfumato.Run.open(folder, device=self.device)
        found = run.evaluate(progress=False, device=self.device, workers=0)
        return f"spearman_epistemic {found.tasks['classes'].scores['spearman_epistemic'].value:.3g}"

    def _memory(self) -> str:
        if torch.device(self.device).type != "cuda":
            return "only on a GPU"
        peaks = []
        for count in (4, 4, 24):  # the first one warms up
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self.dropout.evaluate(Scenes(count, SIZE, seed=1), progress=False, device=self.device, workers=0)
            peaks.append(torch.cuda.max_memory_allocated() / 2**20)
        text = f"{peaks[1]:.1f} MiB with 4 images, {peaks[2]:.1f} MiB with 24"
        if peaks[2] > 1.02 * peaks[1] + 1:
            raise DifferenceError(text)
        return text

    def _predicts(self, name: str) -> str:
        run, out = getattr(self, name), self.folder / f"predictions-{name}"
        said("predict", str(run.folder), str(Path(self.data, "val/images")), "--out", str(out), "--device", self.device,
             "--quiet")  # fmt: skip
        written = len(list(out.glob("*_figure.png")))
        if written != VAL * len(run.per_task):
            raise DifferenceError(f"{written} figures, expected {VAL} of each task")
        return f"{written} images"

    def _saves(self) -> None:
        image = Scenes(1, SIZE, seed=1)[0]["image"][None]
        for name in ("dropout", "depth", "joint"):
            found = getattr(self, name).predict(image)
            found.save(self.folder / f"{name}.safetensors")
            for part in getattr(found, "parts", {"": found}).values():
                part._repr_html_()

    def _tiles(self) -> None:
        image = Scenes(1, SIZE, seed=1)[0]["image"][None]
        for run in (self.trained, self.depth, self.joint):
            maps = maps_of(run.predict(image, tile=32))
            bands = list(Predictor(RunBackend(run)).bands(image, tile=32))
            last = maps_of(bands[-1][1].prediction)
            for name, values in last.items():
                close(name, values, maps[name][..., -values.shape[-2] :, :], 1e-5)

    def _chunks(self) -> str:
        """Draws are the same whatever the size of a chunk."""
        image = torch.rand(1, 3, *SIZE).to(self.dropout.device)
        network = self.dropout.networks[0]
        one, four = (
            torch.cat(list(MCDropout(network, 8, chunk=n).draws(image, generator=generator_for(0, 0)))) for n in (1, 4)
        )
        return close("draws", four, one, MAPS)

    def _reports(self) -> None:
        if not (self.dropout.folder / "evaluation.json").exists():
            self._evaluates()
        said("report", str(self.dropout.folder), "--device", self.device)

    def _reports_depth(self) -> None:
        self.depth.evaluate(progress=False, device=self.device, workers=0)
        said("report", str(self.depth.folder), "--device", self.device)

    def _compares(self) -> None:
        said("compare", str(self.trained.folder), str(self.dropout.folder), "--device", self.device)

    def _exports(self, name: str, kind: str) -> str:
        path = self.folder / name
        found = max(export(self.trained, path, kind).values())
        if kind == "onnx":
            said("predict", str(path), str(Path(self.data, "val/images/000.png")), "--out", str(self.folder / "onnx"))
        self.trained.to(self.device)
        return f"largest difference {found:.1e}"

    def _wraps(self, place: str) -> str:
        torch.manual_seed(0)
        network = Plain().to(place)
        sys.modules.setdefault("gpu_check", sys.modules[__name__])
        folder = self.folder / "runs" / f"wrapped-{place}-{len(list((self.folder / 'runs').glob('wrapped-*')))}"
        run = sfumato.wrap(
            network, self.data, out=folder, task="classes", normalization="imagenet", progress=False, samples=4
        )
        run = run.to(self.device)
        self.on_device(run)
        run.evaluate(progress=False, device=self.device, workers=0)
        again = sfumato.Run.open(folder, device=self.device, trust="all")
        self.on_device(again)
        return repr(again)

    def _compiled(self) -> str:
        """A compiled network gives the draws of the network."""
        if torch.device(self.device).type != "cuda":
            return "only on a GPU"
        run, image = self.trained, torch.rand(1, 3, *SIZE).to(self.trained.device)
        with torch.no_grad():
            return close("compiled", torch.compile(run.networks[0])(image), run.networks[0](image), 1e-3)

    def _crosses(self) -> str:
        """A run of the CPU is opened on the device."""
        elsewhere = "cpu" if self.device != "cpu" else self.device
        run = sfumato.fit(
            self.data, out=self.folder / "runs" / "elsewhere", task="classes", method="deterministic",
            **{**USUAL, "device": elsewhere},
        )  # fmt: skip
        if run.config.precision != "32-true" or run.device.type != elsewhere:
            raise DifferenceError(f"{run.config.precision} on {run.device}")
        return self._same(run.folder)

    def _equal(self, task: str, method: str) -> str:
        """A run of the device is opened on both."""
        folder = self.folder / "runs" / f"{task}-{method}"
        if not folder.exists():
            choices = {"task": task, "method": method}
            _ = self._posthoc(method, task) if method in POST_HOC else self.fit(f"{task}-{method}", **choices)
        if method in ("mc-dropout", "concrete-dropout"):
            return self._same_on_average(folder)
        return self._same(folder)

    def _same(self, folder: Path) -> str:
        there, here = (sfumato.Run.open(folder, device=device) for device in (self.device, "cpu"))
        image = torch.stack([Scenes(2, SIZE, seed=1)[n]["image"] for n in range(2)])
        with strict():
            found, expected = (maps_of(run.predict(image, samples=4, seed=3)) for run in (there, here))
        return "; ".join(close(name, found[name], expected[name], MAPS) for name in expected)

    def _same_on_average(self, folder: Path) -> str:
        """The means of many draws differ by as much as their spread allows."""
        count, means, variances = 200, [], []
        image = Scenes(1, SIZE, seed=1)[0]["image"][None]
        for device in (self.device, "cpu"):
            run = sfumato.Run.open(folder, device=device)
            with torch.no_grad(), strict():
                draws = run.method(count).draws(*run.prepare(image), generator=generator_for(0, 0))
                all_draws = torch.cat([chunk.cpu() for chunk in draws])
            means.append(all_draws.mean(0))
            variances.append(all_draws.var(0))
        expected = ((variances[0] + variances[1]) / count).mean().sqrt()
        ratio = float((means[0] - means[1]).square().mean().sqrt() / expected)
        spread = float(variances[0].mean() / variances[1].mean())
        text = f"difference of means {ratio:.2f} standard errors, ratio of variances {spread:.3f}"
        if ratio > 2 or not 0.8 < spread < 1.25:
            raise DifferenceError(text)
        return text

    def _tf32(self) -> str:
        """What the default of torch, convolutions in TF32, changes."""
        if torch.device(self.device).type != "cuda":
            return "only on a GPU"
        image = Scenes(1, SIZE, seed=1)[0]["image"][None].to(self.device)
        network = self.trained.networks[0]
        with torch.no_grad():
            with strict():
                exact = network(image)
            before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, True
            coarse = network(image)
            torch.backends.cudnn.allow_tf32 = before
        return close("TF32", coarse, exact, 2e-2)

    def _equal_scores(self, task: str) -> str:
        folder = self.folder / "runs" / f"{task}-latent"
        run = (
            sfumato.Run.open(folder, device=self.device)
            if folder.exists()
            else self.fit(folder.name, task=task, method="latent")
        )
        options: dict[str, Any] = {"progress": False, "workers": 0, "ood": self.novel}
        with strict():
            there, here = (run.evaluate(device=device, **options).tasks[task] for device in (self.device, "cpu"))
        worst, name = 0.0, ""
        for key, value in here.scores.items():
            mine, theirs = there.scores[key].value, value.value
            if math.isnan(theirs) and math.isnan(mine):
                continue
            gap = abs(mine - theirs) / max(abs(theirs), 0.05)
            if not gap <= worst:
                worst, name = gap, f"{key} {mine:.6g} and {theirs:.6g}"
        if not worst <= SCORES:
            raise DifferenceError(f"{worst:.1e}: {name}")
        return f"{len(here.scores)} scores, largest difference {worst:.1e} ({name})"


SLOW = ("calibrate-local", "export-onnx", "export-pt2", "compiled", "fit-parallel-members")  # come last
POST_HOC = ("laplace", "feature-density", "test-time-augmentation", "variance-propagation")


def maps_of(prediction: Any) -> dict[str, Tensor]:
    """The maps of a prediction of one or several tasks."""
    if hasattr(prediction, "parts"):
        return {f"{key}-{name}": each for key, part in prediction.parts.items() for name, each in maps_of(part).items()}
    names = ("probs", "mean", "aleatoric", "epistemic", "total", "novelty")
    return {name: each for name in names if isinstance(each := getattr(prediction, name, None), Tensor)}


def close(name: str, found: Tensor, expected: Tensor, tolerance: float) -> str:
    """Compare two maps by the largest value of the second."""
    found, expected = found.double().cpu(), expected.double().cpu()
    gap = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-2))
    if not gap <= tolerance:
        raise DifferenceError(f"{name} differs by {gap:.1e} of its largest value, {float(expected.abs().max()):.3g}")
    return f"{name} {gap:.0e}"


@contextmanager
def strict() -> Any:
    """Without TF32."""
    kept = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = kept


def said(*words: str) -> None:
    """Run a command of the command line."""
    if code := command_line([*words, "--debug"]):
        raise DifferenceError(f"sfumato {' '.join(words[:2])} ended with exit code {code}")


def run_all(table: Mapping[str, Work], seconds: float) -> list[dict[str, Any]]:
    found, start = [], time.perf_counter()
    for name, work in table.items():
        if time.perf_counter() - start > seconds:
            found.append({"name": name, "state": "left out", "seconds": 0.0, "text": "no time was left"})
            continue
        begin = time.perf_counter()
        try:
            with redirect_stdout(io.StringIO()):
                text, state = work() or "", "ok"
        except Exception:
            text, state = "\n".join(traceback.format_exc().strip().splitlines()[-9:]), "FAILED"
        taken = time.perf_counter() - begin
        found.append({"name": name, "state": state, "seconds": round(taken, 2), "text": text})
        shown = f"\n{text}" if state == "FAILED" else text
        print(f"{name:44s} {state:6s} {taken:6.2f} s  {shown}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="+", default=[], help="starts of the names of the checks to run")
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="checks that have not begun by then are left out"
    )
    parser.add_argument("--out", type=Path, help="JSON file of the results")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    local.STEPS = 40  # of 400, which do not differ
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic training after other checks
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        table = Checks(options.device, Path(folder)).table()
        only = tuple(options.only)
        found = run_all({n: w for n, w in table.items() if not only or n.startswith(only)}, options.seconds)
    failed = [each["name"] for each in found if each["state"] == "FAILED"]
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else "CPU"
    result = {
        "device": name, "torch": torch.__version__, "checks": len(found), "failed": failed,
        "left_out": [each["name"] for each in found if each["state"] == "left out"],
        "seconds": round(time.perf_counter() - start, 1), "results": found,
    }  # fmt: skip
    if options.out:
        options.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(f"{len(found)} checks on {name} in {result['seconds']} s, {len(failed)} failed: {', '.join(failed)}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
