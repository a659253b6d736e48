"""Fréchet distance between Gaussians fitted to two sets of features, exact and in float64.

Letters: N, M = numbers of images; D = feature dimension; K = rows of a covariance factor, K <= min(N, D);
F [K, D] = factor of a covariance C [D, D], that is F^T F = C.

Source: Dowson and Landau 1982, equation (4), as used by Heusel et al. 2017 (arXiv 1706.08500), equation (6):
d^2 = |m_a - m_b|^2 + tr(C_a) + tr(C_b) - 2 tr((C_a C_b)^(1/2)).
The eigenvalues of C_a C_b are the squared singular values of F_a F_b^T, so the last trace is its nuclear norm: no
matrix square root, no complex numbers, and for few images a product of [N, D] by [D, M] instead of anything D x D.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.errors import UserError

BETTER = {"fd": "min", "fid": "min"}


@dataclass(frozen=True)
class Gaussian:
    """Mean [D] and covariance factor [K, D] of a set of features, float64 on the CPU."""

    mean: Tensor
    factor: Tensor

    @classmethod
    def from_features(cls, features: Tensor) -> "Gaussian":
        """Fit to features [N, D]; the covariance is the unbiased one (divided by N - 1).

        Raises:
            ValueError: fewer than two rows, not a matrix, or values that are not finite.
        """
        features = _matrix("features", features)
        num_images, dim = features.shape
        mean = features.mean(dim=0)
        factor = (features - mean) / (num_images - 1) ** 0.5
        if num_images > dim:
            factor = torch.linalg.qr(factor, mode="r").R
        return cls(mean, factor)

    @classmethod
    def from_moments(cls, mean: Tensor, covariance: Tensor) -> "Gaussian":
        """Build from a mean [D] and a symmetric covariance [D, D].

        Eigenvalues within rounding error of zero are taken as zero, so that a rank-deficient covariance adds no noise.

        Raises:
            ValueError: shapes that do not fit or values that are not finite.
        """
        mean = torch.as_tensor(mean).detach().to("cpu", torch.float64)
        covariance = torch.as_tensor(covariance).detach().to("cpu", torch.float64)
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise UserError(
                f"mean has shape {tuple(mean.shape)} and covariance {tuple(covariance.shape)}: expected [D] and [D, D]"
            )
        if not (mean.isfinite().all() and covariance.isfinite().all()):
            raise UserError("mean or covariance holds values that are not finite: the features it comes from do too")
        eigenvalues, eigenvectors = torch.linalg.eigh((covariance + covariance.T) / 2)
        floor = len(mean) * torch.finfo(torch.float64).eps * eigenvalues.abs().max()
        kept = eigenvalues > floor
        return cls(mean, eigenvalues[kept].sqrt()[:, None] * eigenvectors[:, kept].T)

    def distance(self, other: "Gaussian") -> float:
        """Fréchet distance (the square, as in every published figure); 0 for the same Gaussian, never negative.

        Raises:
            ValueError: the two have different dimensions.
        """
        if self.mean.shape != other.mean.shape:
            raise UserError(
                f"features of {len(self.mean)} dimensions against {len(other.mean)}: use one extractor for both sets"
            )
        shift = (self.mean - other.mean).square().sum()
        spread = self.factor.square().sum() + other.factor.square().sum()
        overlap = torch.linalg.svdvals(self.factor @ other.factor.T).sum()
        return max(0.0, float(shift + spread - 2 * overlap))


class GaussianMoments:
    """Running count, sum and sum of outer products of features [*, D], in float64; memory D x D whatever the count."""

    def __init__(self, dim: int, device: torch.device | str = "cpu") -> None:
        self.num = torch.zeros((), dtype=torch.float64, device=device)
        self.sum = torch.zeros(dim, dtype=torch.float64, device=device)
        self.outer_sum = torch.zeros(dim, dim, dtype=torch.float64, device=device)

    def add(self, features: Tensor) -> None:
        """Count in features [B, D]."""
        features = features.detach().to(self.sum)
        self.num += len(features)
        self.sum += features.sum(dim=0)
        self.outer_sum += features.T @ features

    def tensors(self) -> list[Tensor]:
        """Return the three running sums, to be added up over processes in place."""
        return [self.num, self.sum, self.outer_sum]

    def gaussian(self) -> Gaussian:
        """Return the Gaussian with the mean and the unbiased covariance.

        Raises:
            ValueError: fewer than two images were counted.
        """
        if self.num < 2:
            raise UserError(f"a covariance needs at least 2 images, {int(self.num)} were counted")
        mean = self.sum / self.num
        covariance = (self.outer_sum - self.num * torch.outer(mean, mean)) / (self.num - 1)
        return Gaussian.from_moments(mean, covariance)


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Fréchet distance between features [N, D] and [M, D]."""
    return Gaussian.from_features(features_a).distance(Gaussian.from_features(features_b))


def rows_are_cheaper(num_images: int, dim: int) -> bool:
    """Tell whether to keep every feature row (few images) rather than running moments (many)."""
    return num_images <= 4 * dim


def _matrix(name: str, features: Tensor) -> Tensor:
    if features.ndim != 2 or len(features) < 2:
        raise UserError(f"{name} has shape {tuple(features.shape)}: expected [N, D] with N >= 2")
    features = features.detach().to("cpu", torch.float64)
    if not features.isfinite().all():
        bad = int((~features.isfinite().all(dim=1)).nonzero()[0])
        raise UserError(f"{name} row {bad} is not finite: look at the image it was made from")
    return features
