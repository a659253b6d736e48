"""`model/backbone=` takes an option, or any network of timm."""

import pytest

from experiments.backbone_names import spelt_out
from experiments.composition import CommandError, compose_config


def test_options_stay_and_other_networks_of_timm_are_spelt_out():
    words = ["+exp=classifier_train", "model/backbone=resnet50", "seed=1"]
    assert spelt_out(words) == words
    found = spelt_out(["+exp=classifier_train", "model/backbone=mobilenetv3_small_100.lamb_in1k"])
    assert found[1:] == ["model/backbone=timm", "model.backbone.name=mobilenetv3_small_100.lamb_in1k"]
    assert compose_config(found).model.backbone.name == "mobilenetv3_small_100.lamb_in1k"


def test_a_misspelt_name_suggests_the_nearest():
    with pytest.raises(CommandError, match="no option 'convnext_tinny': did you mean convnext_tiny.*networks of timm"):
        spelt_out(["model/backbone=convnext_tinny"])


def test_the_command_takes_it(command, here):
    result = command("+exp=classifier_train", "model/backbone=resnet5O")
    assert result.code == 2 and "did you mean resnet50" in result.err
