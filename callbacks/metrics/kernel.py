"""Kernel distance between two sets of features: unbiased, and so fit for small sets where the Fréchet distance is not.

Letters: N, M = numbers of images; D = feature dimension; k(x, y) = (x . y / D + 1)^3.

Source: Binkowski et al. 2018 (arXiv 1801.01401), section 3: the squared maximum mean discrepancy with the cubic
polynomial kernel, in the unbiased form of Gretton et al. 2012, equation (3). On Inception features it is the KID.
"""

import torch
from torch import Tensor

from datamodules.errors import UserError

BETTER = {"kd": "min", "kid": "min"}


def kernel_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Squared maximum mean discrepancy between features [N, D] and [M, D]; about 0 for equal laws, may be negative.

    Every pair is used once: least variance, memory N x M.

    Raises:
        ValueError: fewer than two rows, or dimensions that differ.
    """
    features_a = features_a.detach().to("cpu", torch.float64)
    features_b = features_b.detach().to("cpu", torch.float64)
    if features_a.ndim != 2 or features_b.ndim != 2 or features_a.shape[1] != features_b.shape[1]:
        raise UserError(
            f"features have shapes {tuple(features_a.shape)} and {tuple(features_b.shape)}: expected [N, D]"
        )
    if min(len(features_a), len(features_b)) < 2:
        raise UserError(f"the sets have {len(features_a)} and {len(features_b)} rows: each needs at least 2")
    num_a, num_b = len(features_a), len(features_b)
    within_a = _kernel(features_a, features_a)
    within_b = _kernel(features_b, features_b)
    across = _kernel(features_a, features_b)
    mean_a = (within_a.sum() - within_a.trace()) / (num_a * (num_a - 1))
    mean_b = (within_b.sum() - within_b.trace()) / (num_b * (num_b - 1))
    return float(mean_a + mean_b - 2 * across.mean())


def _kernel(features_a: Tensor, features_b: Tensor) -> Tensor:
    return (features_a @ features_b.T / features_a.shape[1] + 1) ** 3
