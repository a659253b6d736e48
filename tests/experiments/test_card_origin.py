"""What a card says of the making of a set: the generator, what that was trained on, the command that makes it again."""

import re
import shlex
from pathlib import Path

import pytest
from released_sets import rewrite
from synthetic_sets import write_set

from datamodules.synthetic import SyntheticSet
from experiments.assembly import plain
from experiments.card import origin
from experiments.card.remake import command
from experiments.card.writing import write_card
from experiments.composition import compose_config


@pytest.fixture
def dataset(tmp_path) -> Path:
    """Twenty-four phantoms in three shards."""
    return write_set(tmp_path / "set", num_images=24, group_rows=4)


MADE_BY = {
    "training": {"law": "training"},
    "prevalences": {"law": "prevalences", "is_gc": 0.5},
    "table": {"law": "table", "path": "/home/someone/table.csv"},
}


@pytest.mark.parametrize("law", MADE_BY)
@pytest.mark.parametrize("is_filtered", [False, True], ids=["all", "filtered"])
def test_the_command_that_makes_it_again_says_what_the_recipe_says(dataset, law, is_filtered):
    recipe = SyntheticSet(dataset).recipe
    recipe["plan"]["made_by"] = MADE_BY[law]
    recipe["sampling"] |= {"guidance_interval": [0.0, 0.8], "guidance": 1.5, "guidance_rescale": 0.7}
    recipe["sampling"] |= {"classifier_scale": 3.0, "classifier_interval": [0.1, 1.0], "spacing": "karras"}
    recipe["sampling"] |= {"classifier_findings": {"is_gc": 2.0, "eye_side": 0.5}}
    recipe["image"] |= {"format": "jpeg", "quality": 90, "size": 512}
    if is_filtered:
        recipe["filter"] = {"annotators": ["7" * 32], "findings": ["dr_grade", "is_gc"], "threshold": 0.4,
                            "tolerance": 1, "max_attempts": 3}  # fmt: skip
    text = command(recipe).replace("\\\n", "").replace("<runs>", "a").replace("<folder>", "f").replace("<set>", "s")
    cfg = compose_config(shlex.split(text)[3:])
    assert cfg.ckpt == f"f/{recipe['generator']['checkpoint']}" and cfg.seed == recipe["seed"]
    assert {name: str(cfg.job[name]) for name in recipe["sampling"]} == {
        name: str(value) for name, value in recipe["sampling"].items()
    }
    assert [cfg.job.image_format, cfg.job.image_quality, cfg.job.image_size] == ["jpeg", 90, 512]
    assert [cfg.job.images_per_shard, cfg.job.images_per_row_group] == [8, 4]
    law_class = "TrainingLaw" if law == "training" else "TableLaw"
    assert cfg.plan._target_.endswith(law_class) and "/home/someone" not in text
    assert cfg.num_images == 24 if law == "training" else cfg.plan.path == "s/plan.parquet"
    if is_filtered:
        asked = {name: cfg.job.filter[name] for name in ("findings", "threshold", "tolerance", "max_attempts")}
        assert {"annotators": ["7" * 32]} | asked == recipe["filter"] and cfg.job.filter.annotators == ["a"]


def test_generator_is_told_by_its_configuration(dataset):
    cfg = compose_config(["+exp=ddpm_train", "data=union", "data.root=/secret", "data.sources=[idrid]",
                          "+data.own.clinic={root: /secret/clinic}"])  # fmt: skip
    rewrite(dataset, lambda table: table, generator={**SyntheticSet(dataset).recipe["generator"], "config": plain(cfg)})
    text = write_card(dataset).read_text("utf-8")
    assert "| denoiser | `UNet` (channels [48, 96, 192], layers_per_block 1," in text
    assert "| autoencoder | `kl_autoencoder` (latent_channels 4," in text
    assert re.search(r"\| trained on \| `idrid`: .* \(terms: CC BY 4\.0; .*\); `clinic` \|", text)
    assert "The generator learnt from data on these terms, which may bind what is made of it: CC BY 4.0." in text
    assert "/secret" not in text


def test_a_recipe_cannot_have_modules_imported(monkeypatch):
    monkeypatch.setattr(origin.importlib, "import_module", lambda name: pytest.fail(f"{name} is imported"))
    config = {"data": {"source": {"_target_": "antigravity.Fly"}}}
    assert [source.name for source in origin.training_sources(config)] == ["Fly"]


def test_of_a_path_on_the_makers_machine_the_last_part_alone_is_told(dataset):
    plan = SyntheticSet(dataset).recipe["plan"] | {"made_by": MADE_BY["table"]}
    rewrite(dataset, lambda table: table, plan=plan)
    text = write_card(dataset).read_text("utf-8")
    assert "| plan | law table; path table.csv |" in text and "/home/someone" not in text
