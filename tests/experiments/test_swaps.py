"""What the README says may be swapped is swapped by one word."""

import sys
from functools import reduce

import pytest
import torch
from hydra.utils import instantiate
from refusals import refuses
from test_composition import options
from tiny_runs import AUTOENCODER, DATA, DDPM_TRAIN, DIFFUSION, TRAINER, VAE_TRAIN

from experiments.assembly import build_autoencoder, build_diffusion
from experiments.composition import compose_config
from experiments.loading import load_generator

ALONE = ["trainer.max_epochs=1", "~callbacks.frechet", "~callbacks.agreement", "~callbacks.sample_grid"]


@pytest.mark.parametrize("name", options("model/denoiser"))
def test_every_denoiser_fits_the_latents(name):
    """In its own size, on the meta device: shapes without the work."""
    cfg = compose_config(["+exp=ddpm_train", f"model/denoiser={name}"])
    with torch.device("meta"):
        denoiser = instantiate(cfg.model.denoiser, latent_channels=4, latent_size=16, cond_dim=256)
        x_t, t, cond = torch.empty(2, 4, 16, 16), torch.empty(2), torch.empty(2, 256)
        assert denoiser(x_t, t, cond).shape == x_t.shape


@pytest.mark.parametrize("name", options("model/autoencoder"))
def test_every_autoencoder_builds_and_has_the_downsampling_of_its_name(name):
    cfg = compose_config(["+exp=ddpm_train", f"model/autoencoder={name}"])
    with torch.device("meta"):
        module = build_autoencoder(cfg, with_judges=False)
        images = torch.empty(2, 3, 64, 64)
        cells = 64 // module.downsampling
        assert module.network.encode(images).latent_dist.mean.shape == (2, module.latent_channels, cells, cells)
    assert f"_f{module.downsampling}" in name


SMALL_AUTOENCODERS = {
    "kl_f4_s": [8, 8],
    "kl_f4": [8, 8],
    "kl_f4_b": [8, 8, 8],
    "kl_f8": [8, 8, 8, 8],
    "kl_f8_s": [8, 8],
}
SMALL_DENOISERS = {"dit": ["model.denoiser.hidden=16", "model.denoiser.depth=1", "model.denoiser.heads=2"],
                   "unet": ["model.denoiser.channels=[16,16]", "model.denoiser.norm_groups=4",
                            "model.denoiser.attention_levels=[1]", "model.denoiser.head_dim=8"]}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("autoencoder", options("model/autoencoder"))
def test_every_autoencoder_trains(command, autoencoder):
    channels = str(SMALL_AUTOENCODERS[autoencoder]).replace(" ", "")
    words = [*VAE_TRAIN, f"model/autoencoder={autoencoder}", f"model.autoencoder.block_channels={channels}"]
    result = command(*words, "trainer.max_epochs=1", "data.image_size=32")
    assert result.code == 0, result.err


@pytest.mark.slow
@pytest.mark.parametrize("denoiser", options("model/denoiser"))
def test_every_denoiser_trains(command, denoiser):
    sizes = SMALL_DENOISERS[denoiser.split("_")[0]]
    words = ["+exp=ddpm_train", *DATA, f"model/denoiser={denoiser}", *sizes, *AUTOENCODER, *DIFFUSION, *TRAINER, *ALONE]
    result = command(*words)
    assert result.code == 0, result.err


MY_DENOISER = '''
import torch

class Mine(torch.nn.Module):
    """A third party's denoiser."""

    def __init__(self, latent_channels, latent_size, cond_dim, map_channels=0, width=4):
        super().__init__()
        self.latent_channels, self.latent_size, self.cond_dim = latent_channels, latent_size, cond_dim
        self.map_channels = map_channels
        self.conv = torch.nn.Conv2d(latent_channels + map_channels, latent_channels, 3, padding=1)
        self.shift = torch.nn.Linear(cond_dim, latent_channels)

    def forward(self, x_t, t, cond):
        return self.conv(x_t) + self.shift(cond)[:, :, None, None]
'''


def test_a_denoiser_that_takes_no_label_maps_says_how_to_go_without(tmp_path, monkeypatch):
    taken_out = {"map_channels=0, ": "", "= map_channels": "= 0", " + map_channels": ""}
    code = reduce(lambda text, pair: text.replace(*pair), taken_out.items(), MY_DENOISER)
    (tmp_path / "without_maps.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["+exp=ddpm_train", "~model.denoiser", "+model.denoiser._target_=without_maps.Mine"]
    with refuses(ValueError, "without_maps.Mine", "map_channels", "model.label_maps=null"):
        build_diffusion(cfg := compose_config(words), build_autoencoder(cfg, with_judges=False))
    module = build_diffusion(compose_config([*words, "model.label_maps=null"]), build_autoencoder(cfg, False))
    assert type(module.network.denoiser).__name__ == "Mine"


@pytest.mark.slow
def test_a_class_of_ones_own_by_its_dotted_path(command, here, monkeypatch):
    """From an option file outside the package, as an installed framework needs it."""
    (here / "third_party.py").write_text(MY_DENOISER)
    monkeypatch.syspath_prepend(here)
    (here / "conf/model/denoiser").mkdir(parents=True)
    (here / "conf/model/denoiser/mine.yaml").write_text("# Mine.\n_target_: third_party.Mine\nwidth: 4\n")
    mine = [f"hydra.searchpath=[file://{here}/conf]", "model/denoiser=mine"]
    words = ["+exp=ddpm_train", *mine, *DATA, *AUTOENCODER, *DIFFUSION, *TRAINER, *ALONE, "output_dir=out"]
    result = command(*words)
    assert result.code == 0, result.err
    assert "third_party.Mine" in (here / "out/config.yaml").read_text()
    with refuses(ValueError, "'third_party.Mine'", "trusted=['third_party']"):
        load_generator("out/checkpoints/last.ckpt")
    generator = load_generator("out/checkpoints/last.ckpt", trusted=["third_party"])
    assert generator.network.denoiser.conv.weight.shape == (4, 4 + 4, 3, 3), "latents and label maps"
    wrong = command(*words[:-1], "+model.denoiser.widht=8")
    assert wrong.code == 2 and "unknown key 'model.denoiser.widht': did you mean width?" in wrong.err
    monkeypatch.delitem(sys.modules, "third_party")


@pytest.mark.slow
def test_a_callback_of_ones_own(command, here):
    words = [*DDPM_TRAIN, *ALONE, "+callbacks.mine._target_=lightning.pytorch.callbacks.Timer"]
    assert command(*words).code == 0
    assert command(*words, "+callbacks.mine.duration=null").code == 0


@pytest.mark.slow
def test_a_discriminator_by_one_word(command):
    words = [*VAE_TRAIN, "autoencoder=gan", "autoencoder.module.discriminator.channels=16",
             "autoencoder.module.discriminator.num_downsamplings=1", "autoencoder.module.disc_start=2"]  # fmt: skip
    result = command(*words)
    assert result.code == 0, result.err
    assert "discriminator" in result.out.split("── autoencoder")[1]


@pytest.mark.slow
def test_encoding_every_batch_trains_too(command):
    assert command(*DDPM_TRAIN, *ALONE, "job.cache_latents=false").code == 0


# -- data


@pytest.fixture
def photographs(here):
    """Twelve phantoms as files of a camera, with a table."""
    from PIL import Image

    from datamodules.phantom import render

    (here / "photos").mkdir()
    rows = ["path,patient,dr_grade,eye_side"]
    for index in range(20):
        image = Image.fromarray(render(seed=0, index=index, image_size=64).image)
        camera = Image.new("RGB", (300, 260))
        camera.paste(image.resize((240, 240)), (30, 10))
        camera.save(here / f"photos/eye_{index}.jpg", quality=95)
        rows.append(f"eye_{index}.jpg,p{index // 2},{index % 5},{index % 2}")
    (here / "photos/labels.csv").write_text("\n".join(rows) + "\n")
    return here / "photos"


OWN_DATA = [word for word in DDPM_TRAIN if "num_images=40" not in word and "batch_size=8" not in word]
OWN_DATA += [*ALONE, "data.batch_size=4", "autoencoder.batch_size=4", "data.epoch_size=16"]
OWN_DATA += ["data.fractions={train:0.7,val:0.2,test:0.1}"]


@pytest.mark.slow
@pytest.mark.parametrize("words", [["data=csv", "data.table=labels.csv"], ["data=folder"]], ids=["csv", "folder"])
def test_photographs_of_ones_own(command, photographs, words):
    result = command(*OWN_DATA, *words, f"data.root={photographs}", "output_dir=out")
    assert result.code == 0, result.err
    assert f"{words[0][5:]}: 20 images of {10 if words[0] == 'data=csv' else 20} patients" in result.out


@pytest.mark.slow
def test_rahim_dr(command, shared_data, here):
    """A part of the real data set, as its folders lie."""
    real = shared_data / "rahim-dr"
    if not real.is_dir():
        pytest.skip(f"{real} is not here")
    result = command(*OWN_DATA, "data=rahim_dr", f"data.root={real}", "output_dir=out", "data.epoch_size=32",
                     "data.cache_workers=2")  # fmt: skip
    assert result.code == 0, result.err
    assert "rahim_dr: " in result.out and "dr_grade moderate" in result.out


def test_the_seed_alone_decides_the_first_weights():
    cfg = compose_config([*DDPM_TRAIN])
    first, second = (build_diffusion(cfg, build_autoencoder(cfg, with_judges=judges)) for judges in (True, False))
    for one, other in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(one, other), "a trained autoencoder or a found one must not change the denoiser's start"
