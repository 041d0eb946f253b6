"""A sample gets the same bits alone, in any batch, and beside samples of other sizes."""

import pytest
import torch

from sfumato.runs import Predictor, RunBackend
from sfumato.serving import Bundle, open_predictor
from sfumato.serving.batches import Batches

pytestmark = pytest.mark.filterwarnings("ignore")


def images(*sizes):
    made = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8, generator=made) for size in sizes]


def parts(predicted):
    found = predicted.prediction
    return {"probs": found.probs, "aleatoric": found.aleatoric, "total": found.total, "epistemic": found.epistemic}


def test_sizes_that_are_padded_to_the_same_share_a_batch_and_change_no_bit(exported):
    batches = Batches(open_predictor(exported, trust="all"), 4)
    given = images((61, 66), (64, 68), (62, 65), (33, 200), (64, 67), (61, 66))
    samples = [batches.ready(each) for each in given]
    multiple = batches.predictor.backend.multiple
    assert multiple > 1
    assert len({sample.key for sample in samples}) == 2
    for image, sample, found in zip(given, samples, batches(samples), strict=True):
        alone = batches([sample])[0]
        assert found.prediction.probs.shape[-2:] == image.shape[-2:]
        assert all(torch.equal(value, parts(alone)[name]) for name, value in parts(found).items())
        assert torch.equal(found.sets["classes"].members, alone.sets["classes"].members)


def test_a_batch_gives_what_the_run_predicts(exported):
    ours = Predictor.open(exported.parent, trust="all")
    batches = Batches(open_predictor(exported, trust="all"), 4)
    given = images((64, 66), (61, 68))
    for image, found in zip(given, batches([batches.ready(each) for each in given]), strict=True):
        expected = ours(image).prediction
        assert torch.allclose(found.prediction.probs, expected.probs, atol=1e-5)
        assert torch.allclose(found.prediction.epistemic, expected.epistemic, atol=1e-5)


def test_sums_over_channels_do_not_depend_on_the_batch(exported):
    bundle = Bundle(exported)
    whole = torch.cat(images(*[(61, 67)] * 5)).numpy()
    together = bundle(whole)
    for place in range(5):
        for name, value in bundle(whole[place : place + 1]).items():
            assert (value[0] == together[name][place]).all(), name


def test_draws_are_seeded_by_the_image_and_never_share_a_batch(make_run):
    batches = Batches(Predictor(RunBackend(make_run(method="mc-dropout"))), 8)
    first, second = images((16, 24), (16, 24))
    assert batches.most == 1
    a, b, again = batches([batches.ready(each) for each in (first, second, first)])
    assert torch.equal(a.prediction.probs, again.prediction.probs)
    assert not torch.equal(a.prediction.probs, b.prediction.probs)
    assert float(a.prediction.epistemic.max()) > 0


def test_large_images_fill_a_batch(exported):
    batches = Batches(open_predictor(exported, trust="all"), 8)
    assert batches.room(batches.ready(*images((64, 64))).key) == 8
    assert batches.room((4000, 4000, 1)) == 1
