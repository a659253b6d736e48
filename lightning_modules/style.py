"""Style: colour and texture of one image put on another, by the statistics of their latents or of their pixels.

Legend:
    B batch    C channels    values [B, C, h, w] of images, reference [B, C, h', w'] of those whose style is taken
Sources: Huang and Belongie 2017 (arXiv 1703.06868), eq. 8, mean and deviation of each channel; Pitié and Kokaram 2007
("The linear Monge-Kantorovitch linear colour mapping for example-based colour transfer"), mean and covariance. Differs
from both: at several scales the bands of a Laplacian pyramid (Burt and Adelson 1983) are matched first, each by itself.
"""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from datamodules.errors import UserError
from lightning_modules.autoencoder import Autoencoder
from lightning_modules.names import check_name

STATISTICS = ("covariance", "deviation")
LEAST_VARIANCE = 1e-10  # of a direction, so that one that never varies can be divided by its deviation


def check_strength(strength: float) -> None:
    """Raise UserError for what is no share."""
    if not 0 <= strength <= 1:
        raise UserError(f"style={strength} must be a share from 0 (the image itself) to 1 (the reference's style).")


@torch.no_grad()
def with_style(
    images: Tensor,
    references: Tensor,
    autoencoder: Autoencoder | None,
    strength: float = 1.0,
    statistics: str = "covariance",
    num_scales: int = 1,
) -> Tensor:
    """Images float32 [B, 3, H, W] in [0, 1] with the style of references [B, 3, H', W'], one an image.

    Args:
        autoencoder: in whose latents statistics are matched; what that changes in the decoded image is added to the
            image, which so keeps what the autoencoder would lose. None matches the colours of pixels.
        strength: 0 is the image itself, which then goes through no autoencoder; 1 has all of the reference's style.
        statistics, num_scales: as of `styled`.

    Raises:
        UserError: a strength that is no share; what `styled` refuses.
    """
    check_strength(strength)
    if strength == 0:
        return images
    if autoencoder is None:
        return styled(images, references, strength, statistics, num_scales).clamp(0, 1)
    (latents, _), (reference, _) = autoencoder.encode(images), autoencoder.encode(references)
    changed = styled(latents, reference, strength, statistics, num_scales)
    return (images + autoencoder.decode(changed) - autoencoder.decode(latents)).clamp(0, 1)


def styled(
    values: Tensor, reference: Tensor, strength: float = 1.0, statistics: str = "covariance", num_scales: int = 1
) -> Tensor:
    """Values moved towards those that have the reference's statistics over all places, which strength 1 reaches.

    Args:
        statistics: "covariance", mean and covariance of the channels; or "deviation", mean and deviation of each.
        num_scales: bands of a pyramid that are matched first; 1 for none.

    Raises:
        UserError: unknown statistics; other numbers of images or channels; more scales than the smaller side can have.
    """
    check_name("statistics", statistics, STATISTICS)
    if values.shape[:2] != reference.shape[:2]:
        raise UserError(f"{list(values.shape[:2])} images and channels, and {list(reference.shape[:2])} of references.")
    most = min(*values.shape[2:], *reference.shape[2:]).bit_length()
    if not 1 <= num_scales <= most:
        raise UserError(f"num_scales={num_scales} must be 1 to {most}, by the smallest side.")
    bands = zip(_bands(values.float(), num_scales), _bands(reference.float(), num_scales), strict=True)
    matched = _sum_of([_matched(*pair, statistics) for pair in bands])
    if num_scales > 1:  # bands that are matched by themselves may go together in another way
        matched = _matched(matched, reference.float(), statistics)
    return values + strength * (matched - values)


def _matched(values: Tensor, reference: Tensor, statistics: str) -> Tensor:
    """The affine map of channels that gives values the statistics, and moves them least."""
    (mean, covariance), (wanted_mean, wanted) = _moments(values), _moments(reference)
    if statistics == "deviation":
        spread = [part.diagonal(dim1=1, dim2=2).clamp(min=LEAST_VARIANCE).sqrt() for part in (covariance, wanted)]
        linear = torch.diag_embed(spread[1] / spread[0])
    else:
        root, inverse = _power(covariance, 0.5), _power(covariance, -0.5)
        linear = inverse @ _power(root @ wanted @ root, 0.5) @ inverse
    shift = wanted_mean - linear @ mean
    linear, shift = (part.to(values.device, values.dtype) for part in (linear, shift))
    return torch.einsum("bij,bjhw->bihw", linear, values) + shift[..., None]


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [B, C, 1] and covariance [B, C, C] over all places, float64 on the CPU."""
    places = values.flatten(2).cpu().double()
    mean = places.mean(2, keepdim=True)
    return mean, (places - mean) @ (places - mean).mT / places.shape[2]


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """Of symmetric matrices [B, C, C] that are positive, or nearly so."""
    found, vectors = torch.linalg.eigh(matrix)
    return vectors * found.clamp(min=LEAST_VARIANCE)[:, None] ** exponent @ vectors.mT


def _bands(values: Tensor, num_scales: int) -> list[Tensor]:
    """Bands of a pyramid, the finest first; the last one is what is left."""
    bands = []
    for _ in range(num_scales - 1):
        smaller = avg_pool2d(values, 2)
        bands.append(values - _enlarged(smaller, values))
        values = smaller
    return [*bands, values]


def _sum_of(bands: list[Tensor]) -> Tensor:
    """The inverse of `_bands`."""
    found = bands[-1]
    for band in reversed(bands[:-1]):
        found = band + _enlarged(found, band)
    return found


def _enlarged(values: Tensor, like: Tensor) -> Tensor:
    return interpolate(values, like.shape[2:], mode="bilinear", align_corners=False)
