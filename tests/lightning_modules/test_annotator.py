"""The annotator: the mean over those that tell a finding, each at its own size, whatever else is in the batch."""

import pytest
import torch
from refusals import refuses
from torch import nn

from lightning_modules.annotator import Annotator, at_size
from lightning_modules.classifier import Classifier

NAMES = ("dr_grade", "is_gc", "is_amd", "eye_side")
LEVELS = {"dr_grade": 5, "is_gc": 2, "is_amd": 2, "eye_side": 2}


class Tiny(nn.Module):
    """Batch statistics, dropout, and the sizes that it was shown."""

    num_features = 3

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5))
        self.seen = []

    def forward(self, images):
        self.seen.append(tuple(images.shape[-2:]))
        return self.body(images).mean(dim=(2, 3))


def member(*findings, size=16, seed=0, levels=LEVELS, ema_decay=0.0) -> Classifier:
    torch.manual_seed(seed)
    columns = {name: list(levels).index(name) for name in findings}
    made = Classifier(Tiny(), columns, levels, ema_decay=ema_decay)
    nn.init.normal_(made.network.heads.directions.weight, std=3.0)
    made.network.backbone.body[1].running_mean += 0.1
    made.config = {"data": {"image_size": size}}
    return made


@pytest.fixture
def images():
    return torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_each_finding_is_the_mean_over_those_that_tell_it(images):
    first, second = member("is_amd", "dr_grade", seed=1), member("dr_grade", "is_gc", seed=2)
    said = Annotator([first, second], NAMES).annotate(images)
    assert list(said) == ["dr_grade", "is_gc", "is_amd"]  # in the order of the names, not of the heads
    one, other = first.probabilities(images), second.probabilities(images)
    assert torch.allclose(said["dr_grade"], (one["dr_grade"] + other["dr_grade"]) / 2)
    assert torch.equal(said["is_amd"], one["is_amd"]) and torch.equal(said["is_gc"], other["is_gc"])
    assert not torch.allclose(one["dr_grade"], other["dr_grade"], atol=1e-3), "else this shows nothing"
    for name, values in said.items():
        assert values.shape == (5, LEVELS[name]) and values.dtype == torch.float32
        assert torch.allclose(values.sum(dim=1), torch.ones(5))


def test_an_image_gets_the_same_whatever_is_beside_it(images):
    annotator = Annotator([member("dr_grade"), member("dr_grade", size=8, seed=1)], NAMES)
    annotator.train()
    whole = annotator.annotate(images)["dr_grade"]
    assert torch.equal(whole, annotator.annotate(images)["dr_grade"])
    alone = torch.cat([annotator.annotate(image[None])["dr_grade"] for image in images])
    beside_others = annotator.annotate(torch.cat([images.flip(0), torch.zeros(3, 3, 16, 16)]))["dr_grade"][:5].flip(0)
    assert torch.allclose(whole, alone, atol=1e-6) and torch.allclose(whole, beside_others, atol=1e-6)


def test_nothing_is_learnt_and_no_statistics_move(images):
    annotator = Annotator([member("is_gc", ema_decay=0.9)], NAMES)
    before = {name: value.clone() for name, value in annotator.state_dict().items()}
    annotator.train()
    assert not any(module.training for module in annotator.modules())
    assert not any(value.requires_grad for value in annotator.parameters())
    said = annotator.predict_step({"image": images, "id": list("abcde")}, 0)
    assert said["id"] == list("abcde") and not said["probabilities"]["is_gc"].requires_grad
    assert all(torch.equal(value, before[name]) for name, value in annotator.state_dict().items())


def test_each_member_sees_the_size_that_it_was_trained_at(images):
    members = [member("is_gc", size=8), member("is_gc", size=16), member("is_gc", size=24)]
    Annotator(members, NAMES).annotate(images)
    assert [one.network.backbone.seen for one in members] == [[(8, 8)], [(16, 16)], [(24, 24)]]


def test_resizing_averages_what_it_leaves_out_and_stays_in_range():
    stripes = torch.tensor([0.0, 1.0, 1.0, 0.0]).repeat(8).expand(1, 3, 32, 32)  # the middle two of four are 1
    small = at_size(stripes, 8)
    assert small.shape == (1, 3, 8, 8)
    inside = small[..., 1:-1, 1:-1]
    assert torch.allclose(inside, torch.full_like(inside, 0.5), atol=0.02)  # the middle two alone would give 1
    assert at_size(stripes, 32) is stripes
    assert float(at_size(stripes, 31).min()) >= 0 and float(at_size(stripes, 31).max()) <= 1


def test_fingerprints_tell_weights_apart():
    prints = Annotator(
        [member("is_gc", seed=1), member("is_gc", seed=2), member("is_gc", seed=1)], NAMES
    ).fingerprints()
    assert prints[0] == prints[2] != prints[1]
    averaged = member("is_gc", seed=1, ema_decay=0.9)
    same = Annotator([averaged], NAMES).fingerprints()
    averaged.network.heads.offsets.data += 1  # is not what is measured
    assert Annotator([averaged], NAMES).fingerprints() == same
    averaged.measured.heads.offsets.data += 1
    assert Annotator([averaged], NAMES).fingerprints() != same


def test_what_cannot_annotate_is_refused(images):
    with refuses(ValueError, "no annotator", "classifier_train"):
        Annotator([], NAMES)
    with refuses(ValueError, "annotator 0", "'is_gc'", "dr_grade"):
        Annotator([member("is_gc")], ["dr_grade"])
    with refuses(ValueError, "annotator 1", "3 levels", "dr_grade", 5):
        Annotator([member("dr_grade"), member("dr_grade", levels={"dr_grade": 3})], NAMES)
    bare = member("is_gc")
    for config in (None, {}, {"data": None}, *({"data": {"image_size": size}} for size in (None, -5, 0, "x", True))):
        bare.config = config
        with refuses(ValueError, "annotator 0", "data.image_size"):
            Annotator([bare], NAMES)
    with refuses(ValueError, "255]", "[0, 1]"):
        Annotator([member("is_gc")], NAMES).annotate(images * 255)
