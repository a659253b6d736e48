"""Noise schedules: how much of the image is left at each timestep.

Legend:
    T           number of timesteps; t in 0..T-1, 0 the cleanest, T-1 the noisiest
    beta_t      variance added at step t
    alpha_bar   prod_{s<=t} (1 - beta_s): the share of the image's variance left at t
    snr         alpha_bar / (1 - alpha_bar), signal to noise ratio (in variances)
"""

import math

import torch
from torch import Tensor

from datamodules.errors import UserError
from lightning_modules.names import check_name

NUM_TIMESTEPS = 1000


def _linear(num_timesteps: int, beta_start: float, beta_end: float) -> Tensor:
    # Ho et al. 2020 (arXiv 2006.11239), section 4.
    return torch.linspace(beta_start, beta_end, num_timesteps, dtype=torch.float64)


def _scaled_linear(num_timesteps: int, beta_start: float, beta_end: float) -> Tensor:
    # Rombach et al. 2022 (arXiv 2112.10752): linear in the square root of beta.
    return torch.linspace(beta_start**0.5, beta_end**0.5, num_timesteps, dtype=torch.float64) ** 2


def _cosine(num_timesteps: int, beta_start: float, beta_end: float) -> Tensor:
    # Nichol & Dhariwal 2021 (arXiv 2102.09672), eq. 17, beta clipped at 0.999. beta_start and beta_end have no part.
    u = torch.arange(num_timesteps + 1, dtype=torch.float64) / num_timesteps
    f = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=0.999)


SCHEDULES = {"linear": _linear, "scaled_linear": _scaled_linear, "cosine": _cosine}
BETA_RANGES = {"linear": (1e-4, 2e-2), "scaled_linear": (8.5e-4, 1.2e-2), "cosine": (0.0, 0.0)}


def rescale_zero_terminal_snr(betas: Tensor) -> Tensor:
    """Betas whose last alpha_bar is 0: shift and scale sqrt(alpha_bar), its first value kept.

    Source: Lin et al. 2024 (arXiv 2305.08891), algorithm 1.
    """
    root = torch.cumprod(1 - betas, 0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alpha_bar = root**2
    alphas = torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])
    return 1 - alphas


class Schedule:
    """alpha_bar over T timesteps, computed in float64.

    `beta_start` and `beta_end` default to the values of the schedule's paper; "cosine" has neither.
    `zero_terminal_snr` makes the last step pure noise, which only the x0 and v predictions can start from.

    Raises:
        ValueError: unknown name; a beta range outside 0 < start <= end < 1, or given for "cosine".
    """

    def __init__(
        self,
        name: str = "scaled_linear",
        beta_start: float | None = None,
        beta_end: float | None = None,
        zero_terminal_snr: bool = False,
        num_timesteps: int = NUM_TIMESTEPS,
    ):
        self.name = check_name("schedule", name, SCHEDULES)
        if name == "cosine" and (beta_start is not None or beta_end is not None):
            raise UserError("schedule='cosine' has no beta_start and beta_end: leave them out.")
        default_start, default_end = BETA_RANGES[name]
        start = default_start if beta_start is None else beta_start
        end = default_end if beta_end is None else beta_end
        if name != "cosine" and not 0 < start <= end < 1:
            raise UserError(f"beta_start={start}, beta_end={end}: need 0 < beta_start <= beta_end < 1.")
        betas = SCHEDULES[name](num_timesteps, start, end)
        self.zero_terminal_snr = zero_terminal_snr
        self.betas = rescale_zero_terminal_snr(betas) if zero_terminal_snr else betas
        self.alpha_bar = torch.cumprod(1 - self.betas, 0)  # float64 [T]
        self.num_timesteps = num_timesteps
        self._tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t) for t int64 [B], as [B, 1, ..] in the dtype of `like` [B, ..]."""
        key = (like.device, like.dtype)
        if key not in self._tables:
            with torch.inference_mode(False):  # a table first asked for in validation must serve training too
                pair = (self.alpha_bar.sqrt(), (1 - self.alpha_bar).sqrt())
                self._tables[key] = tuple(table.to(like.dtype).to(like.device) for table in pair)
        shape = (-1, *[1] * (like.ndim - 1))
        root_alpha_bar, root_rest = self._tables[key]
        return root_alpha_bar[t].view(shape), root_rest[t].view(shape)

    def snr(self, t: Tensor) -> Tensor:
        """Signal to noise ratio alpha_bar / (1 - alpha_bar), float64 on the CPU or float32 elsewhere, shape of t."""
        dtype = torch.float64 if t.device.type == "cpu" else torch.float32
        a, s = self.coefficients(t.flatten(), torch.empty(t.numel(), dtype=dtype, device=t.device))
        return ((a / s) ** 2).view(t.shape)
