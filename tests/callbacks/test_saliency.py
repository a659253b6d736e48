"""Where a classifier looks, and the gallery of its mistakes."""

import numpy as np
import pytest
import torch
from torch import nn

from callbacks.gathered import Gathered
from callbacks.mistakes_gallery import NUM_SHOWN, gallery, mistakes
from callbacks.saliency import can_be_explained, grad_cam, overlaid
from lightning_modules.classifier import ClassifierNetwork
from lightning_modules.networks.backbone import TimmBackbone
from lightning_modules.networks.heads import FindingHeads


class Halves(nn.Module):
    """A network of two halves, in the layouts that timm's have: its feature is the mean red of each quarter."""

    def __init__(self, layout):
        super().__init__()
        self.layout = layout
        self.num_prefix_tokens = 1
        if layout == "NHWC":
            self.output_fmt = "NHWC"

    def forward_features(self, images):
        cells = nn.functional.adaptive_avg_pool2d(images[:, :2], 4)
        if self.layout == "tokens":
            return torch.cat([cells.mean((2, 3))[:, None], cells.flatten(2).transpose(1, 2)], dim=1)
        return cells.permute(0, 2, 3, 1) if self.layout == "NHWC" else cells

    def forward_head(self, features, pre_logits):
        if self.layout == "tokens":
            return features[:, 1:].mean(1)
        return features.mean((1, 2)) if self.layout == "NHWC" else features.mean((2, 3))


class Backbone(nn.Module):
    def __init__(self, layout):
        super().__init__()
        self.network = Halves(layout)

    def normalised(self, images):
        return images


class Network(nn.Module):
    """Logit 0 rises with the red, logit 1 with the green."""

    def __init__(self, layout="NCHW"):
        super().__init__()
        self.backbone = Backbone(layout)
        self.heads = nn.Linear(2, 2, bias=False)
        self.heads.weight.data = torch.eye(2)

    def forward(self, images):
        raise AssertionError("not needed")


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "tokens"])
def test_the_map_is_where_the_evidence_is(layout):
    images = torch.zeros(2, 3, 32, 32)
    images[0, 0, :8, :8] = 1  # red at the top left
    images[1, 1, 24:, 24:] = 1  # green at the bottom right
    maps = grad_cam(Network(layout).eval(), images, torch.tensor([0, 1]))
    assert maps.shape == (2, 32, 32) and maps.max() == 1 and maps.min() == 0
    assert maps[0, :8, :8].mean() > 0.5 and maps[0, 16:].max() == 0
    assert maps[1, 24:, 24:].mean() > 0.5 and maps[1, :16].max() == 0


@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch16_224", "mixer_s32_224", "resmlp_12_224", "swin_tiny_patch4_window7_224", "xcit_nano_12_p16_224"],
)
def test_networks_of_timm_have_maps_or_none(name):
    torch.manual_seed(0)
    backbone = TimmBackbone(name, 224)
    heads = FindingHeads(backbone.num_features, {"is_gc": 0}, {"is_gc": 2})
    nn.init.normal_(heads.directions.weight)
    maps = grad_cam(
        ClassifierNetwork(backbone, heads).eval(), torch.rand(2, 3, 224, 224), torch.zeros(2, dtype=torch.long)
    )
    if name == "vit_tiny_patch16_224":
        assert maps.max() == 1, "its head reads the class token alone"
    assert maps is None or (maps.shape == (2, 224, 224) and maps.max() in (0, 1))


def test_a_linear_probe_of_a_class_token_is_explained():
    torch.manual_seed(0)
    backbone = TimmBackbone("vit_tiny_patch16_224", 64).requires_grad_(False)
    heads = FindingHeads(backbone.num_features, {"is_gc": 0}, {"is_gc": 2})
    maps = grad_cam(
        ClassifierNetwork(backbone, heads).eval(), torch.rand(1, 3, 64, 64), torch.zeros(1, dtype=torch.long)
    )
    assert maps.max() == 1


def test_a_network_of_another_kind_is_left_unexplained():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Linear(1, 1)

    assert can_be_explained(Network()) and not can_be_explained(Own())


def test_the_surest_mistakes_come_first():
    levels = np.array([1, 1, 0, 0, -1, 2, 0])
    above = np.array([0.4, 0.1, 0.9, 0.6, 0.0, 0.2, 0.3])
    found = mistakes(levels, np.stack([1 - above, above, 0 * above], axis=1))
    assert found["missed"].tolist() == [1, 5, 0] and found["false alarm"].tolist() == [2, 3]
    many = mistakes(np.ones(20, int), np.tile([0.9, 0.1], (20, 1)))
    assert len(many["missed"]) == NUM_SHOWN and len(many["false alarm"]) == 0


def test_the_gallery_shows_photographs_and_where_was_looked():
    above = np.array([0.1, 0.9])
    found = Gathered(
        {"is_gc": np.stack([1 - above, above], axis=1)}, np.array([[1], [0]]), np.array(["a", "b"], object)
    )
    pictures = {"a": np.full((32, 32, 3), 90, np.uint8), "b": np.full((32, 32, 3), 180, np.uint8)}
    sheet, captions = gallery(Network().eval(), pictures.__getitem__, found, {"is_gc": 0}, 0, "is_gc")
    assert captions == ["is_gc missed", "where it looked", "is_gc false alarm", "where it looked"]
    assert sheet.shape == (4, NUM_SHOWN, 32, 32, 3)
    assert (sheet[0, 0] == 90).all() and (sheet[2, 0] == 180).all() and (sheet[0, 1:] == 255).all()
    right = Gathered({"is_gc": found.probabilities["is_gc"][::-1]}, found.labels, found.ids)
    assert gallery(Network().eval(), pictures.__getitem__, right, {"is_gc": 0}, 0, "is_gc") is None


def test_of_a_grade_the_gallery_says_what_was_taken_for_what():
    chances = np.array([[0.9, 0.1, 0, 0, 0], [0, 0, 0, 0.4, 0.6], [0.6, 0, 0, 0, 0.4]])
    found = Gathered({"dr_grade": chances}, np.array([[2], [0], [3]]), np.array(["a", "b", "c"], object))
    picture = np.full((32, 32, 3), 90, np.uint8)
    _, captions = gallery(Network().eval(), lambda name: picture, found, {"dr_grade": 0}, 0, "dr_grade")
    assert captions[0] == "dr_grade missed: 2 as 0, 3 as 0" and captions[-2] == "dr_grade false alarm: 0 as 4"


def test_an_overlay_is_the_photograph_where_the_map_is_0():
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    heat = np.zeros((4, 4), np.float32)
    assert (overlaid(image, heat) == image).all()
    heat[1, 1] = 1
    assert not (overlaid(image, heat)[1, 1] == image[1, 1]).all() and (overlaid(image, heat)[0] == image[0]).all()
