"""The autoencoder: borders, latent statistics, both ways of optimising, resume, errors."""

import math
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy
from refusals import refuses
from torch import nn

from lightning_modules.autoencoder import Autoencoder
from lightning_modules.losses.perceptual import PerceptualLoss


def same_state(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_measured_latents_have_unit_variance_when_sampled(build):
    module = build.autoencoder()
    assert not module.measured
    batches = build.batches(num=8, size=8)
    assert module.measure_latents(batches) == 64
    g = torch.Generator().manual_seed(0)
    drawn = []
    for batch in batches:
        mean, std = module.encode(batch["image"])
        drawn.append(module.standardise(mean + std * torch.randn(mean.shape, generator=g)))
    z = torch.cat(drawn)
    assert z.mean((0, 2, 3)).abs().max() < 0.05 and (z.std((0, 2, 3)) - 1).abs().max() < 0.05
    torch.testing.assert_close(module.standardise(module.unstandardise(z)), z, rtol=1e-4, atol=1e-5)


def test_measuring_knows_no_batches_and_takes_uint8(build):
    one, other = build.autoencoder(), build.autoencoder()
    images = torch.randint(0, 256, (12, 3, 16, 16), dtype=torch.uint8)
    one.measure_latents(images[:7].split(5))
    other.measure_latents((images[:7] / 255).split(2))
    torch.testing.assert_close(one.latent_scale, other.latent_scale, rtol=1e-6, atol=0)
    assert one.num_measured == other.num_measured == 7
    with refuses(ValueError, "latents", "empty"):
        one.measure_latents([])


def test_borders(build):
    module = build.autoencoder()
    images = torch.rand(2, 3, 16, 24)
    mean, std = module.encode(images)
    assert mean.shape == std.shape == (2, 2, 8, 12) and (std > 0).all() and module.downsampling == 2
    decoded = module.decode(10 * mean)
    assert decoded.min() >= 0 and decoded.max() <= 1 and decoded.dtype == torch.float32
    assert module.reconstruct(images).shape == images.shape
    with refuses(ValueError, "15 x 16", "by 2", "14 or 16", "data.image_size"):
        module.encode(torch.rand(1, 3, 15, 16))


def test_losses_add_up_to_the_papers_elbo(build):
    module = build.autoencoder(kl_weight=1e-3)
    x = 2 * torch.rand(2, 3, 16, 16) - 1
    losses, _, y = module.losses(x, None)
    posterior = module.network.encode(x).latent_dist
    kl = posterior.kl().mean()
    torch.testing.assert_close(losses["kl"], kl)
    summed = (y - x).abs().sum((1, 2, 3)).mean() + 1e-3 * kl  # sums over the image, as in the paper
    torch.testing.assert_close(losses["loss"] * x[0].numel(), summed)


def test_latent_noise_is_of_training_alone_and_up_to_its_share_of_the_deviation(build):
    module = build.autoencoder(latent_noise=0.5)
    x = 2 * torch.rand(4, 3, 16, 16) - 1
    quiet, *_ = module.losses(x, None)
    again, *_ = module.losses(x, None)
    torch.testing.assert_close(quiet["loss"], again["loss"])
    z = torch.randn(400, 2, 16, 16) * torch.tensor([3.0, 0.1])[:, None, None] + 5
    added = module._noisy(z, torch.Generator().manual_seed(0)) - z
    share = added.std((2, 3)) / z.std((0, 2, 3))  # of each image and channel
    assert share.max() < 0.6 and share.min() < 0.02
    torch.testing.assert_close(share.mean(0), torch.full((2,), 0.25), rtol=0.1, atol=0)
    torch.testing.assert_close(share[:, 0], share[:, 1], rtol=0.4, atol=0.01)
    assert torch.equal(build.autoencoder()._noisy(z, torch.Generator()), z)


def test_automatic_training_overfits_one_batch(build):
    module = build.autoencoder(learning_rate=3e-3)
    batches = build.batches(num=1)
    batches.batches[0]["image"] = torch.nn.functional.interpolate(torch.rand(2, 3, 4, 4), size=16, mode="bilinear")
    _, steps = build.fit(module, batches, max_steps=60)
    assert set(steps[0]) == {"train/loss", "train/reconstruction", "train/kl"}
    assert steps[-1]["train/loss"] < 0.5 * steps[0]["train/loss"]


def test_perceptual_term_and_small_checkpoints(build):
    module = build.autoencoder()
    module.perceptual = PerceptualLoss((0, 1))
    trainer, steps = build.fit(module, max_steps=1, validate=True, limit_val_batches=1, val_check_interval=1)
    assert {"val/loss", "val/reconstruction", "val/perceptual", "val/kl"} <= set(trainer.callback_metrics)
    logged = steps[0]
    total = logged["train/reconstruction"] + logged["train/perceptual"] + 1e-6 * logged["train/kl"] / (3 * 16 * 16)
    assert math.isclose(logged["train/loss"], total, rel_tol=1e-5)
    assert not [name for name in module.state_dict() if "perceptual" in name]


def test_two_optimisers_count_one_step_and_the_discriminator_joins_late(build):
    module = build.autoencoder(discriminator=True, disc_start=2, gradient_clip=1.0, warmup_steps=10)
    before = [p.clone() for p in module.discriminator.parameters()]
    with refuses(ValueError, "disc_start=2", "2 steps", "autoencoder.module.disc_start"):
        build.fit(module, max_steps=2)
    trainer, steps = build.fit(module, max_steps=5)
    assert trainer.global_step == 5 and len(steps) == 5
    assert "train/discriminator" not in steps[1] and "train/discriminator" in steps[2]
    assert not all(torch.equal(a, b) for a, b in zip(before, module.discriminator.parameters(), strict=True))
    assert math.isclose(trainer.optimizers[0].param_groups[0]["lr"], 1e-4 * 6 / 11)


def test_the_autoencoders_step_does_not_train_the_discriminator(build):
    """The adversarial gradient goes through the discriminator; its own loss alone moves it."""
    module = build.autoencoder(discriminator=True, disc_learning_rate=0.0)
    before = [p.clone() for p in module.discriminator.parameters()]
    build.fit(module, max_steps=2)
    assert all(torch.equal(a, b) for a, b in zip(before, module.discriminator.parameters(), strict=True))
    assert all(p.requires_grad for p in module.discriminator.parameters())


class Poison(nn.Module):
    """Discriminator whose logits are not a number for dark images."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images):
        dark = images.mean((1, 2, 3)) < -0.999
        return torch.where(dark, torch.nan, 1.0) * self.scale * images.mean((1, 2, 3))


def test_steps_that_are_not_finite_are_skipped_and_counted(build):
    module = build.autoencoder()
    module = Autoencoder(module.network, discriminator=Poison(), disc_weight=0.0)
    batches = build.batches(num=3)
    batches.batches[1]["image"] = torch.full((2, 3, 16, 16), torch.nan)
    trainer, steps = build.fit(module, batches, max_epochs=1, max_steps=-1)
    assert [step["train/skipped_steps"] for step in steps] == [0, 2, 2]
    assert trainer.global_step == 2
    assert all(p.isfinite().all() for p in module.parameters())


def test_the_ranks_of_a_step_draw_together_what_one_draws_alone(build, monkeypatch):
    module = build.autoencoder()
    images = build.batches(size=4).batches[0]["image"]
    monkeypatch.setattr(module, "log_dict", lambda *args, **kwargs: None)

    def loss(rank, num_ranks, batch_idx=0):
        trainer = SimpleNamespace(global_rank=rank, world_size=num_ranks, current_epoch=0)
        monkeypatch.setattr(module, "_trainer", trainer)
        num = 4 // num_ranks
        return float(module.training_step({"image": images[rank * num : (rank + 1) * num]}, batch_idx))

    assert loss(0, 1) == loss(0, 1) != loss(0, 1, batch_idx=1)
    assert loss(0, 1) == pytest.approx((loss(0, 2) + loss(1, 2)) / 2, rel=1e-6) and loss(0, 2) != loss(1, 2)


@pytest.mark.parametrize("discriminator", [False, True])
def test_dropout_is_a_function_of_seed_rank_epoch_and_batch(build, tmp_path, monkeypatch, discriminator):
    def with_dropout():
        module = build.autoencoder(discriminator=discriminator)
        part = module.discriminator if discriminator else module.network
        layer = next(layer for layer in part.modules() if isinstance(layer, nn.Conv2d) and layer.in_channels == 8)
        layer.register_forward_hook(lambda layer, inputs, output: nn.functional.dropout(output, 0.5))
        return module

    whole, resumed = with_dropout(), with_dropout()
    _, steps = build.fit(whole, checkpoints=tmp_path)
    torch.manual_seed(99)
    assert build.fit(resumed, ckpt_path=tmp_path / "step=3.ckpt")[1] == steps[3:]
    assert same_state(whole, resumed)
    other = with_dropout()
    monkeypatch.setattr(Autoencoder, "global_rank", 1)
    assert build.fit(other, max_steps=1)[1] != steps[:1]


@pytest.mark.parametrize("discriminator", [False, True])
def test_a_killed_run_resumes_bit_for_bit(build, tmp_path, discriminator):
    settings = {"discriminator": discriminator, "warmup_steps": 4, "gradient_clip": 1.0}
    whole = build.autoencoder(**settings)
    whole_trainer, whole_steps = build.fit(whole, checkpoints=tmp_path)
    resumed = build.autoencoder(**settings)
    resumed_trainer, resumed_steps = build.fit(resumed, ckpt_path=tmp_path / "step=3.ckpt")
    assert len(whole_steps) == 6 and whole_steps[3:] == resumed_steps
    assert same_state(whole, resumed)
    assert resumed_trainer.global_step == whole_trainer.global_step == 6


def test_deepspeed_and_float16_are_refused_early(build):
    module = build.autoencoder(discriminator=True)
    strategy = DeepSpeedStrategy.__new__(DeepSpeedStrategy)
    module.trainer = type("Trainer", (), {"strategy": strategy, "precision": "32-true"})()
    with refuses(ValueError, "DeepSpeedStrategy", "'32-true'"):
        module.configure_optimizers()


def test_bad_arguments(build):
    with refuses(ValueError, "reconstruction='l3'", "l1, l2"):
        build.autoencoder(reconstruction="l3")
    with refuses(ValueError, "lr_schedule='cosin'", "'cosine'"):
        build.fit(build.autoencoder(lr_schedule="cosin"), max_steps=1)
