# SPDX-License-Identifier: Apache-2.0
"""At which timesteps a sampling calls the network.

Legend:
    alpha_bar   share of the image's variance left at each timestep [T]
    sigma       sqrt(1 - alpha_bar) / sqrt(alpha_bar): the noise of a timestep over its signal

This file imports nothing of this package: `export_model` puts a copy of it beside the weights, as their code.
"""

from collections.abc import Sequence

import numpy as np

SPACINGS = ("trailing", "log_snr", "karras")
LARGEST_SIGMA = 20.0  # where steps begin to be spaced; under zero terminal SNR the last timestep lies far above it
RHO = 7.0


def spaced_timesteps(alpha_bar: Sequence[float] | np.ndarray, num_steps: int, spacing: str) -> list[int]:
    """`num_steps` different timesteps, descending, from T-1 to 0.

    "log_snr" is even in log sigma (Lu et al. 2022, arXiv 2211.01095), "karras" in sigma^(1/7) (Karras et al. 2022,
    arXiv 2206.00364, eq. 5). "trailing" is even in t (Lin et al. 2024, arXiv 2305.08891, table 2): a few such steps
    end at much noise, so that the last one averages fine structure away; schedulers of diffusers have it themselves.
    Differs from the papers: sigmas are those of whole timesteps; one above LARGEST_SIGMA is the first step alone.

    Raises:
        ValueError: a spacing that is not made here.
    """
    if spacing not in SPACINGS[1:]:
        raise ValueError(f"spacing={spacing!r} must be log_snr or karras.")
    alpha_bar = np.asarray(alpha_bar, dtype=np.float64)
    sigma = np.sqrt((1 - alpha_bar) / np.maximum(alpha_bar, 1e-12))
    last, largest = len(sigma) - 1, int(np.searchsorted(sigma, LARGEST_SIGMA, side="right")) - 1
    before = [last] if largest < last else []
    scale, back = (np.log, np.exp) if spacing == "log_snr" else (lambda s: s ** (1 / RHO), lambda s: s**RHO)
    wanted = back(np.linspace(scale(sigma[largest]), scale(sigma[0]), num_steps - len(before)))
    steps = np.array([*before, *np.interp(wanted, sigma, np.arange(last + 1)).round().astype(int)])
    left = np.arange(num_steps)[::-1]  # how many follow: as many timesteps are left for them, each another one
    apart = np.maximum.accumulate((steps - left)[::-1])[::-1] + left
    return np.minimum(apart, last - np.arange(num_steps)).tolist()
