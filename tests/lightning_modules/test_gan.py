"""The GAN of images and masks: its border, its two optimisers, resuming, learning, errors."""

import math

import pytest
import torch
from refusals import refuses
from torch import nn

from lightning_modules.condition import Condition
from lightning_modules.conditioning import LabelConditioning
from lightning_modules.differentiable_augmentation import DifferentiableAugmentation
from lightning_modules.gan import PairGAN
from lightning_modules.mask_channels import channels_of, num_channels, pairs_of
from lightning_modules.networks.gan import Discriminator, Generator

LEVELS = 3
NO_AUGMENTATION = {"colour": False, "translation": 0.0, "cutout": 0.0}


def make_gan(build, num_mask_levels=2, size=16, augmentation=None, seed=0, **arguments):
    torch.manual_seed(seed)
    sizes = (size, num_channels(num_mask_levels), 8)
    return PairGAN(
        Generator(*sizes, noise_dim=8, width=8, max_width=16),
        Discriminator(*sizes, width=8, max_width=16),
        LabelConditioning(build.num_levels, 8),
        DifferentiableAugmentation(**(augmentation or {})),
        [f"level {number}" for number in range(num_mask_levels)],
        **{"learning_rate": 2e-3, "betas": (0.5, 0.99)} | arguments,
    )


def make_batches(build, num=4, size=2, levels=2, seed=7):
    """Batches with masks, of which a quarter of the pixels is unknown."""
    batches = build.batches(num, size)
    generator = torch.Generator().manual_seed(seed)
    for batch in batches.batches:
        batch["mask"] = torch.randint(-1 if levels else 0, max(levels, 1), (size, 16, 16), generator=generator)
    return batches


def labels_of(build, num):
    return torch.tensor([[i % levels for levels in build.num_levels.values()] for i in range(num)])


def same(a, b):
    return all(torch.equal(x, b[name]) for name, x in a.items())


@pytest.mark.parametrize("levels", [0, 2, 4])
def test_pairs_are_images_and_masks_of_their_ranges(build, levels):
    module = make_gan(build, levels)
    labels, seeds = labels_of(build, 6), list(range(6))
    images, masks = module.sample_pairs(labels, seeds)
    assert images.dtype == torch.float32 and images.shape == (6, 3, 16, 16)
    assert images.min() >= 0 and images.max() <= 1
    assert torch.equal(images, module.sample(Condition(labels), torch.tensor(seeds), num_steps=3, guidance=2.0))
    if not levels:
        assert masks is None
        return
    assert masks.dtype == torch.int64 and masks.shape == (6, 16, 16)
    assert masks.min() >= 0 and masks.max() < levels


def test_image_i_follows_from_condition_i_and_seed_i(build):
    module = make_gan(build).train()
    labels, seeds = labels_of(build, 5), [3, 1, 4, 1, 5]
    images, masks = module.sample_pairs(labels, seeds)
    torch.manual_seed(99)
    for i in (4, 0):
        image, mask = module.sample_pairs(labels[i : i + 1], seeds[i : i + 1])
        torch.testing.assert_close(image[0], images[i], rtol=0, atol=1e-6)
        assert (mask[0] != masks[i]).float().mean() < 0.01  # rounding where two levels are even
    assert not torch.equal(*module.sample(labels[[0, 0]], [1, 2]))
    assert not torch.equal(*module.sample(labels[[0, 1]], [1, 1])), "labels change nothing"


def test_channels_are_undone_and_shares_decide_the_level():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 8, 8, generator=generator)
    masks = torch.randint(0, LEVELS, (2, 8, 8), generator=generator)
    x = channels_of(images, masks, LEVELS)
    assert x.shape == (2, 5, 8, 8) and x.min() >= -1 and x.max() <= 1
    again = pairs_of(x)
    torch.testing.assert_close(again.images, images)
    assert torch.equal(again.masks, masks)
    unknown = channels_of(images, torch.full_like(masks, -1), LEVELS)
    assert (unknown[:, 3:] == 0).all() and torch.equal(unknown[:, :3], x[:, :3])
    shares = torch.tensor([[0.49, 0.0], [0.51, 0.0], [0.3, 0.3], [0.34, 0.4], [0.1, 0.2]])  # levels 1 and 2
    x = torch.cat([torch.zeros(5, 3), 2 * shares - 1], dim=1)[:, :, None, None]
    assert pairs_of(x).masks.flatten().tolist() == [0, 1, 0, 2, 0]
    assert pairs_of(x[:2, :4]).masks.flatten().tolist() == [0, 1]


def test_an_augmentation_without_parts_changes_nothing_and_colour_spares_masks():
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.rand(3, 5, 16, 16, generator=generator) - 1
    draws = DifferentiableAugmentation.draw(3, generator)
    assert torch.equal(DifferentiableAugmentation(**NO_AUGMENTATION)(x, draws), x)
    coloured = DifferentiableAugmentation(translation=0.0, cutout=0.0)(x, draws)
    assert torch.equal(coloured[:, 3:], x[:, 3:]) and not torch.equal(coloured[:, :3], x[:, :3])
    middle = torch.full((3, 7), 0.5)  # no shift of brightness, saturation and contrast as they are
    torch.testing.assert_close(DifferentiableAugmentation(translation=0.0, cutout=0.0)(x, middle), x)


def test_image_and_mask_are_moved_and_cut_alike_by_what_is_drawn():
    image = 2 * torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(1)) - 1
    x = image.expand(4, 5, 16, 16)
    places = [[0.0, 0.99, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5], [0.99, 0.0, 0.99, 0.0], [0.2, 0.8, 0.3, 0.7]]
    draws = torch.cat([torch.zeros(4, 3), torch.tensor(places)], dim=1)
    moved = DifferentiableAugmentation(colour=False, translation=0.25, cutout=0.0)(x, draws)
    assert all(torch.equal(moved[:, 0], moved[:, channel]) for channel in range(1, 5))
    assert torch.equal(moved[0, 0, :-4, 4:], image[0, 0, 4:, :-4]), "four up, four right"
    assert (moved[0, 0, -4:] == -1).all() and (moved[0, 0, :, :4] == -1).all()
    assert torch.equal(moved[1], x[1])
    cut = DifferentiableAugmentation(colour=False, translation=0.0, cutout=0.5)(x, draws)
    assert all(torch.equal(cut[:, 0], cut[:, channel]) for channel in range(1, 5))
    assert (cut[1, 0, 4:12, 4:12] == -1).all() and int((cut[1, 0] == -1).sum()) == 64
    assert int((cut[0, 0] == -1).sum()) == 16, "of a square in the corner a quarter is inside"


def test_gradients_go_through_the_augmentation_to_all_of_the_generator(build):
    module = make_gan(build)
    noise, labels = torch.randn(4, 8), labels_of(build, 4)
    draws = module.augmentation.draw(4, torch.Generator().manual_seed(0))
    logits, _ = module.discriminator(module.augmentation(module.network(noise, labels), draws), labels)
    (-logits.mean()).backward()
    silent = [name for name, p in module.network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not silent
    module.zero_grad()
    real = torch.rand(4, 4, 16, 16) * 2 - 1
    logits, features = module.discriminator(real, labels)
    (logits.mean() + module.discriminator.reconstruction_error(features, real)).backward()
    silent = [name for name, p in module.discriminator.named_parameters() if not p.grad.abs().sum() > 0]
    assert not silent


def test_a_logit_depends_on_its_own_image_and_on_its_label(build):
    module = make_gan(build).eval()
    x, labels = torch.rand(3, 4, 16, 16) * 2 - 1, labels_of(build, 3)
    logits, features = module.discriminator(x, labels)
    alone, _ = module.discriminator(x[1:2], labels[1:2])
    torch.testing.assert_close(alone, logits[1:2], rtol=1e-5, atol=1e-6)
    other, _ = module.discriminator(x[1:2], labels[2:3])
    assert not torch.allclose(alone, other, atol=1e-6)
    shrunk = x.unflatten(-1, (16, 1)).mean(-1)  # 16 pixels are reconstructed as they are
    torch.testing.assert_close(
        module.discriminator.reconstruction_error(features, x),
        (module.discriminator.network.decoder(features) - shrunk).abs().mean(),
    )


def test_one_step_of_two_is_counted_and_averaged(build):
    module = make_gan(build, 0)
    trainer, steps = build.fit(module, make_batches(build), max_steps=3, validate=True, val_check_interval=3)
    assert trainer.global_step == 3 and int(module.ema.num_updates) == 3 and len(steps) == 3
    assert set(steps[0]) == {f"train/{name}" for name in ("loss", "discriminator", "reconstruction", "logits_real",
                                                          "logits_fake", "skipped_steps")}  # fmt: skip
    assert math.isfinite(trainer.callback_metrics["val/discriminator"])
    assert all(p.requires_grad for p in module.discriminator.parameters())


@pytest.mark.parametrize("still", ["generator", "discriminator"])
def test_each_optimiser_moves_its_own_network_alone(build, still):
    rates = {
        "generator": {"learning_rate": 0.0, "disc_learning_rate": 1e-3},
        "discriminator": {"disc_learning_rate": 0.0},
    }
    module = make_gan(build, **rates[still])
    parts = {"generator": module.network, "discriminator": module.discriminator}
    before = {name: [p.clone() for p in part.parameters()] for name, part in parts.items()}
    build.fit(module, make_batches(build), max_steps=2)
    moved = {name: any(not torch.equal(a, b) for a, b in zip(before[name], part.parameters(), strict=True))
             for name, part in parts.items()}  # fmt: skip
    assert moved == {name: name != still for name in parts}


def test_resuming_equals_not_stopping(build, tmp_path):
    whole = make_gan(build)
    build.fit(whole, make_batches(build), max_steps=6, checkpoints=tmp_path)
    resumed = make_gan(build, seed=1)
    build.fit(resumed, make_batches(build), max_steps=6, ckpt_path=tmp_path / "step=3.ckpt")
    assert same(whole.state_dict(), resumed.state_dict())
    other = make_gan(build, seed=1)
    other.seed = 5
    build.fit(other, make_batches(build), max_steps=6, ckpt_path=tmp_path / "step=3.ckpt")
    assert not same(whole.state_dict(), other.state_dict()), "what is drawn changes nothing"


def test_what_is_unknown_of_a_mask_teaches_nothing(build):
    """Where no mask is known the mask's channel gets no gradient, and its values there do not matter."""
    module = make_gan(build, augmentation=NO_AUGMENTATION)
    batch = make_batches(build).batches[0]
    batch["mask"] = torch.full_like(batch["mask"], -1)
    real, unknown = module._channels(batch)
    assert unknown[:, 3].all() and not unknown[:, :3].any() and (real[:, 3] == 0).all()
    build.fit(module, type(make_batches(build))([batch]), max_steps=1)
    of_mask = module.network.generator.last.weight.grad[3]
    assert (of_mask == 0).all() and (module.network.generator.last.weight.grad[:3] != 0).any()


class Poison(nn.Module):
    """An augmentation that makes no number of dark images."""

    draw = staticmethod(DifferentiableAugmentation.draw)

    def forward(self, x, draws):
        return torch.where(x[:, :3].mean((1, 2, 3), keepdim=True) < -0.999, torch.nan, 1.0) * x


def test_steps_that_are_not_finite_are_left_out_and_counted(build):
    module = make_gan(build)
    module.augmentation = Poison()
    batches = make_batches(build, num=3)
    batches.batches[1]["image"] = torch.zeros(2, 3, 16, 16)
    trainer, _ = build.fit(module, batches, max_steps=3)
    assert int(module.skipped_steps) == 1 and all(p.isfinite().all() for p in module.parameters())


def test_it_learns_what_its_labels_and_masks_say(build):
    """By label all is dark, or the left half is bright, and marked in the mask. Who ignores labels is wrong in 1/4."""

    def pairs(sides):
        masks = ((torch.arange(16) < 8) & (sides.view(-1, 1, 1) > 0)).long().expand(-1, 16, -1)
        return (0.2 + 0.6 * masks[:, None].float()).expand(-1, 3, -1, -1), masks

    batches = build.batches(8, 16)
    for batch in batches.batches:
        batch["image"], batch["mask"] = pairs(batch["labels"][:, 2])
    module = make_gan(build, learning_rate=2e-3, ema_decay=0.9, augmentation=NO_AUGMENTATION)
    labels = torch.tensor([[-1, -1, 0]] * 16 + [[-1, -1, 1]] * 16)
    wanted = pairs(labels[:, 2])

    def errors():
        images, masks = module.sample_pairs(labels, range(32))
        return float((images - wanted[0]).abs().mean()), float((masks != wanted[1]).float().mean())

    before = errors()
    build.fit(module, batches, max_steps=150)
    after = errors()
    assert after[0] < 0.6 * before[0] and after[1] < 0.2 < before[1], (before, after)


def test_bad_input_is_refused(build):
    module, labels = make_gan(build), labels_of(build, 2)
    batch = make_batches(build).batches[0]
    with refuses(ValueError, "model.mask_levels", "names 1"):
        num_channels(1)
    with refuses(ValueError, "generator", "num_channels=4", "3 mask_levels", 5):
        make = make_gan(build)
        PairGAN(make.network.generator, make.discriminator.network, make.network.conditioning, make.augmentation, "abc")
    with refuses(ValueError, "3 seeds", "2 rows"):
        module.sample(labels, [1, 2, 3])
    with refuses(ValueError, "seeds[1]=-1"):
        module.sample(labels, [1, -1])
    with refuses(ValueError, "labels[0, 0]=9"):
        module.sample(labels + torch.tensor([9, 0, 0]), [1, 2])
    with refuses(ValueError, "guidance=2.0"):
        module.sample_by(guidance=2.0)
    with refuses(ValueError, "2 mask_levels", "model.mask_levels=[]"):
        module._channels({key: value for key, value in batch.items() if key != "mask"})
    with refuses(ValueError, "level 2", "0 to 1"):
        module._channels({**batch, "mask": batch["mask"] + 1})
    with refuses(ValueError, "32 x 32", "data.image_size=16"):
        module._channels({**batch, "image": torch.rand(2, 3, 32, 32)})
    for size, near in ((48, "data.image_size=32 or 64"), (8, "data.image_size=16 or 32")):
        with refuses(ValueError, f"image_size={size}", near):
            Generator(size, 4, 8)
        with refuses(ValueError, f"image_size={size}", near):
            Discriminator(size, 4, 8)
    for name in ("translation", "cutout"):
        with refuses(ValueError, f"{name}=1.5"):
            DifferentiableAugmentation(**{name: 1.5})


def test_strategies_that_share_out_weights_are_refused(build, monkeypatch):
    monkeypatch.setattr("lightning.pytorch.strategies.SingleDeviceStrategy.shard", None, raising=False)
    with refuses(ValueError, "SingleDeviceStrategy", "strategy=single or ddp"):
        build.fit(make_gan(build), make_batches(build), max_steps=1)
