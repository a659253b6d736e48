"""What may be typed composes; what may not is refused with the names that are known."""

import contextlib
import io
import re
import shutil
import sys
from importlib import resources
from pathlib import Path

import pytest
from hydra.utils import instantiate
from refusals import refuses

from experiments import composition
from experiments.composition import CommandError, check_command, compose_config, experiments
from experiments.known_keys import locate

CONF = Path(str(resources.files("experiments.conf")))
GIVEN = {"csv": ["data.table=t.csv"], "union": ["data.sources=[aptos2019,idrid]"]}
TOP_LEVEL = ("data", "autoencoder", "trainer", "strategy", "callbacks")


def options(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml") if not file.stem.startswith("_"))


def refused(*words: str) -> str:
    with pytest.raises(CommandError) as caught:
        check_command(list(words))
    return str(caught.value)


# -- what there is


@pytest.mark.parametrize("name", experiments())
def test_every_experiment_composes(name, composed):
    assert composed(f"+exp={name}").name == name


@pytest.mark.parametrize("name", experiments())
def test_every_experiment_opens_with_what_it_does_and_how_to_run_it(name):
    lines = (CONF / "exp" / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    comment = [line.lstrip("# ") for line in lines[1 : next(i for i, x in enumerate(lines) if not x.startswith("#"))]]
    assert len(comment[0]) > 20 and comment[0].endswith("."), "the first line says what it does"
    for title in ("Command:", "Cost:", "Measured:"):
        assert any(line.startswith(title) for line in comment), f"{title} is missing"
    assert any(f"+exp={name}" in line for line in comment)


@pytest.mark.parametrize("group", TOP_LEVEL)
def test_every_option_of_a_group_composes(group):
    for option in options(group):
        root = ["data.root=."] if group == "data" and not option.startswith("phantom") else []
        compose_config(["+exp=ddpm_train", f"{group}={option}", *root, *GIVEN.get(option, [])])


@pytest.mark.parametrize("group", ["model/denoiser", "model/autoencoder"])
def test_every_denoiser_and_autoencoder_composes(group):
    found = options(group)
    assert len(found) >= 4
    for option in found:
        cfg = compose_config(["+exp=ddpm_train", f"{group}={option}"])
        assert locate(cfg.model[group.split("/")[1]]._target_)


def test_every_extractor_composes():
    for option in options("extractor"):
        words = ["+exp=ddpm_train", f"extractor@callbacks.frechet.extractor={option}"]
        assert compose_config(words).callbacks.frechet.extractor.name == option


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: path.relative_to(CONF).as_posix())
def test_every_option_file_opens_with_a_comment(path):
    assert path.read_text().startswith("# ")


def test_seed_0_seeds():
    import torch

    from experiments.assembly import build_autoencoder

    def weights(seed: int) -> torch.Tensor:
        torch.randn(3)  # whatever was drawn before
        module = build_autoencoder(compose_config(["+exp=vae_train", f"seed={seed}"]), with_judges=False)
        return torch.cat([parameter.flatten() for parameter in module.network.parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_the_seed_reaches_every_part():
    cfg = compose_config(["+exp=ddpm_train", "seed=7"])
    seeds = [cfg.data.module.seed, cfg.data.source.seed, cfg.model.diffusion.seed, cfg.autoencoder.module.seed]
    assert [*seeds, cfg.callbacks.frechet.seed, cfg.callbacks.sample_grid.seed] == [7] * 6


def test_finding_levels_are_those_of_the_datamodule():
    from datamodules.findings import NUM_LEVELS

    conditioning = instantiate(compose_config(["+exp=ddpm_train"]).model.conditioning)
    assert dict(zip(conditioning.names, conditioning.levels, strict=True)) == dict(NUM_LEVELS)


def test_a_sweep_is_checked_by_its_first_combination():
    check_command(["--multirun", "+exp=ddpm_train", "seed=0,1"])
    assert "'sed'" in refused("--multirun", "+exp=ddpm_train", "sed=0,1")


def test_flags_with_an_argument_are_no_overrides():
    check_command(["+exp=ddpm_train", "--cfg", "job"])


# -- what is misspelt


def test_no_experiment_lists_them_all_with_a_line_each():
    said = refused()
    for name, line in experiments().items():
        assert re.search(rf"^  {name} +{re.escape(line)}$", said, re.MULTILINE)
    assert "+exp=NAME" in said


def test_misspelt_experiment():
    said = refused("+exp=ddpm_tran")
    assert "no experiment 'ddpm_tran'" in said and "did you mean ddpm_train" in said and "vae_train" in said


def test_experiment_without_plus():
    assert "write +exp=vae_train instead of exp=vae_train" in refused("exp=vae_train")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["modle=kl"], "unknown key 'modle': did you mean model or"),
        (["model/denoisr=unet_s"], "unknown key 'model/denoisr': did you mean denoiser?"),
        (["model/denoiser=unet_xl"], "model/denoiser has no option 'unet_xl': did you mean unet_xs"),
        (["data=fantom"], "data has no option 'fantom': did you mean phantom"),
        (["data.imag_size=64"], "unknown key 'data.imag_size': did you mean image_size"),
        (["+data.imag_size=64"], "unknown key 'data.imag_size': did you mean image_size"),
        (["++trainer.max_epoch=3"], "unknown key 'trainer.max_epoch': did you mean max_epochs"),
        (["data.modul.seed=3"], "unknown key 'data.modul.seed': did you mean module"),
        (["model.denoiser.depth=3"], "unknown key 'model.denoiser.depth'"),
        (["+model.denoiser.chanels=[8]"], "unknown key 'model.denoiser.chanels': did you mean channels"),
        (["+callbacks.frechet.num_image=3"], "unknown key 'callbacks.frechet.num_image': did you mean num_images"),
        (["+callbacks.mine.num=3"], "unknown key 'callbacks.mine'"),
        (["++modul.seed=3"], "unknown key 'modul': did you mean model?"),
        (["data=union", "data.root=x", "data.sources=[drive]", "data.roots.drive=y"],
         "data.roots has no 'drive' yet: +data.roots.drive=… adds it."),
        (["data=folder", "data.num_images=3"], "unknown key 'data.num_images': did you mean image_size"),
        (["data.root=/photos"], "unknown key 'data.root'"),
        (["data.image_size=abc"], "data.image_size=abc: a whole number is needed here"),
        (["data.batch_size=16.5"], "data.batch_size=16.5: a whole number is needed here, as in data.batch_size=32"),
        (["trainer.max_steps=1e3"], "trainer.max_steps=1000.0: a whole number is needed here"),
        (["model.diffusion.ema_decay=no"], "a number is needed here"),
        (["data.flip=no"], "data.flip=no: true or false is needed here"),
        (["model.denoiser.channels=32"], "model.denoiser.channels=32: a list is needed here"),
        (["+callbacks.mine._target_=experiments.nothing.Mine"], "cannot import 'experiments.nothing'"),
        (["+callbacks.mine._target_=callbacks.fid.FrechetDistanc"], "callbacks.fid has no 'FrechetDistanc': did you"),
        (["seed"], "cannot read the command line. Error parsing override 'seed'"),
    ],
)  # fmt: skip
def test_misspelt_word(words, said):
    assert said in refused("+exp=ddpm_train", *words)


@pytest.mark.parametrize(("option", "keys"), [("csv", "data.root, data.table"), ("folder", "data.root")])
def test_what_must_be_given(option, keys):
    assert refused("+exp=ddpm_train", f"data={option}").startswith(f"{keys} must be given: ")


def test_a_whole_number_is_a_number_and_null_is_nothing_of_any_kind():
    check_command(["+exp=ddpm_train", "model.diffusion.guidance=2", "trainer.gradient_clip_val=1"])
    check_command(["+exp=ddpm_train", "data.epoch_size=null", "callbacks.frechet.num_real=null"])


def test_devices_may_be_a_number_a_list_or_auto():
    for devices in ("2", "[0,1]", "auto"):
        check_command(["+exp=ddpm_train", f"trainer.devices={devices}"])


# -- an experiment of one's own


@pytest.fixture
def own_experiment(tmp_path, monkeypatch):
    """A copy of the configuration, with an experiment `own` of a given text; importable as `own_conf`."""
    shutil.copytree(CONF, tmp_path / "own_conf", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_conf", raising=False)  # that of another test
    monkeypatch.setattr(composition, "CONFIG_MODULE", "own_conf")

    def write(text: str) -> None:
        (tmp_path / "own_conf" / "exp" / "own.yaml").write_text(text)

    return write


OWN = """# @package _global_
# My own experiment.
defaults:
  - ddpm_train
  - _self_
name: own
data:
  image_size: 32
"""


def test_own_experiment(own_experiment):
    own_experiment(OWN)
    cfg = compose_config(["+exp=own"])
    assert cfg.name == "own" and cfg.data.image_size == 32
    assert experiments()["own"] == "My own experiment."


def test_own_experiment_without_package_line(own_experiment):
    own_experiment(OWN.replace("# @package _global_\n", ""))
    said = refused("+exp=own")
    assert "must begin with the line: # @package _global_" in said


def test_own_experiment_with_misspelt_key(own_experiment):
    own_experiment(OWN.replace("image_size", "imagesize"))
    assert "unknown key 'data.imagesize': did you mean image_size" in refused("+exp=own")
    own_experiment(OWN + "trainr:\n  max_epochs: 3\n")
    assert "unknown key 'trainr': did you mean trainer?" in refused("+exp=own")
    own_experiment(OWN.replace("- ddpm_train", "- ddpm_trian"))
    assert "ddpm_trian" in refused("+exp=own")


def test_help_needs_no_experiment():
    with contextlib.redirect_stdout(io.StringIO()):
        check_command(["--help"])


def test_several_values_are_a_list_or_a_sweep():
    with refuses(CommandError, "data.sources=[drive,idrid]", "--multirun"):
        check_command(["+exp=ddpm_train", "data=union", "data.root=x", "data.sources=drive,idrid"])
    check_command(["+exp=ddpm_train", "seed=1,2", "--multirun"])


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["+exp=inspect_data", "data=folder", "data.root=a\\${b}"], "data.source.root"),
        (["+exp=compare_runs", "job.runs=[x,'a\\${b}']"], "job.runs[1]"),
    ],
)
def test_what_no_checkpoint_could_hold_is_refused_before_anything_is_made(command, here, words, key):
    """Its configuration would be taken for one with an interpolation."""
    result = command("output_dir=out", *words)
    assert result.code == 2 and f"error: {key} is 'a${{b}}', and ${{ may be in no name" in result.err, result.err
    assert not (here / "out").exists()


def test_the_plain_preset_has_nothing_of_what_makes_labels_followed():
    """So that whatever becomes the default, it stays what it is compared with."""
    cfg = compose_config(["+exp=ddpm_train_plain", "output_dir=x"])
    assert cfg.model.label_maps is cfg.model.guide is cfg.callbacks.agreement is cfg.job.repeat_threshold is None
    assert not cfg.model.conditioning.ordinal and cfg.model.denoiser.get("zero_init", False) is False
    assert (cfg.model.objective.timestep_law, cfg.model.objective.min_snr_floor) == ("uniform", 0)
    sampling = cfg.model.diffusion
    assert (sampling.spacing, sampling.guidance, sampling.num_steps, sampling.guidance_rescale) == (
        "trailing",
        1.5,
        10,
        0,
    )
    network, training = cfg.model.autoencoder, cfg.autoencoder
    assert (network.latent_channels, list(network.block_channels)) == (4, [64, 64])
    assert (training.max_epochs, training.module.latent_noise, training.module.equivariance) == (4, 0.5, 0)
    assert (training.module.kl_weight, training.module.perceptual_weight, training.batch_size) == (1e-2, 2.0, 8)
    assert (cfg.callbacks.frechet.guidance, cfg.callbacks.sample_grid.guidance) == (1.0, 2.0)
    assert (cfg.trainer.max_epochs, cfg.data.epoch_size, cfg.data.batch_size) == (8, 3750, 16)
