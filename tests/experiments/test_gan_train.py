"""`+exp=gan_train` from data to samples: pairs, checkpoints that rebuild it, resuming, a synthetic set, refusals."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from polyps import write_polyps
from refusals import refuses
from tiny_runs import CALLBACKS, DATA, GAN, TRAINER, make_run

from datamodules.synthetic import SyntheticSet
from experiments.loading import load_diffusion, load_generator
from lightning_modules.checkpoint import CONFIG_KEY, load_state
from lightning_modules.gan import PairGAN

ALONE = [word for word in CALLBACKS if ".agreement." not in word] + ["~callbacks.agreement"]
SIZES = [word for word in DATA if not word.startswith("data.num_images")]


def words_of(root) -> list[str]:
    return ["+exp=gan_train", "data=kvasir_seg", f"data.root={root}", *SIZES, *GAN, *ALONE, *TRAINER, "seed=5"]


@pytest.fixture(scope="module")
def trained(made_once):
    """The folder of a run on pairs, and that of its data."""

    def make(folder):
        make_run(folder, *words_of(write_polyps(folder / "polyps")))

    folder = made_once("gan", make)
    return folder / "out", folder / "polyps"


def unknown(num):
    return torch.full((num, 16), -1)


def test_a_checkpoint_rebuilds_the_generator_of_pairs(trained):
    run, _ = trained
    path = run / "checkpoints/last.ckpt"
    state = load_state(path)
    assert state[CONFIG_KEY]["model"]["mask_levels"] == ["background", "polyp"] and state[CONFIG_KEY]["seed"] == 5
    module = load_generator(path)
    assert isinstance(module, PairGAN) and not module.training and len(module.trained_on["patients"]) > 20
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, state["state_dict"][name]), name
    images, masks = module.sample_pairs(unknown(3), [3, 4, 5])
    assert images.shape == (3, 3, 16, 16) and masks.shape == (3, 16, 16) and masks.unique().tolist() == [0, 1]
    assert torch.equal(images, load_generator(path).sample(unknown(3), [3, 4, 5]))


def test_the_run_measures_its_samples_and_shows_them_beside_their_masks(trained):
    run, _ = trained
    assert json.loads((run / "record.json").read_text())["status"] == "finished"
    assert "fd_efficientnet_lite0" in (run / "frechet.csv").read_text()
    header = (run / "metrics.csv").read_text().splitlines()[0]
    assert {"train/loss", "train/discriminator", "val/discriminator"} <= set(header.split(","))
    sheet = np.asarray(Image.open(run / "samples/epoch_0001.png"))
    assert sheet.shape[1] > 4 * 128, "two columns of images, and their masks"
    masks = sheet[4:132, [sheet.shape[1] - 66, sheet.shape[1] - 2 * 132 - 66]]
    assert set(np.unique(masks)) <= {0, 255}


def test_a_stopped_run_goes_on_bit_for_bit(command, here, trained):
    run, data = trained
    words = [*words_of(data), "output_dir=out"]
    assert command(*words, "trainer.max_epochs=1").code == 0
    assert command(*words, "resume=auto").code == 0
    whole, resumed = (load_state(path / "checkpoints/last.ckpt")["state_dict"] for path in (run, here / "out"))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_a_set_is_synthesised_and_gone_on_with(command, here, trained):
    run, _ = trained
    words = ["+exp=synthesize", f"ckpt={run}/checkpoints/last.ckpt", "num_images=12", "job.images_per_shard=5",
             "trainer.accelerator=cpu", "output_dir=set"]  # fmt: skip
    result = command(*words, "job.guidance=2.0")
    assert result.code == 1 and "guidance=2.0" in result.err
    result = command(*words, "job.dry_run=true")
    assert result.code == 0, result.err
    for more in ([], ["resume=auto"]):
        result = command(*words, *more)
        assert result.code == 0, result.err
    found = SyntheticSet(here / "set")
    assert list(found.verify()) == [] and found.num_images == 12
    assert found.manifest["generator"]["image_size"] == 16 and found.manifest["sampling"] == {}


def test_others_than_diffusion_are_refused_where_it_is_needed(command, here, trained):
    run, _ = trained
    path = run / "checkpoints/last.ckpt"
    with refuses(ValueError, path, "ddpm_train"):
        load_diffusion(path)
    result = command("+exp=export_model", f"ckpt={path}", "output_dir=out")
    assert result.code == 1 and str(path) in result.err and "Traceback" not in result.err


def test_training_begins_with_the_weights_of_another_run(command, here, trained):
    run, data = trained
    weights = f"ckpt={run}/checkpoints/last.ckpt"
    still = ["model.gan.learning_rate=0", "model.gan.disc_learning_rate=0", "trainer.max_epochs=1"]
    assert command(*words_of(data), weights, *still, "output_dir=out").code == 0
    first, second = load_generator(run / "checkpoints/last.ckpt"), load_generator("out/checkpoints/last.ckpt")
    torch.testing.assert_close(second.network.state_dict(), first.ema.network.state_dict())


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (["trainer.gradient_clip_val=1.0"], ["trainer.gradient_clip_val=1.0", "model.gan.gradient_clip=1.0"]),
        (["trainer.accumulate_grad_batches=2"], ["trainer.accumulate_grad_batches=2"]),
        (["~callbacks.frechet", "~callbacks.agreement"], ["val/loss", "callbacks.frechet"]),
        (["data.image_size=48"], ["image_size=48", "32 or 64"]),
        (["model.mask_levels=[a]"], ["model.mask_levels", "names 1"]),
        (["model.mask_levels=[a,b]"], ["2 mask_levels", "mask"]),
    ],
)
def test_what_cannot_be_is_refused(command, here, words, facts):
    result = command("+exp=gan_train", *DATA, *GAN, *CALLBACKS, *TRAINER, "output_dir=out", *words)
    assert result.code == 1 and "Traceback" not in result.err
    assert all(fact in result.err for fact in facts), result.err
