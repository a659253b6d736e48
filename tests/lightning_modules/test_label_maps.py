"""The labels' maps against a ridge regression done the slow way, and as channels of the denoisers."""

import torch
from refusals import refuses

from lightning_modules.label_maps import LabelMaps, LabelSums

LEVELS = {"side": 2, "grade": 3, "disc": 2}
SHAPE = (2, 3, 3)


def drawn(num=200, unknown=0.3, seed=0):
    """Labels, and latents that depend on them."""
    stream = torch.Generator().manual_seed(seed)
    labels = torch.stack([torch.randint(n, (num,), generator=stream) for n in LEVELS.values()], dim=1)
    labels[torch.rand(labels.shape, generator=stream) < unknown] = -1
    latents = torch.randn(num, *SHAPE, generator=stream)
    latents[labels[:, 0] == 0, 0, :, 0] += 3
    latents[labels[:, 0] == 1, 0, :, 2] += 3
    latents += labels[:, 1].clamp(min=0).view(-1, 1, 1, 1) * 0.5
    return labels, latents


def fitted(labels, latents, ridge=10.0, batch=64):
    maps = LabelMaps(LEVELS, SHAPE, ridge)
    sums = LabelSums(maps)
    for start in range(0, len(labels), batch):
        sums.add(labels[start : start + batch], latents[start : start + batch])
    maps.fit(sums)
    return maps


def test_it_is_the_ridge_regression():
    """By iterating over images and levels, and solving by least squares with the ridge as further rows."""
    labels, latents = drawn()
    columns = []
    for finding, num_levels in enumerate(LEVELS.values()):
        known = labels[:, finding] >= 0
        for level in range(num_levels):
            column = (labels[:, finding] == level).double()
            columns.append(torch.where(known, column - column[known].mean(), 0.0))
    z, x = torch.stack(columns, dim=1), latents.flatten(1).double()
    mean = x.mean(0)
    rows = torch.cat([z, 10**0.5 * torch.eye(z.shape[1]).double()])
    weights = torch.linalg.lstsq(rows, torch.cat([x - mean, torch.zeros(z.shape[1], x.shape[1]).double()])).solution
    maps = fitted(labels, latents)
    torch.testing.assert_close(maps(labels).flatten(1).double(), z @ weights + mean, atol=1e-5, rtol=1e-5)
    assert maps.fitted and maps.num_fitted == 200 and not LabelMaps(LEVELS, SHAPE).fitted


def test_nothing_known_is_the_mean_image():
    labels, latents = drawn()
    unknown = torch.full((1, len(LEVELS)), -1)
    torch.testing.assert_close(fitted(labels, latents)(unknown)[0], latents.mean(0), atol=1e-5, rtol=1e-5)


def test_it_tells_places():
    labels, latents = drawn(2000, unknown=0)
    left, right = fitted(labels, latents)(torch.tensor([[0, -1, -1], [1, -1, -1]]))
    difference = (left - right)[0].mean(0)  # by column
    torch.testing.assert_close(difference, torch.tensor([3.0, 0.0, -3.0]), atol=0.2, rtol=0)


def test_a_level_that_no_image_shows_changes_nothing():
    labels, latents = drawn(unknown=0)
    labels[:, 1] = labels[:, 1].clamp(max=1)
    maps = fitted(labels, latents)
    assert torch.isfinite(maps.table).all() and maps.table[6].abs().max() < maps.table[[4, 5]].abs().max()


def test_errors():
    with refuses(ValueError, "model.label_maps.ridge=0"):
        LabelMaps(LEVELS, SHAPE, 0)
    maps = LabelMaps(LEVELS, SHAPE)
    with refuses(ValueError, "label maps", "no image"):
        maps.fit(LabelSums(maps))
