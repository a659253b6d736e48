"""Coverage: the share of real images that have a generated image near; low where generated images lack variety.

Letters: N real images, M generated images, D features.

Source: Naeem et al. 2020 (arXiv 2002.09797), section 3.2. Differs from their code: what lies on the edge of a
neighbourhood is in it, so that equal sets of images, duplicates among them, have coverage 1 and not 0.
"""

import torch
from torch import Tensor

from datamodules.errors import UserError

BETTER = {"coverage": "max"}
NEAREST = 5  # neighbours that reach as far as the neighbourhood of a real image; their section 4.1


def coverage(real: Tensor, generated: Tensor, nearest: int = NEAREST) -> float:
    """Share of the rows of real [N, D] with a row of generated [M, D] no farther than their nearest-th real neighbour.

    It grows with M: compare sets of the same size only. 0 to 1.

    Raises:
        ValueError: dimensions that differ, no generated row, or no more real rows than neighbours.
    """
    real, generated = real.detach().to("cpu", torch.float64), generated.detach().to("cpu", torch.float64)
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1] or len(generated) == 0:
        raise UserError(f"features have shapes {tuple(real.shape)} and {tuple(generated.shape)}: expected [N, D]")
    if not 1 <= nearest < len(real):
        raise UserError(f"nearest is {nearest} and there are {len(real)} real images: it must be from 1 to one less")
    apart = _distances(real, real).fill_diagonal_(0)
    radii = apart.kthvalue(nearest + 1, dim=1).values  # the row itself is its own nearest
    return float((_distances(real, generated).min(1).values <= radii).double().mean())


def _distances(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
