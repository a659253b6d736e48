"""Masks as a condition and as a part of what is denoised: codes, training, sampling, refusals."""

import numpy as np
import pytest
import torch
from refusals import refuses
from torch.nn.functional import pixel_shuffle

from datamodules.errors import UserError
from lightning_modules.condition import Condition
from lightning_modules.masks import UNKNOWN, MaskCode, MaskMaps

LEVELS = ("background", "disc", "cup")


@pytest.fixture
def masks(build):
    return build.masks(40, 16, torch.Generator().manual_seed(3))


def test_maps_hold_every_pixel(masks):
    maps = MaskMaps(LEVELS, 4)(masks)
    assert maps.shape == (40, MaskMaps(LEVELS, 4).channels, 4, 4)
    planes = pixel_shuffle(maps[:, :-1], 4)
    expected = torch.stack([torch.where(masks == level, 1.0, -1.0) for level in (1, 2)], dim=1)
    assert torch.equal(planes, expected) and torch.equal(maps[:, -1], torch.ones(40, 4, 4))


def test_unknown_pixels_say_nothing_and_are_counted(masks):
    masks[:, :8, :2] = UNKNOWN
    maps = MaskMaps(LEVELS, 4)(masks)
    assert not pixel_shuffle(maps[:, :-1], 4)[:, :, :8, :2].any()
    assert torch.equal(maps[:, -1, :2, 0], torch.full((40, 2), 0.5)) and (maps[:, -1, 2:] == 1).all()


@pytest.mark.parametrize("levels", [LEVELS[:2], LEVELS])
def test_a_code_of_all_channels_loses_nothing(masks, levels):
    masks = masks.clamp(max=len(levels) - 1)
    code = MaskCode(levels, 2, channels=4 * (len(levels) - 1))
    code.fit([masks])
    assert torch.equal(code.harden(code.decode(code.encode(masks))), masks)


def test_a_code_is_the_principal_components_of_cells(masks):
    code = MaskCode(LEVELS, 4, channels=5)
    code.fit(masks.split(7))
    cells = code.cells(masks).permute(0, 2, 3, 1).flatten(0, 2).double().numpy()
    values = np.linalg.svd(cells - cells.mean(0), compute_uv=False) ** 2
    found = code.encode(masks)
    back = torch.einsum("md,bmhw->bdhw", code.basis, found * code.deviation.view(1, -1, 1, 1))
    lost = (back + code.mean.view(1, -1, 1, 1) - code.cells(masks)).square().sum()
    assert float(lost) == pytest.approx(values[5:].sum(), rel=1e-4)
    assert torch.allclose(found.var(dim=(0, 2, 3), correction=0), torch.ones(5), atol=1e-4)


def test_levels_are_told_by_the_threshold_or_by_the_greatest():
    assert MaskCode(LEVELS[:2], 1, 1, threshold=0.3).harden(torch.tensor([[[[0.29, 0.31]]]])).tolist() == [[[0, 1]]]
    soft = torch.tensor([[0.4, 0.3], [0.2, 0.4], [0.6, 0.7], [0.0, 0.0]]).T.reshape(1, 2, 1, 4)
    assert MaskCode(LEVELS, 1, 2).harden(soft).tolist() == [[[1, 2, 2, 0]]]


@pytest.mark.parametrize("kind", ["condition", "joint"])
@pytest.mark.parametrize("denoiser", ["dit", "unet"])
def test_training_resumes_bit_by_bit(build, tmp_path, kind, denoiser):
    def make():
        return build.diffusion(denoiser, masks=kind, maps=True, guide=True)

    straight = make()
    _, steps = build.fit(straight, build.batches(masks=True), checkpoints=tmp_path)
    resumed = make()
    build.fit(resumed, build.batches(masks=True), ckpt_path=tmp_path / "step=3.ckpt")
    assert len(steps) == 6
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_the_mask_reaches_the_denoiser_and_hiding_it_takes_it_away(build):
    module = build.diffusion(masks="condition", num_steps=2)
    build.fit(module, build.batches(masks=True))
    labels, mask = torch.zeros(2, 3, dtype=torch.int64), build.masks(2, 16, torch.Generator().manual_seed(1))
    seeds = [3, 4]
    asked = module.sample(Condition(labels, mask), seeds)
    assert not torch.equal(asked, module.sample(Condition(labels, mask.flip(1)), seeds))
    nothing = module.sample(Condition(labels, torch.full_like(mask, UNKNOWN)), seeds)
    assert torch.equal(nothing, module.sample(labels, seeds)) and not torch.equal(nothing, asked)
    pairs = module.sample_pairs(Condition(labels, mask), seeds)
    assert torch.equal(pairs.images, asked) and torch.equal(pairs.masks, mask)


def test_pairs_are_sampled_each_from_its_seed(build):
    module = build.diffusion(masks="joint", num_steps=3)
    build.fit(module, build.batches(masks=True))
    labels = torch.zeros(3, 3, dtype=torch.int64)
    pairs = module.sample_pairs(labels, [5, 6, 7])
    assert pairs.images.shape == (3, 3, 16, 16) and pairs.masks.shape == (3, 16, 16)
    assert pairs.masks.dtype == torch.int64 and set(pairs.masks.unique().tolist()) <= {0, 1, 2}
    alone = module.sample_pairs(labels[1:2], [6])
    assert torch.allclose(alone.images, pairs.images[1:2], atol=1e-5)
    assert (alone.masks == pairs.masks[1:2]).float().mean() > 0.99


def test_masks_beside_cached_latents(build):
    module = build.diffusion(masks="joint")
    batch = build.batches(masks=True).batches[0]
    mean, std = module.autoencoder.encode(batch["image"])
    latents = {"latent_mean": mean, "latent_std": std, "labels": batch["labels"], "mask": batch["mask"]}
    for whole, cached in zip(module._posterior(batch), module._posterior(latents), strict=True):
        assert torch.equal(whole, cached)
    assert torch.equal(module._posterior(batch)[0][:, 2:], module.mask_code.encode(batch["mask"]))
    assert not module._posterior(batch)[1][:, 2:].any()


def test_a_generator_of_images_has_no_masks(build):
    pairs = build.diffusion(num_steps=1).sample_pairs(torch.zeros(1, 3, dtype=torch.int64), [0])
    assert pairs.masks is None


def test_hidden_masks_are_those_of_hidden_labels_and_a_share_of_others(build):
    maps = MaskMaps(LEVELS, 2, dropout=0.25)
    off = maps.draw_hidden(4000, torch.Generator().manual_seed(0))
    assert off.float().mean().item() == pytest.approx(0.25, abs=0.03)


def test_what_does_not_fit_is_refused(build, masks):
    with refuses(UserError, "levels", "background"):
        MaskMaps(["background"], 2)
    with refuses(UserError, "dropout=1.5"):
        MaskMaps(LEVELS, 2, dropout=1.5)
    with refuses(UserError, "channels=9", "1..8"):
        MaskCode(LEVELS, 2, channels=9)
    with refuses(UserError, "threshold=1"):
        MaskCode(LEVELS, 2, threshold=1)
    with refuses(UserError, *LEVELS):
        MaskCode(LEVELS, 2).fit([torch.zeros_like(masks)])
    module = build.diffusion(masks="condition", num_steps=1)
    labels = torch.zeros(2, 3, dtype=torch.int64)
    with refuses(UserError, "[2, 8, 8]", "16"):
        module.sample(Condition(labels, masks[:2, :8, :8]), [0, 1])
    with refuses(UserError, "7", "cup"):
        module.sample(Condition(labels, masks[:2].masked_fill(masks[:2] > 0, 7)), [0, 1])
    with refuses(UserError, "model/masks=none"):
        build.fit(module, build.batches())
    joint = build.diffusion(masks="joint")
    joint.mask_code.num_fitted.zero_()
    with refuses(UserError, "fit_mask_code"):
        build.fit(joint, build.batches(masks=True))
