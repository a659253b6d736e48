"""Latents and images that are turned and shrunk alike."""

import pytest
import torch
from refusals import refuses
from torch import nn
from torch.nn import functional as F

from lightning_modules.autoencoder import Autoencoder
from lightning_modules.equivariance import SMALLEST, turned_and_shrunk


def ramps(height, width):
    """[2, 3, H, W]: brightness that rises downwards, and to the right; what bilinear resizing keeps in the interior."""
    down, right = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    return torch.stack([down, right])[:, None].expand(2, 3, height, width)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 64)])
def test_latents_stay_those_of_the_image(height, width):
    """With the mean colours of the cells as latents, the latents of what comes out are what comes out."""
    x = ramps(height, width)
    seen = set()
    for seed in range(40):
        z, y = turned_and_shrunk(F.avg_pool2d(x, 4), x, torch.Generator().manual_seed(seed))
        assert [4 * side for side in z.shape[-2:]] == list(y.shape[-2:])
        assert SMALLEST * min(height, width) <= min(y.shape[-2:]) and max(y.shape[-2:]) <= max(height, width)
        inside = (..., slice(1, -1), slice(1, -1))
        torch.testing.assert_close(F.avg_pool2d(y, 4)[inside], z[inside], rtol=0, atol=0.02)
        rises = (y[:, 0, -1] - y[:, 0, 0]).mean(1)  # downwards, of what rose downwards and to the right
        seen.add(tuple(torch.where(rises.abs() < 0.1, 0, rises.sign()).int().tolist()))
    assert seen == {(1, 0), (0, 1), (-1, 0), (0, -1)}, "every quarter turn comes"


def test_the_chance_decides_how_many_steps_are_of_the_kind(build, monkeypatch):
    calls = []

    def spy(z, x, generator):
        calls.append(tuple(z.shape))
        return turned_and_shrunk(z, x, generator)

    monkeypatch.setattr("lightning_modules.autoencoder.turned_and_shrunk", spy)
    x = 2 * torch.rand(2, 3, 16, 16) - 1
    for chance, least, most in ((0.0, 0, 0), (0.5, 8, 32), (1.0, 40, 40)):
        module = build.autoencoder(equivariance=chance)
        calls.clear()
        for seed in range(40):
            losses, image, found = module.losses(x, torch.Generator().manual_seed(seed))
            assert found.shape == image.shape
            torch.testing.assert_close(losses["reconstruction"], (found - image).abs().mean())
        assert least <= len(calls) <= most
    module.losses(x, None)
    assert len(calls) == 40, "what validates is left as it is"


def test_it_draws_nothing_where_it_is_off(build):
    """So that a training without it is the one from before it was there."""
    module, x = build.autoencoder(latent_noise=0.5), torch.rand(2, 3, 16, 16)
    generator, same = (torch.Generator().manual_seed(0) for _ in range(2))
    module.losses(x, generator)
    mean, _ = module.encode(x)
    (
        torch.randn(mean.shape, generator=same),
        torch.rand(2, 1, 1, 1, generator=same),
        torch.randn(mean.shape, generator=same),
    )
    assert torch.equal(generator.get_state(), same.get_state())


def test_a_chance_that_is_none_is_refused():
    with refuses(ValueError, "equivariance=1.5"):
        Autoencoder(nn.Identity(), equivariance=1.5)
