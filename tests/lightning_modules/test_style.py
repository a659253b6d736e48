"""Style: strength 1 has the reference's statistics, strength 0 is the image itself; between them is a straight line."""

import pytest
import torch
from refusals import refuses

from datamodules.errors import UserError
from lightning_modules.style import STATISTICS, styled, with_style


@pytest.fixture
def values():
    """Latents [2, 4, 16, 16] whose channels go together, and such of references with other sides."""
    g = torch.Generator().manual_seed(0)
    mix = torch.randn(2, 4, 4, generator=g)
    plain, other = torch.randn(2, 4, 16, 16, generator=g), torch.randn(2, 4, 8, 20, generator=g)
    return plain + 0.5 * plain.roll(1, 1), torch.einsum("bij,bjhw->bihw", mix, other) + 3


def moments(x):
    places = x.flatten(2)
    return places.mean(2), torch.stack([torch.cov(one, correction=0) for one in places])


@pytest.mark.parametrize("num_scales", [1, 3])
def test_full_strength_has_mean_and_covariance_of_the_reference(values, num_scales):
    found = styled(*values, num_scales=num_scales)
    for one, wanted in zip(moments(found), moments(values[1]), strict=True):
        torch.testing.assert_close(one, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("num_scales", [1, 2])
def test_deviations_alone_leave_correlations_of_one_scale(values, num_scales):
    found = styled(*values, statistics="deviation", num_scales=num_scales)
    (mean, covariance), (wanted_mean, wanted) = moments(found), moments(values[1])
    torch.testing.assert_close(mean, wanted_mean, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(covariance.diagonal(dim1=1, dim2=2), wanted.diagonal(dim1=1, dim2=2), rtol=1e-3, atol=0)
    same = torch.stack([torch.corrcoef(one) for one in found.flatten(2)]).allclose(
        torch.stack([torch.corrcoef(one) for one in values[0].flatten(2)]), atol=1e-3
    )
    assert same == (num_scales == 1)


def test_of_commuting_covariances_the_map_is_the_ratio_of_deviations():
    """Then both kinds are the same, and the map is known in closed form."""
    g = torch.Generator().manual_seed(1)
    independent = torch.linalg.qr(torch.randn(64, 3, generator=g) - torch.randn(64, 3, generator=g).mean(0))[0]
    independent = (independent - independent.mean(0)).T
    independent = torch.linalg.inv(torch.linalg.cholesky(torch.cov(independent, correction=0))) @ independent
    values, spread = independent.view(1, 3, 8, 8), torch.tensor([2.0, 0.5, 1.0]).view(1, 3, 1, 1)
    for statistics in STATISTICS:
        torch.testing.assert_close(styled(values, spread * values + 1, 1.0, statistics), spread * values + 1)


def test_more_scales_take_the_reference_s_texture():
    """Fine structure that is strong in the reference becomes strong, where one scale only matches the sum of all."""
    g = torch.Generator().manual_seed(2)
    smooth = torch.nn.functional.interpolate(torch.randn(1, 2, 4, 4, generator=g), 32, mode="bilinear")
    values = smooth + 0.05 * torch.randn(1, 2, 32, 32, generator=g)
    rough = 0.1 * smooth.flip(2) + torch.randn(1, 2, 32, 32, generator=g)

    def share_of_fine(x):
        return float((x.diff(dim=3)).var() / x.var())

    one, several = (share_of_fine(styled(values, rough, num_scales=number)) for number in (1, 4))
    assert 3 * one < several < share_of_fine(rough)


def test_strength_is_a_straight_line_and_none_is_the_image_itself(build, values):
    full = styled(*values)
    torch.testing.assert_close(styled(*values, strength=0.25), values[0] + 0.25 * (full - values[0]))
    images, references = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    assert with_style(images, references, None, 0.0) is images
    autoencoder = build.autoencoder()
    near = with_style(images, references, autoencoder, 1e-4)
    assert torch.allclose(near, images, atol=1e-3), "it goes on from the image, not from its reconstruction"


def test_pixels_take_the_colours_of_the_reference():
    images, references = 0.4 + 0.1 * torch.rand(2, 3, 16, 16), 0.3 + 0.3 * torch.rand(2, 3, 24, 24)
    found = with_style(images, references, None)
    for one, wanted in zip(moments(found), moments(references), strict=True):
        torch.testing.assert_close(one, wanted, rtol=1e-3, atol=2e-3)


def test_an_image_in_its_own_style_is_itself(build):
    images, autoencoder = torch.rand(2, 3, 16, 16), build.autoencoder()
    torch.testing.assert_close(with_style(images, images, autoencoder, num_scales=2), images, atol=1e-4, rtol=0)
    constant = torch.full((1, 3, 16, 16), 0.5)
    assert with_style(constant, images[:1], None).isfinite().all()


def test_what_the_decoder_changes_is_added(build):
    images, references, autoencoder = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16), build.autoencoder()
    (z, _), (r, _) = autoencoder.encode(images), autoencoder.encode(references)
    change = autoencoder.decode(styled(z, r, 0.7)) - autoencoder.decode(z)
    torch.testing.assert_close(with_style(images, references, autoencoder, 0.7), (images + change).clamp(0, 1))


def test_what_does_not_fit_is_refused(values):
    with refuses(UserError, "style=1.1"):
        with_style(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8), None, 1.1)
    with refuses(UserError, "covariance", "deviation", "gram"):
        styled(*values, statistics="gram")
    with refuses(UserError, "[2, 3]", "[2, 4]"):
        styled(values[0][:, :3], values[1])
    with refuses(UserError, "num_scales=5", "4"):
        styled(*values, num_scales=5)
