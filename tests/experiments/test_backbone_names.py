"""`model/backbone=` takes an option, or any network of timm."""

import pytest
from refusals import refuses

from experiments.backbone_names import spelt_out
from experiments.composition import CommandError, compose_config


def test_options_stay_and_other_networks_of_timm_are_spelt_out():
    words = ["+exp=classifier_train", "model/backbone=resnet50", "seed=1"]
    assert spelt_out(words) == words
    found = spelt_out(["+exp=classifier_train", "model/backbone=mobilenetv3_small_100.lamb_in1k"])
    assert found[1:] == ["model/backbone=timm", "model.backbone.name=mobilenetv3_small_100.lamb_in1k"]
    assert compose_config(found).model.backbone.name == "mobilenetv3_small_100.lamb_in1k"


def test_a_misspelt_name_suggests_the_nearest():
    with refuses(CommandError, "'convnext_tinny'", "mean convnext_tiny", "timm"):
        spelt_out(["model/backbone=convnext_tinny"])


def test_the_command_takes_it(command, here):
    result = command("+exp=classifier_train", "model/backbone=resnet5O")
    assert result.code == 2 and "did you mean resnet50" in result.err


@pytest.mark.parametrize("where", [["hydra.searchpath=[file://mine]"], ["--config-dir", "mine"], ["--config-dir=mine"]])
def test_an_option_file_of_ones_own_folder_is_found(here, where):
    (here / "mine" / "model" / "backbone").mkdir(parents=True)
    (here / "mine" / "model" / "backbone" / "small.yaml").write_text("_target_: my_backbones.Small\n")
    words = ["+exp=classifier_train", *where, "model/backbone=small"]
    assert spelt_out(words) == words
    with refuses(CommandError, "'smal'", "mean small"):
        spelt_out([*words[:-1], "model/backbone=smal"])
