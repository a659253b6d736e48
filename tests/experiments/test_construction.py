"""What somebody else's checkpoint describes is not called, and nothing of this machine gets into what is made of it."""

import copy
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import autoencoder, classifier, gan, generator, saved, segmenter
from omegaconf import OmegaConf
from refusals import refuses

from experiments.annotation.annotators import load_annotators
from experiments.construction import DECLARED, Rebuilder, rebuilding
from experiments.loading import load_classifier, load_generator, load_segmenter
from experiments.memory import refused_memory
from experiments.model_export.kinds import AVERAGED, export_of
from lightning_modules.checkpoint import CONFIG_KEY, load_progress, load_state
from lightning_modules.networks.dit import DiT

EVIL = """
import pathlib

import torch
from torch import nn

MARKER = pathlib.Path(__file__).with_name("called")


def call(*args, **kwargs):
    MARKER.touch()
    return nn.Identity()


class Network(nn.Module):
    def __init__(self, *args, **kwargs):
        super().__init__()
        MARKER.touch()
"""


class Marked:
    """A pickle that writes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def exported(path: Path) -> Any:
    return export_of(path, load_state(path), AVERAGED, False, [])


# What reads a checkpoint, and of which kind.
ENTRIES = {
    "load_generator": (load_generator, "generator"),
    "load_generator of a GAN": (load_generator, "gan"),
    "export a generator": (exported, "generator"),
    "export an autoencoder": (exported, "autoencoder"),
    "load_classifier": (load_classifier, "classifier"),
    "load_segmenter": (load_segmenter, "segmenter"),
    "annotate": (lambda path: load_annotators([str(path)]), "classifier"),
    "export a classifier": (exported, "classifier"),
}
# Of each kind, parts that are built.
PARTS = {
    "generator": ("model.denoiser", "model.autoencoder", "model.objective.schedule", "model.diffusion"),
    "gan": ("model.generator", "model.discriminator", "model.augmentation", "model.gan"),
    "autoencoder": ("autoencoder.module", "model.autoencoder"),
    "classifier": ("model.backbone", "model.classifier"),
    "segmenter": ("model.network", "model.segmenter"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, Path]:
    """A checkpoint of each kind that is as it should be."""
    folder = tmp_path_factory.mktemp("whole")
    made = {
        "generator": generator(),
        "gan": gan(),
        "autoencoder": autoencoder(),
        "classifier": classifier(),
        "segmenter": segmenter(),
    }
    return {kind: saved(module, folder / f"{kind}.ckpt") for kind, module in made.items()}


@pytest.fixture(scope="module")
def states(whole) -> dict[str, dict]:
    """What they hold."""
    return {kind: torch.load(path, weights_only=True) for kind, path in whole.items()}


@pytest.fixture(scope="module")
def hollow(states) -> dict[str, dict]:
    """The same, of their weights the names alone: enough for what is refused before they are read."""
    return {
        kind: {**state, "state_dict": dict.fromkeys(state["state_dict"], torch.zeros(0))}
        for kind, state in states.items()
    }


@pytest.fixture
def marker(tmp_path, monkeypatch) -> Path:
    """A module `evil` that can be imported; the file is there as soon as something of it has been called."""
    (tmp_path / "evil.py").write_text(EVIL)
    torch.save(Marked(tmp_path / "called"), tmp_path / "evil.pt")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "called"
    sys.modules.pop("evil", None)


CALL = {"_target_": "evil.call"}
LOAD = {"_target_": "torch.load", "f": "evil.pt", "weights_only": False}
# What somebody writes in the place of a part, given that part.
TREES: dict[str, Callable[[dict], Any]] = {
    "in its place": lambda part: {**part, **CALL},
    "below": lambda part: {**part, "extra": CALL},
    "in a list": lambda part: {**part, "extra": [CALL]},
    "in a list within a list": lambda part: {**part, "extra": [[LOAD]]},
    "in tuples and mappings": lambda part: {**part, "extra": ({"a": [({"b": LOAD},)]},)},
    "beside a number": lambda part: {**part, "extra": [1, [2, [CALL, "x"]]]},
    "behind an interpolation": lambda part: "${evil}",
    "below an interpolation": lambda part: {**part, "extra": "${evil}"},
    "in a list behind an interpolation": lambda part: {**part, "extra": [["${evil}"]]},
    "by oc.create": lambda part: {**part, "extra": "${oc.create:'{_target_: evil.call}'}"},
    "a name by an interpolation": lambda part: {**part, "_target_": "${name}"},
    "a name in parts": lambda part: {**part, "_target_": "evil.${of}"},
    "a key by an interpolation": lambda part: {**part, "${evil}": CALL},
    "as arguments": lambda part: {**part, "_args_": [CALL]},
    "as a partial": lambda part: {**part, "extra": {**CALL, "_partial_": True}},
    "not recursive": lambda part: {**part, "_recursive_": False, "extra": CALL},
    "converted": lambda part: {**part, "_convert_": "all", "extra": {**CALL, "_convert_": "none"}},
    "hydra's get_method": lambda part: {**part, "extra": {"_target_": "hydra.utils.get_method", "path": "evil.call"}},
    "hydra's instantiate": lambda part: {**part, "extra": {"_target_": "hydra.utils.instantiate", "config": CALL}},
    "an import of ours": lambda part: {**part, "extra": LOAD | {"_target_": "lightning_modules.checkpoint.torch.load"}},
    "a class that ours imports": lambda part: {**part, "extra": {"_target_": "lightning_modules.ema.nn.Module"}},
    "a name like ours": lambda part: {**part, **CALL, "_target_": "lightning_modules_evil.call"},
    "no text": lambda part: {**part, "_target_": ["evil", "call"]},
    "with a number": lambda part: {**part, "_target_": 3},
}  # fmt: skip


def written(state: dict, target: Path, change: Callable[[dict], object]) -> Path:
    """A checkpoint like another one, with another configuration."""
    state = {**state, CONFIG_KEY: copy.deepcopy(state[CONFIG_KEY])}
    change(state[CONFIG_KEY])
    torch.save(state, target)
    return target


def spoilt(config: dict, place: str, tree: str) -> dict:
    """Put one of TREES in the place of a part of a configuration."""
    *above, last = place.split(".")
    node = config
    for key in above:
        node = node[key]
    node[last] = TREES[tree](node[last])
    config |= {"evil": CALL, "name": "evil.call", "of": "call"}
    return config


@pytest.mark.parametrize("tree", ["in its place", "in a list within a list", "behind an interpolation"])
@pytest.mark.parametrize("entry", ENTRIES)
def test_nothing_that_a_checkpoint_names_is_called(states, marker, monkeypatch, entry, tree):
    monkeypatch.chdir(marker.parent)
    read, kind = ENTRIES[entry]
    for place in PARTS[kind]:
        path = written(states[kind], Path("evil.ckpt"), lambda config, at=place: spoilt(config, at, tree))
        with refuses(ValueError, "evil.ckpt", f"({place}"):
            read(path)
        assert not marker.exists(), f"called by {place}"


@pytest.mark.parametrize("tree", TREES)
def test_nothing_is_called_however_it_is_wrapped(hollow, marker, monkeypatch, tree):
    monkeypatch.chdir(marker.parent)
    for kind, places in PARTS.items():
        for place in places:
            built = {key: hollow[kind][CONFIG_KEY][key] for key in ("model", "autoencoder")}
            config = spoilt(copy.deepcopy(built), place, tree)
            with refuses(ValueError, "x.ckpt", f"({place}"):
                make = Rebuilder(config, [], [], "x.ckpt")
                make(OmegaConf.select(make.cfg, place.removesuffix(".schedule")))
            assert not marker.exists(), f"called by {place}"


@pytest.mark.parametrize("entry", ENTRIES)
def test_what_is_as_it_should_be_is_built(whole, entry):
    read, kind = ENTRIES[entry]
    assert read(whole[kind])


@pytest.mark.parametrize("entry", ENTRIES)
def test_no_secret_gets_out_of_the_environment(hollow, tmp_path, monkeypatch, entry):
    """Whatever part it stands in: what is made of a checkpoint tells its configuration, as recipe.json does."""
    monkeypatch.setenv("SECRET", "hunter2")
    read, kind = ENTRIES[entry]
    for place in ("seed", "data.root", "job.note"):

        def change(config: dict, place: str = place) -> None:
            OmegaConf.update(made := OmegaConf.create(config), place, "${oc.env:SECRET}", force_add=True)
            config |= OmegaConf.to_container(made, resolve=False)

        path = written(hollow[kind], tmp_path / "evil.ckpt", change)
        for reader in (read, load_state, load_progress):
            with refuses(ValueError, path, "${oc.env:SECRET}", f"({place})") as told:
                reader(path)
            assert "hunter2" not in str(told.value) and place in str(told.value)


@pytest.mark.parametrize(
    ("target", "trusted"),
    [
        ("lightning_modules.checkpoint.load_state", []),
        ("lightning_modules.networks.kl.pretrained", []),
        ("lightning_modules.networks.kl.AutoencoderKL", []),
        ("lightning_modules.networks.kl.AutoencoderKL.from_pretrained", []),
        ("lightning_modules.names.check_name", []),
        ("lightning_modules.initialisation.CheckpointInit", []),
        ("lightning_modules.initialisation.ImageNetInit", []),
        ("lightning_modules.losses.perceptual.load_efficientnet_lite0", []),
        ("lightning_modules.networks.unet.UNet.load_state_dict", []),
        ("lightning_modules.networks.unet.UNet.__init__", []),
        ("lightning_modules.networks.unet", []),
        ("lightning_modules..networks.unet.UNet", []),
        ("lightning_modules.networks/unet.UNet", []),
        ("lightning_modules.no_such.UNet", []),
        ("lightning_modules", []),
        ("experiments.run.main", []),
        ("callbacks.features.build_extractor", []),
        ("timm.create_model", []),
        ("", []),
        ("torch.load", ["evil"]),
        ("evilish.call", ["evil"]),
        ("evil.torch.load", ["evil"]),
        ("evil.nn.Module", ["evil"]),
        ("evil.MARKER", ["evil"]),
        ("evil.MARKER.unlink", ["evil"]),
        ("evil.Network.load_state_dict", ["evil"]),
        ("evil", ["evil"]),
        ("evil.call", [""]),
    ],
)
def test_a_name_that_may_not_be_called(marker, target, trusted):
    with refuses(ValueError, "x.ckpt", f"{target!r} (part._target_)"):
        make = Rebuilder({"part": {"_target_": target}}, ["part"], trusted, "x.ckpt")
        make(make.cfg.part)
    assert not marker.exists()


def test_a_module_that_the_caller_trusts_is_called(marker):
    config = {"part": {"_target_": "evil.Network", "channels": [1, 2], "inner": {"_target_": "evil.call"}}}
    make = Rebuilder(config, ["part"], ["evil"], "x.ckpt")
    assert type(make(make.cfg.part, width=3)).__name__ == "Network" and marker.exists()


def test_what_is_given_takes_the_place_of_what_is_named(marker):
    config = {"part": {"_target_": "lightning_modules.networks.dit.DiT", "latent_channels": CALL, "hidden": 16}}
    make = Rebuilder(config, [], [], "x.ckpt")
    sizes = {"latent_channels": 4, "latent_size": 4, "cond_dim": 8, "depth": 1, "heads": 2, "patch_size": 2}
    assert type(make(make.cfg.part, **sizes)) is DiT and not marker.exists()


def test_what_is_declared_is_there():
    for target in DECLARED:
        assert Rebuilder({}, [], [], "x.ckpt")._allowed(target, "part").__name__ == target.rpartition(".")[2]


@pytest.mark.parametrize("words", [{"_partial_": True}, {"_partial_": "x"}, {"_recursive_": False}])
def test_nothing_is_built_later(states, tmp_path, words):
    """By whoever calls what has come of it."""
    path = written(states["classifier"], tmp_path / "x.ckpt", lambda config: config["model"]["backbone"].update(words))
    with refuses(ValueError, path, "model.backbone", f"({next(iter(words))})"):
        load_classifier(path)


def test_what_is_not_going_to_be_built_may_be_of_elsewhere(states, tmp_path):
    """A judge trains an autoencoder; whoever uses that needs no module of the judge's maker."""
    judges = {"perceptual": {"_target_": "mine.Perceptual"}, "discriminator": {"_target_": "mine.Discriminator"}}
    for kind, read in (("generator", load_generator), ("autoencoder", exported)):
        path = written(states[kind], tmp_path / "x.ckpt", lambda config: config["autoencoder"]["module"].update(judges))
        assert read(path)


@pytest.mark.parametrize("seed", [None, "7", -1, 2**32, True, 1.5])
def test_a_seed_is_not_taken_from_the_environment(states, tmp_path, monkeypatch, seed):
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    for kind, read in (("generator", load_generator), ("autoencoder", exported), ("classifier", load_classifier)):
        path = written(states[kind], tmp_path / "x.ckpt", lambda config: config.update(seed=seed))
        with refuses(ValueError, path, f"seed is {seed!r}", 2**32 - 1):
            read(path)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate")]
)
def test_what_the_memory_refuses_is_not_the_files_fault(error):
    with pytest.raises(type(error)) as told, rebuilding("x.ckpt"):
        raise error
    assert told.value is error and refused_memory(error)


def test_an_export_does_not_blame_the_file_for_what_is_not_installed(whole, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else find(name))
    path = whole["classifier"]
    with refuses(ValueError, "model.onnx", "synfundus[export]", "job.onnx=false") as told:
        export_of(path, load_state(path), AVERAGED, True, [])
    assert str(path) not in str(told.value)


@pytest.mark.parametrize("name", ["hf-hub:evil/evil", "hf_hub:evil/evil", "local-dir:/tmp", "resnet10t.hf-hub:evil"])
def test_a_backbone_that_would_be_fetched(hollow, tmp_path, name):
    path = written(
        hollow["classifier"], tmp_path / "x.ckpt", lambda config: config["model"]["backbone"].update(name=name)
    )
    with refuses(ValueError, path, f"'{name}'", "timm"):
        load_classifier(path)


def test_a_configuration_without_end(hollow, tmp_path):
    endless: list = []
    endless.append(endless)
    bomb: Any = "x"
    for _ in range(30):
        bomb = [bomb] * 10
    for tree in (endless, bomb):
        path = written(hollow["classifier"], tmp_path / "x.ckpt", lambda config, tree=tree: config.update(job=tree))
        with refuses(ValueError, path, CONFIG_KEY, "nested"):
            load_classifier(path)


def test_settings_that_mean_nothing_name_the_checkpoint(states, tmp_path):
    changes = {
        "generator": [("denoiser", {"channels": "many"}), ("denoiser", {"widht": 3}), ("conditioning", {"dim": None})],
        "classifier": [
            ("backbone", {"name": "???"}),
            ("backbone", {"input_size": -1}),
            ("backbone", {"name": 3}),
            ("classifier", {"betas": 7}),
        ],
    }
    read = {"generator": load_generator, "classifier": load_classifier}
    for kind, parts in changes.items():
        for part, settings in parts:
            path = written(
                states[kind],
                tmp_path / "x.ckpt",
                lambda config, p=part, s=settings: config["model"][p].update(s),
            )
            with refuses(ValueError, f"{path}:"):
                read[kind](path)
    bare = written(states["generator"], tmp_path / "x.ckpt", lambda config: config.pop("data"))
    with refuses(ValueError, f"{bare}:", "key data"):
        load_generator(bare)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [("latent_scale", None), ("latent_shift", torch.zeros(1)), ("latent_scale", torch.zeros(4)),
     ("latent_scale", torch.full((4,), torch.nan)), ("num_measured", torch.zeros(2))],
)  # fmt: skip
def test_an_autoencoder_without_measures_of_its_latents(states, tmp_path, name, tensor):
    for kind, full in (("autoencoder", name), ("generator", f"autoencoder.{name}")):
        state = states[kind]
        weights = {key: value for key, value in state["state_dict"].items() if key != full}
        torch.save({**state, "state_dict": weights | ({} if tensor is None else {full: tensor})}, tmp_path / "x.ckpt")
        with refuses(ValueError, tmp_path / "x.ckpt", name):
            exported(tmp_path / "x.ckpt")


def test_weights_that_are_no_numbers_are_not_used(states, tmp_path):
    """Neither in synthesis, nor exported, nor to annotate."""
    for entry, (read, kind) in ENTRIES.items():
        state = copy.deepcopy(states[kind])
        name = list(state["state_dict"])[-1 if kind == "classifier" else 8]
        state["state_dict"][name] = torch.full_like(state["state_dict"][name], torch.nan)
        torch.save(state, tmp_path / "x.ckpt")
        with refuses(ValueError, tmp_path / "x.ckpt", "NaN") as told:
            read(tmp_path / "x.ckpt")
        assert name.partition("network.")[2] in str(told.value), entry
