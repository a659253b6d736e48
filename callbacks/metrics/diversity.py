"""Diversity of a set of images: how alike two of them are, by multi-scale structural similarity (MS-SSIM).

Letters: N images, P pairs, S pixels along a side, R replicates.

Source: Wang, Simoncelli and Bovik 2003 ("Multi-scale structural similarity for image quality assessment"), as
torchmetrics computes it; as a figure of a set, the mean over random pairs: Odena et al. 2017 (arXiv 1610.09585).
Differs from them: a scale that is smaller than the window of 11 pixels is left out, and the weights of the scales that
stay are divided by their sum. So images of 64 pixels have 3 scales, of 128 pixels 4, and from 176 pixels on all 5.
Pairs are of any labels, and of two patients.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from callbacks.metrics.bootstrap import interval, patient_weights, weighted_means
from callbacks.metrics.estimate import Estimate
from datamodules.errors import UserError

BETTER = {"ms_ssim": "min"}
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, the finest first
WINDOW = 11  # pixels of the Gaussian window, whose deviation is 1.5


def num_scales(image_size: int) -> int:
    """Scales that images of so many pixels have; each is half of the one before, and none is less than the window."""
    return sum(image_size >> scale >= WINDOW for scale in range(len(WEIGHTS)))


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """MS-SSIM of each pair of images, float32 [B]: 1 where they are equal, about 0 where nothing is alike.

    Args:
        a, b: float32 [B, 3, S, S] in [0, 1], at least WINDOW pixels.
    """
    weights = WEIGHTS[: num_scales(min(a.shape[-2:]))]
    betas = tuple(weight / sum(weights) for weight in weights)
    # The window follows from its deviation. `kernel_size` is only what the size of the images is checked by.
    return multiscale_structural_similarity_index_measure(
        a, b, sigma=1.5, kernel_size=3, betas=betas, data_range=1.0, reduction="none"
    )


def random_pairs(patients: Sequence[str], num_pairs: int, seed: int) -> np.ndarray:
    """Rows int64 [P, 2] of random pairs of images of two patients; a pair may come twice.

    Raises:
        UserError: fewer than two patients, or than one pair.
    """
    names = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)[1]
    if num_pairs < 1 or names.max(initial=0) < 1:
        raise UserError(
            f"{num_pairs} pairs of images of two patients cannot be drawn from {names.max(initial=-1) + 1} patients: "
            "one pair and two patients at least are needed."
        )
    draw, found = np.random.default_rng(seed), np.empty((0, 2), dtype=np.int64)
    while len(found) < num_pairs:
        drawn = draw.integers(len(names), size=(num_pairs, 2))
        found = np.concatenate([found, drawn[names[drawn[:, 0]] != names[drawn[:, 1]]]])
    return found[:num_pairs]


def similarity(images: Sequence[np.ndarray], pairs: np.ndarray, batch_size: int, device: torch.device) -> np.ndarray:
    """MS-SSIM of each pair, float64 [P].

    Args:
        images: array-like uint8 [N, S, S, 3].
        pairs: rows [P, 2].
    """
    found = []
    for start in range(0, len(pairs), batch_size):
        sides = (torch.from_numpy(images[rows]).to(device) for rows in pairs[start : start + batch_size].T)
        found.append(ms_ssim(*(side.permute(0, 3, 1, 2).float() / 255 for side in sides)).cpu())
    return torch.cat(found).numpy().astype(np.float64)


def mean_over_pairs(
    values: np.ndarray, pairs: np.ndarray, patients: Sequence[str], num_replicates: int = 1000, seed: int = 0
) -> Estimate:
    """Mean of the values [P] of pairs [P, 2], with an interval over the patients [N].

    In a replicate a pair counts as often as both of its patients are drawn: the product. Where an image is in few
    pairs, the interval is too wide rather than too narrow.
    """
    weights = patient_weights(patients, num_replicates, seed)
    drawn = weighted_means(values, weights[:, pairs[:, 0]] * weights[:, pairs[:, 1]])
    facts = {"num_images": len(patients), "num_patients": len(set(patients)), "seed": seed}
    return interval(float(values.mean()), drawn, name="ms_ssim", better=BETTER["ms_ssim"], **facts)


def diversity(
    images: Sequence[np.ndarray],
    patients: Sequence[str],
    num_pairs: int,
    num_replicates: int = 1000,
    seed: int = 0,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
) -> Estimate:
    """Mean MS-SSIM of random pairs of the images uint8 [N, S, S, 3]; less is more diverse. Undefined below WINDOW."""
    pairs = random_pairs(patients, num_pairs, seed)
    if num_scales(images.shape[1]) < 1:
        why = f"images of {images.shape[1]} pixels, and the window has {WINDOW}"
        return Estimate(np.nan, name="ms_ssim", better=BETTER["ms_ssim"], why=why)
    return mean_over_pairs(similarity(images, pairs, batch_size, device), pairs, patients, num_replicates, seed)
