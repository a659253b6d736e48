"""Tiny modules and a deterministic loader that resumes in mid-epoch."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from lightning_modules.autoencoder import Autoencoder
from lightning_modules.conditioning import LabelConditioning
from lightning_modules.diffusion.objective import Objective
from lightning_modules.diffusion.schedule import Schedule
from lightning_modules.label_maps import LabelMaps
from lightning_modules.latent_diffusion import LatentDiffusion
from lightning_modules.masks import MaskCode, MaskMaps
from lightning_modules.networks.discriminator import PatchDiscriminator
from lightning_modules.networks.dit import DiT
from lightning_modules.networks.kl import kl_autoencoder
from lightning_modules.networks.latent_classifier import LatentClassifier
from lightning_modules.networks.unet import UNet

MEANS = torch.tensor([[1.5, 0.5], [-1.0, 1.0]])
STD = 0.4
NUM_LEVELS = {"dr_grade": 5, "is_gc": 2, "eye_side": 2}
MASK_LEVELS = ("background", "disc", "cup")


class Batches:
    """Loader of given batches whose position is part of the checkpoint."""

    def __init__(self, batches):
        self.batches, self.start, self.position = batches, 0, 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        start, self.start = self.start, 0
        for i in range(start, len(self.batches)):
            self.position = i + 1
            yield self.batches[i]

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.start = self.position = state["position"] % len(self.batches)


class Recorder(Callback):
    """All quantities logged in training, a dict a batch."""

    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, *args):
        logged = trainer.callback_metrics.items()
        self.steps.append({name: float(value) for name, value in logged if name.startswith("train/")})


def make_batches(num=4, size=2, image_size=16, masks=False):
    """With `masks` each image has one of MASK_LEVELS, a disc at random, and the image is brighter there."""
    g = torch.Generator().manual_seed(7)
    batches = [
        {
            "image": torch.rand(size, 3, image_size, image_size, generator=g),
            "labels": torch.stack([torch.randint(-1, n, (size,), generator=g) for n in NUM_LEVELS.values()], 1),
            "id": [f"{i}-{k}" for k in range(size)],
        }
        for i in range(num)
    ]
    for batch in batches if masks else ():
        batch["mask"] = make_masks(size, image_size, g)
    return Batches(batches)


def make_masks(num, size, generator):
    """Discs of level 1 or 2 at random, int64 [num, size, size]."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centres = torch.randint(0, size, (num, 2), generator=generator)
    off = (rows - centres[:, 0, None, None]) ** 2 + (columns - centres[:, 1, None, None]) ** 2
    levels = torch.randint(1, len(MASK_LEVELS), (num, 1, 1), generator=generator)
    return torch.where(off <= (size // 4) ** 2, levels, 0)


def make_autoencoder(discriminator=False, seed=0, **arguments):
    torch.manual_seed(seed)
    network = kl_autoencoder(2, (8, 8), norm_groups=4, mid_attention=False)
    judge = PatchDiscriminator(channels=8, num_downsamplings=1, norm_groups=4) if discriminator else None
    return Autoencoder(network, discriminator=judge, **arguments)


def make_denoiser(name, cond_dim=8, channels=2, **settings):
    if name == "dit":
        return DiT(channels, 8, cond_dim, hidden=16, depth=2, heads=2, **settings)
    sizes = {"channels": (8, 16), "layers_per_block": 1, "attention_levels": (1,), "head_dim": 8, "norm_groups": 4}
    return UNet(channels, 8, cond_dim, **sizes, **settings)


def make_diffusion(
    denoiser="dit",
    prediction="v",
    seed=0,
    factor_dropout=0.2,
    weighting="uniform",
    maps=False,
    guide=False,
    masks="",
    **arguments,
):
    """With `maps` its label maps are fitted to the batches; `masks` are none, "condition" or "joint"."""
    autoencoder = make_autoencoder()
    autoencoder.measure_latents(make_batches())
    torch.manual_seed(seed)
    conditioning = LabelConditioning(NUM_LEVELS, 8, factor_dropout=factor_dropout)
    objective = Objective(Schedule(), prediction, weighting)
    settings = {"learning_rate": 1e-3, "num_steps": 4} | arguments
    channels, seen = 2, 0
    if masks:
        settings["masks"] = MaskMaps(MASK_LEVELS, 2) if masks == "condition" else MaskCode(MASK_LEVELS, 2, channels=3)
        channels, seen = (2, settings["masks"].channels) if masks == "condition" else (5, 0)
    if maps:
        settings["label_maps"], seen = LabelMaps(NUM_LEVELS, (channels, 8, 8), ridge=1.0), seen + channels
    network = make_denoiser(denoiser, channels=channels, **({"map_channels": seen} if seen else {}))
    if guide:
        settings["guide"] = LatentClassifier(channels, list(NUM_LEVELS.values()), channels=[8, 16])
    module = LatentDiffusion(autoencoder, network, conditioning, objective, **settings)
    batches = make_batches(masks=bool(masks))
    if masks == "joint":
        module.fit_mask_code(batch["mask"] for batch in batches.batches)
    if maps:
        module.fit_label_maps(batches)
    return module


def fit(module, batches=None, max_steps=6, ckpt_path=None, checkpoints=None, validate=False, **arguments):
    """Fit on the CPU; returns the trainer and what was logged. With `checkpoints`, one is written there each step."""
    recorder = Recorder()
    callbacks = [recorder]
    if checkpoints is not None:
        callbacks.append(ModelCheckpoint(checkpoints, "{step}", every_n_train_steps=1, save_top_k=-1))
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=max_steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=checkpoints is not None,
        callbacks=callbacks,
        **arguments,
    )
    trainer.fit(module, batches or make_batches(), make_batches(2) if validate else None, ckpt_path=ckpt_path)
    return trainer, recorder.steps


def mixture_denoiser(objective):
    """Network that knows: E[x_0 | x_t] of 0.5 N(m_0, STD^2) + 0.5 N(m_1, STD^2), in the objective's prediction."""

    def denoise(x_t, t, cond):
        x = x_t.double().flatten(1)
        a = objective.schedule.alpha_bar[t.long()].sqrt()[:, None]
        variance = a**2 * STD**2 + 1 - a**2
        gaps = x[:, None] - a[:, None] * MEANS.double()  # [B, 2, 2]
        share = torch.softmax(-gaps.square().sum(-1) / (2 * variance), dim=1)[..., None]
        x_0 = (share * (MEANS.double() + a[:, None] * STD**2 / variance[:, None] * gaps)).sum(1)
        return objective.from_x0(x_t.double(), t.long(), x_0.view_as(x_t)).float()

    return denoise


class Build:
    """The makers above, as one fixture."""

    num_levels = NUM_LEVELS
    batches = staticmethod(make_batches)
    masks, mask_levels = staticmethod(make_masks), MASK_LEVELS
    autoencoder = staticmethod(make_autoencoder)
    denoiser = staticmethod(make_denoiser)
    diffusion = staticmethod(make_diffusion)
    fit = staticmethod(fit)
    mixture_denoiser, means, std = staticmethod(mixture_denoiser), MEANS, STD


@pytest.fixture(scope="session")
def build():
    return Build
