"""Masks beside latents: seen by the denoiser (mask to image), or denoised with the image (pairs).

Legend:
    B batch    H, W pixels    K levels of a mask, background first    f pixels along a latent cell, h = H / f, w = W / f
    D          (K - 1) f^2: what a cell's part of a mask holds, a plane of f x f pixels for each level but background
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pixel_shuffle, pixel_unshuffle

from datamodules.errors import UserError

UNKNOWN = -1
LEAST_DEVIATION = 1e-3  # of a component, so that one that never varies can be divided by it


def mask_dice(found: Tensor, asked: Tensor) -> Tensor:
    """Dice of each image, the mean over the levels that either mask shows besides background, float32 [B].

    Unknown pixels of `asked` (-1) do not count. 1 where neither shows anything.

    Args:
        found, asked: levels int64 [B, H, W].
    """
    known = asked >= 0
    sums, levels = torch.zeros(len(asked), device=asked.device), torch.zeros(len(asked), device=asked.device)
    for level in range(1, 1 + max(int(found.max()), int(asked.max()))):
        theirs, ours = ((found == level) & known).flatten(1), (asked == level).flatten(1)
        total = theirs.sum(1) + ours.sum(1)
        sums += 2 * (theirs & ours).sum(1) / total.clamp(min=1)
        levels += (total > 0).float()
    return torch.where(levels > 0, sums / levels.clamp(min=1), 1.0)


class MaskGeometry(nn.Module):
    """What both kinds of mask share: levels, cells, and checks.

    Args:
        levels: names of the levels, background first.
        cell: pixels along a latent cell, f.

    Raises:
        UserError: fewer than two levels.
    """

    def __init__(self, levels: Sequence[str], cell: int):
        super().__init__()
        if len(levels) < 2:
            raise UserError(f"model.masks.levels={list(levels)}: at least two are needed, background first.")
        self.levels, self.cell = tuple(levels), cell

    @property
    def num_values(self) -> int:
        """D, numbers that a cell's part of a mask holds."""
        return (len(self.levels) - 1) * self.cell**2

    def check(self, mask: Tensor, size: int) -> None:
        """Raise UserError for masks that are not int64 [B, size, size] of -1 and the levels."""
        if mask.ndim != 3 or tuple(mask.shape[1:]) != (size, size) or mask.dtype != torch.int64:
            raise UserError(f"masks are {mask.dtype} {list(mask.shape)}; int64 [B, {size}, {size}] is needed.")
        if mask.numel() and not (int(mask.min()) >= UNKNOWN and int(mask.max()) < len(self.levels)):
            raise UserError(
                f"masks have levels {int(mask.min())} to {int(mask.max())}: use 0 to {len(self.levels) - 1} "
                f"({', '.join(self.levels)}), or {UNKNOWN} for unknown."
            )

    def cells(self, mask: Tensor) -> Tensor:
        """Masks int64 [B, H, W] -> float32 [B, D, h, w] of 0 and 1; an unknown pixel is 0 in every plane."""
        levels = torch.arange(1, len(self.levels), device=mask.device).view(1, -1, 1, 1)
        return pixel_unshuffle((mask[:, None] == levels).float(), self.cell)


class MaskMaps(MaskGeometry):
    """Mask to image: the whole mask as further channels of the denoiser's input, one number for each pixel and level.

    As in segmentation-guided diffusion (Konz et al. 2024, arXiv 2402.05210) and Polyp-DDPM (Dorjsembe et al. 2024,
    arXiv 2402.04031) the mask is concatenated to what is denoised. Differs from both: in the cells of latents no pixel
    is lost, and unknown is a value of its own, so that one network has masks, parts of masks and none; hidden in
    training, it is the unconditional model of classifier-free guidance.

    Args:
        dropout: chance that training hides the mask of an image. It is hidden too where all labels are.
    """

    def __init__(self, levels: Sequence[str], cell: int, dropout: float = 0.1):
        super().__init__(levels, cell)
        if not 0 <= dropout <= 1:
            raise UserError(f"model.masks.dropout={dropout} must be a fraction in [0, 1].")
        self.dropout = dropout

    @property
    def channels(self) -> int:
        """Further channels of the denoiser: D, and the share of a cell's pixels that are known."""
        return self.num_values + 1

    def forward(self, mask: Tensor) -> Tensor:
        """Masks int64 [B, H, W] -> [B, D + 1, h, w]: 1 where the level is, -1 where another is, 0 for unknown."""
        known = (mask >= 0).float()[:, None]
        of_pixels = pixel_unshuffle(known, self.cell).repeat(1, len(self.levels) - 1, 1, 1)
        return torch.cat([(2 * self.cells(mask) - 1) * of_pixels, avg_pool2d(known, self.cell)], dim=1)

    def draw_hidden(self, num: int, generator: torch.Generator) -> Tensor:
        """Which of `num` masks training hides, bool [num] on the generator's device."""
        return torch.rand(num, generator=generator, device=generator.device) < self.dropout


class MaskCode(MaskGeometry):
    """Image and mask together: a mask as a few latent channels of its own, which are denoised with the image's.

    A cell's part of the mask is projected on the principal components of the training masks' cells, each scaled to unit
    variance; `decode` goes back, and gives a soft mask. The joint distribution is learnt as by Saragih et al. 2024
    (arXiv 2310.16794), whose mask is a fourth channel of pixels.

    Args:
        channels: components M that are kept; D of them lose nothing.
        threshold: of the soft mask from which a pixel has a level that is the only one besides background.
    """

    mean: Tensor  # [D]
    basis: Tensor  # [M, D]
    deviation: Tensor  # [M]
    num_fitted: Tensor

    def __init__(self, levels: Sequence[str], cell: int, channels: int = 4, threshold: float = 0.5):
        super().__init__(levels, cell)
        if not 1 <= channels <= self.num_values:
            raise UserError(
                f"model.masks.channels={channels} must be in 1..{self.num_values}: levels without background, times "
                "the pixels of a latent cell."
            )
        if not 0 < threshold < 1:
            raise UserError(f"model.masks.threshold={threshold} must be between 0 and 1.")
        self.channels, self.threshold = channels, threshold
        self.register_buffer("mean", torch.zeros(self.num_values))
        self.register_buffer("basis", torch.zeros(channels, self.num_values))
        self.register_buffer("deviation", torch.ones(channels))
        self.register_buffer("num_fitted", torch.zeros((), dtype=torch.int64))

    @property
    def fitted(self) -> bool:
        """Whether `fit` has run, here or before the checkpoint was written."""
        return bool(self.num_fitted > 0)

    @torch.no_grad()
    def fit(self, masks: Iterable[Tensor]) -> None:
        """Find the components in masks int64 [B, H, W] of training images; cells with an unknown pixel are left out.

        Raises:
            UserError: no mask, or none that shows anything but background.
        """
        num, total = 0, torch.zeros(self.num_values, dtype=torch.float64)
        products = torch.zeros(self.num_values, self.num_values, dtype=torch.float64)
        for mask in masks:
            mask = mask.cpu()
            known = (pixel_unshuffle((mask >= 0).float()[:, None], self.cell).amin(1) > 0).flatten()
            cells = self.cells(mask).permute(0, 2, 3, 1).flatten(0, 2)[known].double()
            num, total, products = num + len(cells), total + cells.sum(0), products + cells.T @ cells
        if not num or not total.sum():
            raise UserError(
                "no training mask shows anything but background, so no code can be fitted to them. Remedy: data with "
                f"masks whose levels are {', '.join(self.levels)}."
            )
        mean = total / num
        values, vectors = torch.linalg.eigh(products / num - mean.outer(mean))
        basis = vectors.flip(1)[:, : self.channels].T
        largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
        self.basis.copy_(basis * largest.sign())  # eigenvectors have no sign of their own
        self.mean.copy_(mean)
        self.deviation.copy_(values.flip(0)[: self.channels].clamp(min=LEAST_DEVIATION**2).sqrt())
        self.num_fitted.fill_(num)

    def encode(self, mask: Tensor) -> Tensor:
        """Masks int64 [B, H, W] -> [B, M, h, w], unit variance; an unknown pixel is as the mean."""
        mean = self.mean.view(1, -1, 1, 1)
        known = pixel_unshuffle((mask >= 0).float()[:, None], self.cell).repeat(1, len(self.levels) - 1, 1, 1)
        code = torch.einsum("md,bdhw->bmhw", self.basis, (self.cells(mask) - mean) * known)
        return code / self.deviation.view(1, -1, 1, 1)

    def decode(self, code: Tensor) -> Tensor:
        """[B, M, h, w] -> the soft mask of each level but background, float32 [B, K - 1, H, W] in [0, 1]."""
        scaled = code.float() * self.deviation.view(1, -1, 1, 1)
        cells = torch.einsum("md,bmhw->bdhw", self.basis, scaled) + self.mean.view(1, -1, 1, 1)
        return pixel_shuffle(cells, self.cell).clamp(0, 1)

    def harden(self, soft: Tensor) -> Tensor:
        """Soft masks [B, K - 1, H, W] -> levels int64 [B, H, W]: by the threshold where K is 2, else the greatest.

        With more levels background is what the others leave of 1.
        """
        if soft.shape[1] == 1:
            return (soft[:, 0] >= self.threshold).long()
        background = (1 - soft.sum(1, keepdim=True)).clamp(min=0)
        return torch.cat([background, soft], dim=1).argmax(1)
