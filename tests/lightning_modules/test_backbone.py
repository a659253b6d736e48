"""Backbones by their names, their layers, and which of their weights move."""

import pytest
import torch
from refusals import refuses
from torch import nn

from lightning_modules.layerwise import freeze_layers, layer_groups
from lightning_modules.networks.backbone import TimmBackbone, check_timm_name, layers_of
from lightning_modules.networks.heads import FindingHeads
from lightning_modules.training import Optimisation

OPTIMISATION = Optimisation(1e-3, weight_decay=0.05, decay_vectors=False)
SMALL = ["resnet18", "convnext_atto", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "tf_efficientnet_lite0"]


@pytest.mark.parametrize("name", SMALL)
def test_any_network_gives_a_vector_an_image(name):
    backbone = TimmBackbone(name, 64, drop_path=0.1).eval()
    images = torch.rand(2, 3, 64, 64)
    features = backbone(images)
    assert features.shape == (2, backbone.num_features)
    assert torch.equal(features, backbone.network((images - backbone.mean) / backbone.std))
    assert backbone(torch.rand(2, 3, 100, 100)).shape == features.shape, "other sizes are resized"
    layers = backbone.layers()
    assert set(layers) == {name for name, _ in backbone.named_parameters()}
    assert min(layers.values()) == 0 and len(set(layers.values())) > 3


def test_names_and_sizes_that_cannot_be():
    with refuses(ValueError, "'resnett18'", "timm", "'resnet18'"):
        check_timm_name("resnett18")
    with refuses(ValueError, "'resnet18.nonsense'", "a1_in1k"):
        check_timm_name("resnet18.nonsense")
    check_timm_name("resnet18.a1_in1k")
    with refuses(ValueError, "'vit_tiny_patch16_224'", "16 pixels", "input_size=100", 96, 112, "data.image_size"):
        TimmBackbone("vit_tiny_patch16_224", 100)


def heads_of(backbone):
    return FindingHeads(backbone.num_features, {"is_gc": 0}, {"is_gc": 2})


@pytest.mark.parametrize("global_pool", [None, "avg"])
def test_rates_fall_from_the_head_to_the_image_and_vectors_are_not_decayed(global_pool):
    backbone = TimmBackbone("vit_tiny_patch16_224", 64, global_pool=global_pool)
    heads, layers = heads_of(backbone), backbone.layers()
    groups = layer_groups(backbone, heads, layers, OPTIMISATION, 0.65)
    rate = {id(p): group for group in groups for p in group["params"]}
    assert len(rate) == len([*backbone.parameters(), *heads.parameters()])
    top = layers["network.blocks.11.attn.qkv.weight"] + 1  # as in MAE, where a norm of the mean has the head's rate
    if global_pool == "avg":
        assert layers["network.fc_norm.weight"] == top
    for name, parameter in backbone.named_parameters():
        group = rate[id(parameter)]
        assert group["lr"] == pytest.approx(1e-3 * 0.65 ** (top - layers[name]))
        vector = parameter.ndim <= 1 or name.endswith(("pos_embed", "cls_token"))
        assert group["weight_decay"] == (0 if vector else 0.05), name
    assert rate[id(heads.directions.weight)]["lr"] == 1e-3
    assert layers["network.patch_embed.proj.weight"] == 0 < layers["network.blocks.0.attn.qkv.weight"]
    assert layers["network.blocks.3.attn.qkv.weight"] < layers["network.blocks.9.attn.qkv.weight"]


@pytest.mark.parametrize("num_frozen", [0, 3, 9])
def test_frozen_layers_have_no_gradient_and_no_group(num_frozen):
    backbone = TimmBackbone("resnet18", 64)
    layers = backbone.layers()
    frozen = freeze_layers(backbone, layers, num_frozen)
    for name, parameter in backbone.named_parameters():
        assert parameter.requires_grad == (layers[name] >= num_frozen)
    grouped = {
        id(p) for g in layer_groups(backbone, heads_of(backbone), layers, OPTIMISATION, 0.8) for p in g["params"]
    }
    assert grouped >= {id(p) for p in backbone.parameters() if p.requires_grad}
    assert not grouped & {id(p) for p in backbone.parameters() if not p.requires_grad}
    stem = backbone.network.bn1
    assert any(module is stem for module in frozen) == (num_frozen > 0)


def test_more_layers_than_there_are():
    backbone = TimmBackbone("resnet18", 64)
    with refuses(ValueError, "num_frozen=10", "9 layers"):
        freeze_layers(backbone, backbone.layers(), 10)


class Own(nn.Module):
    """A user's network."""

    num_features = 4

    def __init__(self):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

    def forward(self, images):
        return self.body(self.stem(images).mean((2, 3)))


def test_a_module_that_is_called_layers_is_no_list_of_them():
    network = Own()
    network.layers = nn.Sequential(nn.Linear(4, 4))
    assert layers_of(network)["layers.0.weight"] == 2


def test_a_users_network_has_a_layer_a_child():
    assert layers_of(Own()) == {"stem.weight": 0, "stem.bias": 0, "body.weight": 1, "body.bias": 1}
