"""An exported classifier says what ours says: by timm with the heads beside it, and as ONNX."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import timm
import torch
from checkpoints import classifier
from refusals import refuses
from safetensors.torch import load_file

from experiments.model_export import classifier as exporting
from experiments.model_export.classifier import Probabilities, check_classifier, write_classifier
from experiments.model_export.readers.classifier import with_onnx, with_timm

VIT = ["model.backbone.mean=[0.1,0.2,0.3]", "model.backbone.std=[0.4,0.5,0.6]"]


def images(num: int) -> torch.Tensor:
    return torch.rand(num, 3, 32, 32, generator=torch.Generator().manual_seed(num))


@pytest.mark.parametrize(
    ("backbone", "words"),
    [("resnet10t", []), ("vit_tiny_patch16_224", VIT), ("convnext_atto.d2_in1k", ["+model.backbone.drop_path=0.1"])],
)
def test_timm_loads_it_and_the_heads_are_a_linear_layer(tmp_path, backbone, words):
    module = classifier(*[word.lstrip("+") for word in words], backbone=backbone)
    write_classifier(module.measured, tmp_path, with_onnx=False)
    batches = [images(1), images(3)]
    for batch, found in zip(batches, with_timm(tmp_path, batches), strict=True):
        wanted = module.probabilities(batch)
        assert list(found) == list(wanted) == ["dr_grade", "is_gc", "eye_side"]
        for name, values in wanted.items():
            torch.testing.assert_close(found[name], values, rtol=0, atol=1e-5)
    assert module.probabilities(images(3))["dr_grade"].std(0).max() > 1e-4, "there is something to compare"
    network = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    with torch.no_grad():
        seen = module.network.backbone.normalised(images(3))
        torch.testing.assert_close(network(seen), module.network.backbone.network(seen), rtol=0, atol=1e-5)


def test_the_config_says_what_there_is_and_nothing_of_the_published_weights(tmp_path):
    module = classifier(findings="is_gc,dr_grade")
    write_classifier(module.measured, tmp_path, with_onnx=False)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert [(finding["name"], finding["thresholds"]) for finding in config["findings"]] == [
        ("is_gc", [0]),
        ("dr_grade", [1, 2, 3, 4]),
    ]
    assert config["findings"][1]["levels"][3] == "severe" and config["pretrained_cfg"]["input_size"] == [3, 32, 32]
    assert not {"license", "origin_url", "tag", "test_input_size"} & set(config["pretrained_cfg"])
    assert {name: tensor.shape for name, tensor in load_file(tmp_path / "heads.safetensors").items()} == {
        "weight": (5, module.network.backbone.num_features),
        "bias": (5,),
    }


def test_the_network_that_becomes_onnx_is_ours():
    module = classifier()
    found = Probabilities(module.measured).eval()(images(3))
    for mine, wanted in zip(found, module.probabilities(images(3)).values(), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet10t", "vit_tiny_patch16_224"])
def test_onnx_takes_any_batch(tmp_path, backbone):
    module = classifier(backbone=backbone)
    write_classifier(module.measured, tmp_path, with_onnx=True)
    batches = [images(1), images(3)]
    for batch, found in zip(batches, with_onnx(tmp_path / "model.onnx", batches), strict=True):
        for name, wanted in module.probabilities(batch).items():
            torch.testing.assert_close(found[name], wanted, rtol=0, atol=1e-3)
    import onnx

    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", exporting.OPSET)]
    [given] = model.graph.input
    assert given.name == "image" and given.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [size.dim_value for size in given.type.tensor_type.shape.dim[1:]] == [3, 32, 32]
    assert [output.name for output in model.graph.output] == ["dr_grade", "is_gc", "eye_side"]
    assert sorted(path.name for path in tmp_path.glob("*.onnx*")) == ["model.onnx"], "all of it is in one file"


def test_what_onnx_needs_is_said_before_anything_is_written(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name))
    module = classifier()
    check_classifier(module, with_onnx=False)
    with pytest.raises(ValueError) as caught:
        check_classifier(module, with_onnx=True)
    assert "model.onnx needs onnxscript, which is not installed. Remedy: pip install 'synfundus[export]'" in str(
        caught.value
    )


def test_a_backbone_of_elsewhere_is_refused():
    module = classifier()
    module.network.backbone = torch.nn.Identity()
    with refuses(ValueError, "Identity", "timm", "model/backbone"):
        check_classifier(module, with_onnx=False)


def test_what_reads_a_folder_knows_nothing_of_this_package():
    for path in Path(exporting.__file__).parent.glob("readers/*.py"):
        imported = re.findall(r"^\s*(?:import|from) (\w+)", path.read_text("utf-8"), re.MULTILINE)
        assert not {"experiments", "lightning_modules", "datamodules", "callbacks"} & set(imported), path
