"""Settings that a constructor takes as an object or field by field."""

import inspect

import pytest
from refusals import refuses

from datamodules.errors import UserError
from lightning_modules.autoencoder import Autoencoder
from lightning_modules.latent_diffusion import LatentDiffusion
from lightning_modules.latent_sampling import Sampling
from lightning_modules.training import Blocks, Optimisation, accepts_fields


@accepts_fields(optimisation=Optimisation, blocks=Blocks)
class Taken:
    def __init__(self, size, optimisation=Optimisation(warmup_steps=7), blocks=Blocks()):
        self.size, self.optimisation, self.blocks = size, optimisation, blocks


def test_fields_go_into_their_objects():
    taken = Taken(3, learning_rate=0.5, compile_blocks=True)
    assert taken.optimisation == Optimisation(learning_rate=0.5, warmup_steps=7), "others keep the parameter's default"
    assert taken.blocks == Blocks(compile_blocks=True) and taken.size == 3
    given = Taken(3, optimisation=Optimisation(0.1), weight_decay=0.2)
    assert given.optimisation == Optimisation(0.1, weight_decay=0.2), "a field goes before the object"
    assert Taken(size=1).optimisation.warmup_steps == 7


@pytest.mark.parametrize("betas", [7, [0.9], [0.9, 1.0], "ab", [0.9, None]])
def test_betas_are_two_fractions(betas):
    with refuses(UserError, f"betas={betas!r}"):
        Optimisation(betas=betas)


def test_what_is_no_field_is_refused():
    with refuses(TypeError, "'learning_rat'"):
        Taken(3, learning_rat=0.5)


@pytest.mark.parametrize("kind", [Autoencoder, LatentDiffusion])
def test_a_signature_names_every_field(kind):
    names = set(inspect.signature(kind).parameters)
    assert {"learning_rate", "betas", "warmup_epochs", "fused_optimizer", "compile_blocks", "seed"} <= names
    assert "self" not in names and len(inspect.signature(kind.__init__.__wrapped__).parameters) <= 13


def test_objects_and_fields_build_the_same_module(build):
    settings = {"scheduler": "ddpm", "num_steps": 7, "guidance": 2.0, "sampling_precision": "bf16"}
    assert build.diffusion(**settings).sampling == build.diffusion(sampling=Sampling(), **settings).sampling
    assert build.diffusion(**settings).sampling["precision"] == "bf16"
    assert build.autoencoder(kl_weight=3.0).terms.kl_weight == 3.0
    with refuses(ValueError, "equivariance=1.5"):
        build.autoencoder(equivariance=1.5)
