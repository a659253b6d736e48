"""A region of an image is painted anew: what stays bit for bit, what changes, how regions are blended, refusals."""

import pytest
import torch
from refusals import refuses

from datamodules.errors import UserError
from lightning_modules.condition import Condition
from lightning_modules.latent_inpainting import Inpainting
from lightning_modules.masks import UNKNOWN
from lightning_modules.regions import dilated, feathered, pasted, touched_cells


@pytest.fixture(params=["condition", "joint"])
def generator(build, request):
    module = build.diffusion(masks=request.param, num_steps=4)
    build.fit(module, build.batches(masks=True), max_steps=3)
    return module


@pytest.fixture
def asked(build):
    """Images [3, 3, 16, 16], regions that touch all parts of cells, and what they are to show."""
    batch = build.batches(size=3, masks=True).batches[0]
    where = dilated(batch["mask"] > 0, 1)
    where[0] = False
    where[0, 3, 5] = True
    return batch["image"], where, Condition.of(batch)


@pytest.mark.parametrize("scheduler", ["ddim", "dpm_solver", "ddpm"])
@pytest.mark.parametrize("inpainting", [Inpainting(), Inpainting(1, 1, feather=2, style=0.5)])
def test_only_the_region_changes(generator, asked, scheduler, inpainting):
    images, where, condition = asked
    generator.sample_by(scheduler=scheduler)
    pairs = generator.inpaint(*asked, [1, 2, 3], inpainting)
    outside = ~where[:, None].expand_as(images)
    assert torch.equal(pairs.images[outside], images[outside])
    for before, after, inside in zip(images, pairs.images, where, strict=True):
        assert not torch.equal(before[:, inside], after[:, inside])
    assert pairs.images.dtype == torch.float32 and pairs.images.min() >= 0 and pairs.images.max() <= 1
    assert torch.equal(pairs.masks, condition.mask)


def test_one_seed_an_image(generator, asked):
    images, where, condition = asked
    pairs = generator.inpaint(*asked, [5, 6, 7])
    assert torch.equal(generator.inpaint(*asked, [5, 6, 7]).images, pairs.images)
    alone = generator.inpaint(images[1:2], where[1:2], condition[1:2], [6])
    assert torch.allclose(alone.images, pairs.images[1:2], atol=1e-5)
    other = generator.inpaint(*asked, [5, 8, 7]).images
    assert not torch.allclose(other[1], pairs.images[1]) and torch.allclose(other[0], pairs.images[0], atol=1e-5)


def test_what_is_asked_for_inside_is_seen(build, asked):
    module = build.diffusion(masks="condition", num_steps=2)
    build.fit(module, build.batches(masks=True))
    images, where, condition = asked
    flipped = Condition(condition.labels, condition.mask.flip(1))
    labelled = Condition((condition.labels + 1) % 2, condition.mask)
    first = module.inpaint(*asked, [1, 2, 3]).images
    for other in (flipped, labelled):
        assert not torch.equal(module.inpaint(images, where, other, [1, 2, 3]).images, first)


def test_masks_that_are_denoised_are_painted_where_they_are_unknown(build, asked):
    module = build.diffusion(masks="joint", num_steps=3)
    build.fit(module, build.batches(masks=True))
    images, where, condition = asked
    mask = condition.mask.masked_fill(where, UNKNOWN)
    masks = module.inpaint(images, where, Condition(condition.labels, mask), [1, 2, 3]).masks
    assert torch.equal(masks[~where], condition.mask[~where]) and masks.min() >= 0 and masks.max() <= 2
    known, unknown = module._known(images, where, mask)
    num = module.autoencoder.latent_channels
    assert torch.equal(known[:, :num], module.autoencoder.standardise(module.autoencoder.encode(images)[0]))
    assert torch.equal(unknown[:, :1], touched_cells(where, 2)) and torch.equal(
        unknown[:, -1:], touched_cells(where, 2)
    )
    free = module.inpaint(images, where, condition.labels, [1, 2, 3]).masks
    assert free.shape == mask.shape and module._known(images, where, None)[1][:, num:].all()


def test_a_generator_of_images_paints_by_labels(build, asked):
    images, where, condition = asked
    pairs = build.diffusion(num_steps=2).inpaint(images, where, condition.labels, [1, 2, 3])
    assert pairs.masks is None and not torch.equal(pairs.images, images)


def test_known_latents_are_those_of_the_image(build, asked):
    """What the network paints beside is the image's: a region of one pixel leaves all cells but one."""
    images, where, condition = asked
    module = build.diffusion(masks="condition", num_steps=2)
    _, unknown = module._known(images, where, condition.mask)
    assert unknown[0].nonzero().tolist() == [[channel, 1, 2] for channel in range(2)]


def test_a_dilated_region_has_all_pixels_that_are_near():
    where = torch.zeros(1, 21, 30, dtype=torch.bool)
    where[0, 4, 6] = where[0, 15, 20] = True
    rows, columns = torch.meshgrid(torch.arange(21), torch.arange(30), indexing="ij")
    for radius in (0, 1, 5):
        near = [(rows - y) ** 2 + (columns - x) ** 2 <= radius**2 for y, x in ((4, 6), (15, 20))]
        assert torch.equal(dilated(where, radius)[0], near[0] | near[1])


def test_a_feather_rises_evenly_and_lies_inside():
    where = torch.zeros(1, 12, 12, dtype=torch.bool)
    where[0, :, 3:] = True
    expected = torch.tensor([0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1]).expand(12, 12)  # the edge is no border
    assert torch.allclose(feathered(where, 3)[0], expected)
    assert torch.equal(feathered(where, 0), where.float())
    images, painted = torch.rand(1, 3, 12, 12), torch.rand(1, 3, 12, 12)
    assert torch.allclose(pasted(images, painted, where, 3)[0], images[0].lerp(painted[0], expected))
    assert torch.equal(pasted(images, painted, where, 3)[..., :3], images[..., :3])


def test_what_does_not_fit_is_refused(build, asked):
    images, where, condition = asked
    module = build.diffusion(masks="condition", num_steps=1)
    whole, empty = where.clone(), where.clone()
    whole[1], empty[2] = True, False
    with refuses(UserError, "image 1", "covers"):
        module.inpaint(images, whole, condition, [1, 2, 3])
    with refuses(UserError, "image 2", "empty"):
        module.inpaint(images, empty, condition, [1, 2, 3])
    with refuses(UserError, "[3, 8, 16]", "[3, 16, 16]"):
        module.inpaint(images, where[:, :8], condition, [1, 2, 3])
    with refuses(UserError, "[3, 3, 8, 16]"):
        module.inpaint(images[:, :, :8], where, condition, [1, 2, 3])
    with refuses(UserError, "2 seeds", "3"):
        module.inpaint(images, where, condition, [1, 2])
    for settings in ({"feather": -1}, {"style": 1.5}, {"num_resamples": 0}):
        with refuses(UserError, "={}".format(*settings.values()), *settings):
            Inpainting(**settings)
