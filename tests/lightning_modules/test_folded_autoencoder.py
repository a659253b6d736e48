import pytest
import torch
from refusals import refuses
from torch.nn import functional as F

from lightning_modules.autoencoder import Autoencoder
from lightning_modules.networks.folded import FoldedAutoencoderKL, downsampling
from lightning_modules.networks.kl import kl_autoencoder, pretrained

SIZES = {"latent_channels": 2, "block_channels": (8, 8), "norm_groups": 4, "mid_attention": False}


@pytest.mark.parametrize("patch_size, cell", [(1, 2), (2, 4), (4, 8)])
def test_a_fold_multiplies_the_downsampling(patch_size, cell):
    network = kl_autoencoder(**SIZES, patch_size=patch_size)
    images = torch.rand(1, 3, 16, 24)
    latents = network.encode(images).latent_dist.mean
    assert latents.shape == (1, 2, 16 // cell, 24 // cell)
    assert network.decode(latents).sample.shape == images.shape
    assert downsampling(network.config) == cell == Autoencoder(network).downsampling


def test_it_is_the_plain_network_on_folded_pixels():
    network = kl_autoencoder(**SIZES, patch_size=2).eval()
    plain = super(FoldedAutoencoderKL, network)
    images = torch.rand(2, 3, 16, 16)
    mean = network.encode(images).latent_dist.mean
    torch.testing.assert_close(mean, plain.encode(F.pixel_unshuffle(images, 2)).latent_dist.mean)
    torch.testing.assert_close(network.decode(mean).sample, F.pixel_shuffle(plain.decode(mean).sample, 2))


@pytest.mark.parametrize("patch_size", [1, 2])
def test_the_shortcut_starts_as_the_mean_colour_of_each_cell(patch_size):
    sizes = {**SIZES, "latent_channels": 4}
    network = kl_autoencoder(**sizes, patch_size=patch_size, linear_shortcut=True)
    images = 2 * torch.rand(2, 3, 16, 24) - 1
    cell = downsampling(network.config)
    means = F.avg_pool2d(images, cell)
    with torch.no_grad():
        for part in (network.quant_conv, network.decoder.conv_out):  # silence what the convolutions add
            part.weight.zero_()
            part.bias.zero_()
        mean = network.encode(images).latent_dist.mean
        torch.testing.assert_close(mean[:, :3], 2 * means)
        assert (mean[:, 3] == 0).all()
        coarse = F.interpolate(means, scale_factor=cell)
        torch.testing.assert_close(network.decode(mean).sample, coarse)


def test_a_shortcut_is_no_part_of_the_plain_network():
    plain, short = kl_autoencoder(**SIZES, patch_size=2), kl_autoencoder(**SIZES, patch_size=2, linear_shortcut=True)
    added = set(short.state_dict()) - set(plain.state_dict())
    assert added == {"shortcut_in.weight", "shortcut_in.bias", "shortcut_out.weight", "shortcut_out.bias"}


@pytest.mark.parametrize("linear_shortcut", [False, True])
def test_a_checkpoint_of_a_folded_one_is_rebuilt(tmp_path, linear_shortcut):
    module = Autoencoder(kl_autoencoder(**SIZES, patch_size=2, linear_shortcut=linear_shortcut))
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "a.ckpt")
    images = torch.rand(1, 3, 16, 16)
    again = pretrained(str(tmp_path / "a.ckpt")).eval()
    torch.testing.assert_close(again.encode(2 * images - 1).latent_dist.mean, module.eval().encode(images)[0])


def test_a_fold_of_zero_is_refused():
    with refuses(ValueError, "patch_size=0"):
        kl_autoencoder(**SIZES, patch_size=0)
