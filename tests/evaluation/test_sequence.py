"""Frames of a video are scored in their order: how steady predictions are, merged or not."""

import pytest
import torch

from sfumato.errors import ConfigError, RunError
from sfumato.evaluation import evaluate
from sfumato.geometry import dis_flow, follow
from sfumato.metrics import TemporalScores
from sfumato.predictions import TemporalAggregation
from sfumato.report import write_report
from sfumato.runs import Predictor, RunBackend, TemporalBackend

pytest.importorskip("cv2")
QUIET = {"progress": False, "workers": 0, "device": "cpu"}


class Clip(torch.utils.data.Dataset):
    """Frames of one picture that moves to the right by 1 px from frame to frame."""

    inputs = ("image",)

    def __init__(self, scenes, count):
        self.scene, self.tasks, self.names = scenes[0], scenes.tasks, [f"frame-{n}" for n in range(count)]

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        moved = {
            k: v.roll(index, -1) if isinstance(v, torch.Tensor) and v.ndim > 1 else v for k, v in self.scene.items()
        }
        return moved | {"name": self.names[index]}


def expected(predictor, clip, draws):
    scores, last = TemporalScores(len(clip.tasks["classes"].names)), None
    for index in range(len(clip)):
        image = clip[index]["image"][None]
        found = predictor(image, samples=draws, index=index).prediction
        if last is not None:
            pixels, trust = follow(image, last[0], dis_flow)
            scores.update(found, last[1], pixels, trust > 0.5)
        last = image, found
    return {name: float(value) for name, value in scores.compute().items()}


def test_steadiness_is_that_of_its_predictions(run, images):
    clip = Clip(images(1, 1), 4)
    backends = {False: RunBackend(run), True: TemporalBackend(run)}
    found = {}
    for merged, backend in backends.items():
        merge = TemporalAggregation() if merged else None
        task = evaluate(run, clip, samples=1, sequence=True, aggregation=merge, **QUIET).tasks["classes"]
        scores = {name: value.value for name, value in task.scores.items()}
        steady = expected(Predictor(backend), clip, 1)
        assert {name: scores[name] for name in steady} == pytest.approx(steady, abs=1e-5)
        assert set(steady) <= set(task.headline)
        assert "miou" in task.headline  # never one without the other
        found[merged] = scores
    assert 0.1 < found[True]["followed"] <= 1
    assert found[True]["uncertainty_flicker"] < found[False]["uncertainty_flicker"]
    alone = evaluate(run, clip, samples=1, **QUIET).tasks["classes"]
    assert "temporal_consistency" not in alone.scores


def test_what_has_no_order_is_refused_and_merged_scores_are_not_shown_with_pictures_of_single_frames(
    run, images, tmp_path
):
    data = images(2, 1)
    with pytest.raises(ConfigError, match="use one device, and leave out --ood"):
        evaluate(run, data, sequence=True, devices=2, progress=False)
    with pytest.raises(ConfigError, match="leave out --ood"):
        evaluate(run, data, ood=data, sequence=True, **QUIET)
    found = evaluate(run, data, sequence=True, aggregation=TemporalAggregation(), aggregation_name="dis", **QUIET)
    assert found.merged == "dis"
    with pytest.raises(RunError, match="again without --temporal"):
        write_report(run, found, data, tmp_path / "page.html")
