"""Weights that a backbone starts from: files of several kinds, and what is refused."""

import argparse

import pytest
import torch
from refusals import refuses
from safetensors.torch import save_file

from lightning_modules.classifier import Classifier
from lightning_modules.initialisation import CheckpointInit, ImageNetInit, RandomInit
from lightning_modules.losses.perceptual import load_efficientnet_lite0
from lightning_modules.networks.backbone import TimmBackbone


def vit(size=64):
    return TimmBackbone("vit_tiny_patch16_224", size)


def same(ours, theirs, but=()):
    return all(torch.equal(value, theirs[name]) for name, value in ours.items() if name not in but)


def test_at_random_changes_nothing():
    backbone = vit()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    assert str(RandomInit()(backbone)) == "weights of the backbone: at random"
    assert same(backbone.state_dict(), before)


def test_bundled_imagenet_weights_give_the_published_features(monkeypatch):
    backbone = TimmBackbone("tf_efficientnet_lite0", 64).eval()
    report = ImageNetInit()(backbone)
    assert "bundled" in str(report) and not report.missing
    published = load_efficientnet_lite0()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = published.forward_head(published.forward_features((image - 0.5) / 0.5), pre_logits=True)
        assert torch.allclose(backbone(image), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["plain", "mae", "trainer", "parallel", "safetensors"])
def test_files_of_several_kinds(tmp_path, kind):
    theirs = vit().network
    state = {**theirs.state_dict(), "head.weight": torch.zeros(5, 192)}
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "mae":  # as RETFound's: arguments and a decoder come along
        state |= {"decoder_embed.weight": torch.zeros(3, 3), "mask_token": torch.zeros(1, 1, 192)}
        torch.save({"model": state, "args": argparse.Namespace(lr=1), "epoch": 3}, path)
    elif kind == "trainer":
        torch.save({"state_dict": {f"model.{name}": value for name, value in state.items()}}, path)
    elif kind == "parallel":
        torch.save({f"module.{name}": value for name, value in state.items()}, path)
    else:
        torch.save(state, path)
    backbone = vit()
    report = CheckpointInit(str(path))(backbone)
    assert same(backbone.network.state_dict(), theirs.state_dict())
    assert "head.weight" in report.skipped and not report.missing and not report.resampled
    assert "in the file, not used: " in str(report) and "150 tensors loaded" in str(report)


def test_position_embeddings_of_another_size_are_resampled(tmp_path):
    theirs = vit(96).network
    torch.save({"model": theirs.state_dict()}, tmp_path / "w.pth")
    backbone = vit(64)
    report = CheckpointInit(str(tmp_path / "w.pth"))(backbone)
    assert report.resampled == ("pos_embed",) and "resampled: pos_embed" in str(report)
    assert same(backbone.network.state_dict(), theirs.state_dict(), but=("pos_embed",))
    ours, whole = backbone.network.pos_embed[0, 1:], theirs.pos_embed[0, 1:]
    assert ours.shape == (16, 192) and torch.allclose(ours.mean(0), whole.mean(0), atol=0.01)


def test_retfound_shaped_weights_lack_the_norm_of_mean_pooling(tmp_path):
    """MAE's encoder ends in `norm`, and fine-tuning with mean pooling begins with a fresh `fc_norm`."""
    torch.save({"model": vit().network.state_dict()}, tmp_path / "w.pth")
    backbone = TimmBackbone("vit_tiny_patch16_224", 64, global_pool="avg")
    report = CheckpointInit(str(tmp_path / "w.pth"))(backbone)
    assert set(report.missing) == {"fc_norm.weight", "fc_norm.bias"}
    assert set(report.skipped) == {"norm.weight", "norm.bias"}


def test_a_run_of_ours_gives_its_averaged_backbone(tmp_path):
    classifier = Classifier(vit(), {"is_gc": 0}, {"is_gc": 2}, ema_decay=0.9)
    for parameter in classifier.ema.network.parameters():
        parameter.add_(1)
    (tmp_path / "checkpoints").mkdir()
    torch.save({"state_dict": classifier.state_dict()}, tmp_path / "checkpoints" / "best.ckpt")
    backbone = vit()
    CheckpointInit(str(tmp_path))(backbone)
    assert same(backbone.network.state_dict(), classifier.ema.network.backbone.network.state_dict())


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(vit().network.state_dict(), path)
    with refuses(ValueError, path, "0%", "ResNet resnet18", "model/backbone"):
        CheckpointInit(str(path))(TimmBackbone("resnet18", 64))
    with refuses(ValueError, path, "cls_token", [1, 1, 384], [1, 1, 192], "model/backbone"):
        CheckpointInit(str(path))(TimmBackbone("vit_small_patch16_224", 64))


def test_files_that_are_none(tmp_path):
    with refuses(FileNotFoundError, f"model.init.path='{tmp_path / 'nothing.pth'}'"):
        CheckpointInit(str(tmp_path / "nothing.pth"))(vit())
    with refuses(FileNotFoundError, f"'{tmp_path / 'checkpoints/best.ckpt'}'"):
        CheckpointInit(str(tmp_path))(vit())
    (tmp_path / "w.pth").write_bytes(b"no weights")
    with refuses(ValueError, f"model.init.path='{tmp_path / 'w.pth'}'", "containers"):
        CheckpointInit(str(tmp_path / "w.pth"))(vit())
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with refuses(ValueError, f"model.init.path='{tmp_path / 'w.pth'}'", "teacher", "params_ema"):
        CheckpointInit(str(tmp_path / "w.pth"))(vit())


class Harmful:
    def __reduce__(self):
        return (print, ("code was run",))


def test_a_file_that_would_run_code_is_refused(tmp_path, capsys):
    torch.save({"model": {"a": torch.zeros(1)}, "args": Harmful()}, tmp_path / "w.pth")
    with refuses(ValueError, f"model.init.path='{tmp_path / 'w.pth'}'", "GLOBAL print"):
        CheckpointInit(str(tmp_path / "w.pth"))(vit())
    assert "code was run" not in capsys.readouterr().out


def test_imagenet_without_a_hub_says_what_to_do(monkeypatch):
    def no_hub(*arguments, pretrained=False, **options):
        raise ConnectionError("no route to the hub")

    backbone = TimmBackbone("resnet18", 64)
    monkeypatch.setattr("lightning_modules.initialisation.timm.create_model", no_hub)
    with refuses(ValueError, "model/init=imagenet", "'resnet18'", "no route to the hub", "model.init.path=<file>"):
        ImageNetInit()(backbone)
    with refuses(ValueError, "model/init=imagenet", "Linear", "model.init.path=<file>"):
        ImageNetInit()(torch.nn.Linear(1, 1))


def test_embeddings_without_a_prefix_are_resampled_whole(tmp_path):
    """Registers and the class token of such networks have no position."""
    theirs = TimmBackbone("deit3_small_patch16_224", 96)
    torch.save(theirs.network.state_dict(), tmp_path / "w.pth")
    backbone = TimmBackbone("deit3_small_patch16_224", 64)
    report = CheckpointInit(str(tmp_path / "w.pth"))(backbone)
    assert report.resampled == ("pos_embed",) and backbone.network.pos_embed.shape == (1, 16, 384)


def test_position_biases_of_another_window_are_resampled(tmp_path):
    theirs = TimmBackbone("swin_tiny_patch4_window7_224", 224)
    torch.save(theirs.network.state_dict(), tmp_path / "w.pth")
    backbone = TimmBackbone("swin_tiny_patch4_window7_224", 128)
    report = CheckpointInit(str(tmp_path / "w.pth"))(backbone)
    assert report.resampled and all(name.endswith("relative_position_bias_table") for name in report.resampled)
    assert backbone(torch.rand(1, 3, 128, 128)).isfinite().all()


def test_a_users_backbone_is_loaded_whole(tmp_path):
    """Also one that calls a part of it `network`."""

    class Own(torch.nn.Module):
        num_features = 2

        def __init__(self):
            super().__init__()
            self.network, self.neck = torch.nn.Linear(3, 3), torch.nn.Linear(3, 2)

    theirs, ours = Own(), Own()
    state = {f"network.backbone.{name}": value for name, value in theirs.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "w.ckpt")
    report = CheckpointInit(str(tmp_path / "w.ckpt"))(ours)
    assert same(ours.state_dict(), theirs.state_dict()) and len(report.loaded) == 4 and not report.missing


def test_the_names_of_before_still_load():
    from lightning_modules import initialisation, starts

    assert starts.CheckpointStart is initialisation.CheckpointInit
    assert (starts.ImageNetStart, starts.RandomStart) == (initialisation.ImageNetInit, initialisation.RandomInit)
