"""Denoiser contract, discriminator, autoencoder network and where its weights come from."""

import shutil

import diffusers
import pytest
import torch
from refusals import refuses
from safetensors.torch import load_file, save_file

from lightning_modules.losses.adversarial import discriminator_hinge, generator_hinge
from lightning_modules.networks.discriminator import PatchDiscriminator
from lightning_modules.networks.dit import DiT, sincos_positions
from lightning_modules.networks.kl import NETWORK_KEY, kl_autoencoder, pretrained
from lightning_modules.networks.unet import UNet


@pytest.mark.parametrize("name", ["unet", "dit"])
def test_denoiser_contract(build, name):
    torch.manual_seed(0)
    denoiser = build.denoiser(name, cond_dim=8)
    x_t, t, cond = torch.randn(3, 2, 8, 8), torch.tensor([0.0, 500.0, 999.0]), torch.randn(3, 8)
    assert torch.equal(denoiser(x_t, t, cond), torch.zeros(3, 2, 8, 8))  # starts at 0
    with torch.no_grad():
        for parameter in denoiser.parameters():  # leave the zero start, or nothing can be seen
            parameter.add_(0.05 * torch.randn_like(parameter))
    out = denoiser(x_t, t, cond)
    assert out.shape == x_t.shape
    assert not torch.allclose(out, denoiser(x_t, t, cond + 1), atol=1e-4)
    assert not torch.allclose(out[1:2], denoiser(x_t[1:2], torch.tensor([501.0]), cond[1:2]), atol=1e-5)
    torch.testing.assert_close(out[1:2], denoiser(x_t[1:2], t[1:2], cond[1:2]))
    assert (denoiser.latent_channels, denoiser.latent_size, denoiser.cond_dim) == (2, 8, 8)


def test_dit_puts_patches_back_where_they_came_from():
    denoiser = DiT(3, 4, 8, patch_size=2, hidden=12, depth=0, heads=2)
    # Make patchify and the last layer copy: token = flattened patch (c, p, p), output order (p, p, c).
    with torch.no_grad():
        denoiser.patchify.weight.copy_(torch.eye(12).view(12, 3, 2, 2))
        denoiser.positions.zero_()
        denoiser.final_norm = torch.nn.Identity()
        order = torch.arange(12).view(3, 2, 2).permute(1, 2, 0).flatten()
        denoiser.final.weight.copy_(torch.eye(12)[order])
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(denoiser(x, torch.zeros(2), torch.zeros(2, 8)), x)


def test_positions_tell_rows_from_columns():
    positions = sincos_positions(4, 16)[0]
    assert positions.shape == (16, 16)
    assert torch.cdist(positions, positions).fill_diagonal_(1).min() > 0.1


@pytest.mark.parametrize(
    "make, facts",
    [
        (lambda: UNet(2, 10, 8, channels=(32, 32, 32)), ["latent_size=10", "by 4", "8 or 12"]),
        (lambda: UNet(2, 8, 8, channels=(40,), attention_levels=()), ["channels[0]=40", "norm_groups=32"]),
        (
            lambda: UNet(2, 8, 8, channels=(32, 32), attention_levels=(2,)),
            ["attention_levels", "holds 2", "`channels`", "0..1"],
        ),
        (
            lambda: UNet(2, 8, 8, channels=(32, 32), attention_levels=(1,), head_dim=24),
            ["channels[1]=32", "head_dim=24"],
        ),
        (lambda: DiT(2, 9, 8), ["latent_size=9", "patch_size=2"]),
        (lambda: DiT(2, 8, 8, hidden=30, heads=4), ["hidden=30", "heads=4"]),
        (lambda: kl_autoencoder(block_channels=(20, 64)), ["block_channels[0]=20", "norm_groups=32"]),
        (lambda: PatchDiscriminator(channels=8), ["channels=8", "norm_groups=16"]),
    ],
)
def test_sizes_that_do_not_fit_are_named(make, facts):
    with refuses(ValueError, *facts):
        make()


def test_discriminator_sees_seventy_pixels_and_judges_each_image_by_itself():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(channels=8, norm_groups=8)
    images = torch.randn(2, 3, 72, 72)
    logits = discriminator(images)
    torch.testing.assert_close(logits[:1], discriminator(images[:1]))
    discriminator.layers = torch.nn.Sequential(
        *[layer for layer in discriminator.layers if not isinstance(layer, torch.nn.GroupNorm)]
    )  # the normalisation sees the whole image; the convolutions see a patch
    images = torch.zeros(1, 3, 144, 144, requires_grad=True)
    discriminator(images)[0, 0, 8, 8].backward()
    seen = images.grad.abs().sum((0, 1)).nonzero()
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [70, 70]
    with refuses(ValueError, (16, 16), 32, "num_downsamplings"):
        PatchDiscriminator()(torch.zeros(1, 3, 16, 16))


def test_hinge_losses():
    zero = torch.zeros(4, dtype=torch.bfloat16)
    assert discriminator_hinge(zero, zero) == 1 and discriminator_hinge(zero + 1, zero - 1) == 0
    assert discriminator_hinge(zero, zero).dtype == torch.float32
    assert generator_hinge(torch.tensor([1.0, 3.0])) == -2


def test_pretrained_from_a_folder_and_from_a_checkpoint(build, tmp_path):
    module = build.autoencoder()
    module.network.save_pretrained(tmp_path / "vae" / "inner")
    loaded = pretrained(str(tmp_path / "vae"), subfolder="inner")
    trainer, _ = build.fit(module, max_steps=1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = pretrained(str(tmp_path / "a.ckpt"))
    diffusion = build.diffusion()
    build.fit(diffusion, max_steps=1)[0].save_checkpoint(tmp_path / "d.ckpt")
    nested = pretrained(str(tmp_path / "d.ckpt"))
    assert torch.equal(nested.encoder.conv_in.weight, diffusion.autoencoder.network.encoder.conv_in.weight)
    assert isinstance(loaded, diffusers.AutoencoderKL)
    for name, tensor in module.network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_pretrained_that_cannot_be_had_says_where_to_put_it(tmp_path, monkeypatch):
    with refuses(FileNotFoundError, f"({tmp_path / 'absent.ckpt'})"):
        pretrained(str(tmp_path / "absent.ckpt"))
    with refuses(FileNotFoundError, "vae/config.json", "https://huggingface.co/nobody/nothing", "`source`"):
        pretrained("nobody/nothing", subfolder="vae")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with refuses(ValueError, tmp_path / "other.ckpt", f"'{NETWORK_KEY}'", "state_dict"):
        pretrained(str(tmp_path / "other.ckpt"))


SMALL_KL = {
    "block_out_channels": (8, 8),
    "norm_num_groups": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}


@pytest.fixture(scope="module")
def kl_folder(tmp_path_factory):
    """An autoencoder in the layout of diffusers."""
    folder = tmp_path_factory.mktemp("kl")
    diffusers.AutoencoderKL(**SMALL_KL).save_pretrained(folder)
    return folder


def _spoilt(folder, target, change):
    """A copy of a folder of diffusers with other weights."""
    shutil.copytree(folder, target)
    file = target / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    save_file(change(state), file, metadata={"format": "pt"})
    return str(target)


def test_a_folder_of_another_class_is_refused_by_its_name(tmp_path):
    diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4, num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
    ).save_pretrained(tmp_path / "AutoencoderTiny")  # fmt: skip
    diffusers.VQModel(block_out_channels=(8,), norm_num_groups=4, num_vq_embeddings=16).save_pretrained(
        tmp_path / "VQModel"
    )
    for name in ("AutoencoderTiny", "VQModel"):
        with refuses(ValueError, f"source='{tmp_path / name}'", f" {name}", "FoldedAutoencoderKL", "vae_train"):
            pretrained(str(tmp_path / name))


def test_a_folder_whose_weights_do_not_fill_the_network(kl_folder, tmp_path):
    assert pretrained(str(kl_folder)).config.latent_channels == 4
    holes = _spoilt(
        kl_folder, tmp_path / "holes",
        lambda state: {name: tensor for name, tensor in state.items() if "up_blocks" not in name},
    )  # fmt: skip
    with refuses(ValueError, f"source='{holes}'", "decoder.up_blocks.0.resnets.0.conv1.bias", "34 in all", "vae_train"):
        pretrained(holes)
    none = _spoilt(kl_folder, tmp_path / "none", lambda state: {"other": torch.zeros(1)})
    with refuses(ValueError, f"source='{none}'", "decoder.conv_in.bias", "120 in all", "vae_train"):
        pretrained(none)
    wide = _spoilt(
        kl_folder, tmp_path / "wide", lambda state: state | {"encoder.conv_in.weight": torch.zeros(9, 3, 3, 3)}
    )
    with refuses(ValueError, f"source='{wide}': config.json", "AutoencoderKL", "vae_train"):
        pretrained(wide)
    nan = _spoilt(
        kl_folder, tmp_path / "nan", lambda state: state | {"encoder.conv_in.bias": torch.full((8,), torch.nan)}
    )
    with refuses(ValueError, f"source='{nan}'", "NaN", "encoder.conv_in.bias"):
        pretrained(nan)


@pytest.mark.parametrize(
    "content", ["", "[1, 2]", "null", '"text"', "{}", '{"_class_name": 3}', '{"in_channels": "x"}']
)
def test_a_folder_with_a_damaged_config(kl_folder, tmp_path, content):
    shutil.copytree(kl_folder, tmp_path / "vae")
    (tmp_path / "vae/config.json").write_text(content)
    with refuses(ValueError, f"source='{tmp_path / 'vae'}'", "config.json", "Remedy"):
        pretrained(str(tmp_path / "vae"))


def test_a_folder_with_damaged_weights(kl_folder, tmp_path):
    shutil.copytree(kl_folder, tmp_path / "vae")
    file = tmp_path / "vae/diffusion_pytorch_model.safetensors"
    whole = file.read_bytes()
    for content in (b"", whole[:-100], bytes([255]) + whole[1:], b"text"):
        file.write_bytes(content)
        with refuses(ValueError, f"source='{tmp_path / 'vae'}'", file, "Remedy"):
            pretrained(str(tmp_path / "vae"))


@pytest.mark.parametrize(
    "config", [[], "text", 3, {"no_such": 1}, {"block_out_channels": "x"}, {1: 2}, {"down_block_types": ["Evil"]}]
)
def test_a_checkpoint_with_a_foreign_autoencoder(tmp_path, config):
    torch.save({"state_dict": {}, NETWORK_KEY: config}, tmp_path / "x.ckpt")
    with refuses(ValueError, tmp_path / "x.ckpt", NETWORK_KEY, "AutoencoderKL", "Remedy"):
        pretrained(str(tmp_path / "x.ckpt"))
