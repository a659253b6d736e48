"""What the labels alone say of the latents, cell by cell: a map that the denoiser is given as further channels.

A vector that is the same at all cells tells a convolution nothing of places, so that it learns where a disc lies only
after long training; a map tells it at once. As SPADE (Park et al. 2019, arXiv 1903.07291) gives dense conditions; the
map is the mean of the labels' latents, as of the prior of PriorGrad (Lee et al. 2022, arXiv 2106.06406) and ShiftDDPM
(Zhang et al. 2023, arXiv 2302.02373), of which noise and targets are left as they are.

Legend:
    B images    F findings    R levels of all findings together    C, h, w latent channels and cells
    u           [B, R + F]: one-hot rows of the table: unknown, level 0, level 1, … of each finding
    z           [B, R + F]: of each level, u less the level's share among the images that tell the finding; 0 of a
                finding that is unknown
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from datamodules.errors import UserError
from lightning_modules.conditioning import UNKNOWN


class LabelMaps(nn.Module):
    """Labels -> the latents that a ridge regression expects of them, in closed form.

    Args:
        num_levels: levels of each finding by its name, in the order of the label columns.
        shape: C, h, w.
        ridge: images that would have to show a level for its map to be half of the mean of their latents.

    Raises:
        ValueError: a ridge that is not above 0.
    """

    table: Tensor  # [R + F, C h w]: of each finding nothing for unknown, then what each level adds to the mean
    mean: Tensor  # [C h w]
    num_fitted: Tensor

    def __init__(self, num_levels: Mapping[str, int], shape: tuple[int, int, int], ridge: float = 10.0):
        super().__init__()
        if ridge <= 0:
            raise UserError(f"model.label_maps.ridge={ridge} must be above 0: some levels may be shown by no image.")
        self.num_levels, self.shape, self.ridge = tuple(num_levels.values()), tuple(shape), ridge
        rows = torch.tensor(self.num_levels) + 1
        self.register_buffer("first_row", rows.cumsum(0) - rows, persistent=False)  # of each finding in the table
        self.register_buffer("table", torch.zeros(int(rows.sum()), math.prod(self.shape)))
        self.register_buffer("mean", torch.zeros(math.prod(self.shape)))
        self.register_buffer("num_fitted", torch.zeros((), dtype=torch.int64))

    @property
    def fitted(self) -> bool:
        """Whether `fit` has run, here or before the checkpoint was written."""
        return bool(self.num_fitted > 0)

    def rows(self, labels: Tensor) -> Tensor:
        """Labels [B, F] -> their rows of the table [B, F]."""
        return labels - UNKNOWN + self.first_row

    def forward(self, labels: Tensor) -> Tensor:
        """Labels int64 [B, F] -> [B, C, h, w]; a finding that is unknown changes nothing of the mean."""
        found = nn.functional.embedding_bag(self.rows(labels), self.table, mode="sum")
        return (self.mean + found).view(-1, *self.shape)

    @torch.no_grad()
    def fit(self, sums: "LabelSums") -> None:
        """Solve the regression of latents on z.

        Raises:
            ValueError: no image was added.
        """
        if not sums.num_images:
            raise UserError("no image to fit the label maps to: there are no training images.")
        counts, to_z = sums.gram.diagonal(), torch.zeros(len(self.table), len(self.table), dtype=torch.float64)
        for first, num_levels in zip(self.first_row.tolist(), self.num_levels, strict=True):
            levels = slice(first + 1, first + 1 + num_levels)
            to_z[levels, levels] = torch.eye(num_levels, dtype=torch.float64)
            shares = counts[levels] / counts[levels].sum().clamp(min=1)  # of images that tell the finding
            to_z[levels, levels] -= shares[:, None]
        gram = to_z @ sums.gram @ to_z.T + self.ridge * torch.eye(len(self.table))
        maps = torch.linalg.solve(gram, to_z @ sums.products)  # of z, which sums to 0: the mean is the intercept
        self.table.copy_(to_z.T @ maps)
        self.mean.copy_(sums.total / sums.num_images)
        self.num_fitted.fill_(sums.num_images)


class LabelSums:
    """Sums over images, in float64 on the CPU: all that `LabelMaps.fit` needs of them."""

    def __init__(self, maps: LabelMaps):
        self._maps, self.num_images = maps, 0
        num_rows, num_values = maps.table.shape
        self.gram = torch.zeros(num_rows, num_rows, dtype=torch.float64)  # u^T u
        self.products = torch.zeros(num_rows, num_values, dtype=torch.float64)  # u^T x_0
        self.total = torch.zeros(num_values, dtype=torch.float64)  # of x_0

    def add(self, labels: Tensor, x_0: Tensor) -> None:
        """Take in labels int64 [B, F] and standardised latents [B, C, h, w]."""
        rows, x_0 = self._maps.rows(labels.to(self._maps.table.device)).cpu(), x_0.flatten(1).cpu().double()
        u = torch.zeros(len(labels), len(self.gram), dtype=torch.float64).scatter_(1, rows, 1.0)
        self.gram += u.T @ u
        self.products += u.T @ x_0
        self.total += x_0.sum(0)
        self.num_images += len(labels)
