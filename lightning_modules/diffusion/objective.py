"""What the denoiser learns: noising, targets, loss weights, timesteps; converters inverse of one another.

Legend:
    x_0         clean standardised latents [B, C, h, w]
    eps         standard normal noise, same shape
    x_t         sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps
    v           sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0
    t           timestep, int64 [B] in 0..T-1
    a, s        sqrt(alpha_bar_t), sqrt(1 - alpha_bar_t)
    snr         alpha_bar_t / (1 - alpha_bar_t)
Sources: Ho et al. 2020 (arXiv 2006.11239); Salimans & Ho 2022 (arXiv 2202.00512); Hang et al. 2023 (arXiv 2303.09556);
Esser et al. 2024 (arXiv 2403.03206).
"""

import torch
from torch import Tensor

from datamodules.errors import UserError
from lightning_modules.diffusion.schedule import Schedule
from lightning_modules.names import check_name

PREDICTIONS = ("epsilon", "x0", "v")
WEIGHTINGS = ("uniform", "min_snr")
TIMESTEP_LAWS = ("uniform", "stratified", "logit_normal")


class Objective:
    """Denoising objective over a schedule.

    Args:
        schedule: noise schedule; the sampler uses the same object.
        prediction: what the network's output means: "epsilon", "x0" or "v".
        weighting: "uniform" or "min_snr", with `min_snr_gamma`.
        min_snr_floor: least weight of an error of x_0 under "min_snr". Without one the noisy end, where labels are
            decided, has next to none: of v, timesteps of snr < 0.2 are 40 % of the draws and 7 % of the weight.
        timestep_law: "uniform", or "logit_normal" (Esser et al., section 3.1): noise over signal, sqrt(1 / snr), is
            u / (1 - u) with u = sigmoid(N(logit_mean, logit_std)), as on the paper's straight path from data to noise;
            or "stratified" (Kingma et al. 2021, arXiv 2107.00630, appendix I.1): each uniform, a batch spread evenly.

    Raises:
        ValueError: unknown name; "epsilon" with a schedule of zero terminal SNR, whose last x_t is eps itself.
    """

    def __init__(
        self,
        schedule: Schedule,
        prediction: str = "v",
        weighting: str = "uniform",
        min_snr_gamma: float = 5.0,
        min_snr_floor: float = 0.0,
        timestep_law: str = "uniform",
        logit_mean: float = 0.0,
        logit_std: float = 1.0,
    ):
        self.schedule = schedule
        self.prediction = check_name("prediction", prediction, PREDICTIONS)
        self.weighting = check_name("weighting", weighting, WEIGHTINGS)
        self.timestep_law = check_name("timestep_law", timestep_law, TIMESTEP_LAWS)
        if prediction == "epsilon" and schedule.zero_terminal_snr:
            raise UserError(
                "prediction='epsilon' cannot be sampled with zero_terminal_snr=True: the last x_t is eps itself, and "
                "x_0 cannot be computed from it. Use prediction='v' or 'x0', or zero_terminal_snr=False."
            )
        if min_snr_gamma <= 0:
            raise UserError(f"min_snr_gamma={min_snr_gamma} must be positive (the paper's value is 5).")
        if not 0 <= min_snr_floor <= min_snr_gamma:
            raise UserError(f"min_snr_floor={min_snr_floor} must be from 0 to min_snr_gamma={min_snr_gamma}.")
        self.min_snr_gamma, self.min_snr_floor = min_snr_gamma, min_snr_floor
        self.logit_mean, self.logit_std = logit_mean, logit_std

    def check_trainable(self) -> None:
        """See that every timestep that is sampled is trained.

        Raises:
            ValueError: weights that are 0 where sampling starts.
        """
        unfloored = self.weighting == "min_snr" and self.min_snr_floor == 0 and self.prediction != "epsilon"
        if unfloored and self.schedule.zero_terminal_snr:
            raise UserError(
                "weighting='min_snr' gives the last timestep of a schedule with zero_terminal_snr=True no weight, and "
                "every image starts there. Set model.objective.min_snr_floor=1.0, or weighting=uniform."
            )

    # --- noising and targets -------------------------------------------------------------------------------------

    def draw_timesteps(self, num: int, generator: torch.Generator) -> Tensor:
        """Timesteps int64 [num] on the generator's device."""
        if self.timestep_law == "uniform":
            return torch.randint(self.schedule.num_timesteps, (num,), generator=generator, device=generator.device)
        if self.timestep_law == "stratified":
            places = torch.randperm(num, generator=generator, device=generator.device) / num
            return self.timesteps_at((torch.rand(1, generator=generator, device=generator.device) + places) % 1)
        normal = torch.randn(num, generator=generator, device=generator.device)
        log_snr = -2 * (self.logit_mean + self.logit_std * normal.cpu().double())  # of (1 - u) / u, squared
        ascending = self.schedule.snr(torch.arange(self.schedule.num_timesteps)).log().flip(0)
        nearest = torch.searchsorted((ascending[1:] + ascending[:-1]) / 2, log_snr)
        return (self.schedule.num_timesteps - 1 - nearest).to(generator.device)

    def timesteps_at(self, fraction: Tensor) -> Tensor:
        """Timesteps int64 at fractions of their number, each in [0, 1]."""
        return (fraction * self.schedule.num_timesteps).long().clamp_(0, self.schedule.num_timesteps - 1)

    def q_sample(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t of Ho et al., eq. 4: sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps."""
        a, s = self.schedule.coefficients(t, x_0)
        return a * x_0 + s * eps

    def target(self, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What the network should output: eps (Ho et al., eq. 14), x_0, or v (Salimans & Ho, section 4)."""
        if self.prediction == "epsilon":
            return eps
        if self.prediction == "x0":
            return x_0
        a, s = self.schedule.coefficients(t, x_0)
        return a * eps - s * x_0

    # --- converters: prediction of any kind -> x_0, eps, v ---------------------------------------------------------

    def to_x0(self, x_t: Tensor, t: Tensor, prediction: Tensor) -> Tensor:
        """x_0 that the network's output stands for (Ho et al., eq. 15; Salimans & Ho, section 4: a x_t - s v)."""
        a, s = self.schedule.coefficients(t, x_t)
        if self.prediction == "epsilon":
            return (x_t - s * prediction) / a
        return prediction if self.prediction == "x0" else a * x_t - s * prediction

    def to_eps(self, x_t: Tensor, t: Tensor, prediction: Tensor) -> Tensor:
        """Noise that the network's output stands for (eq. 4 solved for eps; s x_t + a v)."""
        a, s = self.schedule.coefficients(t, x_t)
        if self.prediction == "x0":
            return (x_t - a * prediction) / s
        return prediction if self.prediction == "epsilon" else s * x_t + a * prediction

    def to_v(self, x_t: Tensor, t: Tensor, prediction: Tensor) -> Tensor:
        """v that the network's output stands for: a eps - s x_0."""
        if self.prediction == "v":
            return prediction
        a, s = self.schedule.coefficients(t, x_t)
        return a * self.to_eps(x_t, t, prediction) - s * self.to_x0(x_t, t, prediction)

    def from_x0(self, x_t: Tensor, t: Tensor, x_0: Tensor) -> Tensor:
        """The network's output that stands for x_0 at x_t: inverse of `to_x0`."""
        a, s = self.schedule.coefficients(t, x_t)
        return self.target(x_0, (x_t - a * x_0) / s, t)

    # --- loss ------------------------------------------------------------------------------------------------------

    def weight(self, t: Tensor) -> Tensor:
        """Weight of the squared error of this prediction, float [B].

        "uniform" is 1. "min_snr" is Hang et al., section 3.4: min(snr, gamma) on the error of x_0, hence
        min(snr, gamma) / snr on that of eps and min(snr, gamma) / (snr + 1) on that of v. Differs from the paper where
        there is a floor: max(min(snr, gamma), floor) stands for min(snr, gamma).
        """
        snr = self.schedule.snr(t)
        if self.weighting == "uniform":
            return torch.ones_like(snr)
        clipped = snr.clamp(self.min_snr_floor, self.min_snr_gamma)
        if self.prediction == "epsilon":
            return clipped / snr
        return clipped if self.prediction == "x0" else clipped / (snr + 1)

    def loss(self, prediction: Tensor, x_0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Weighted mean squared error, float32 [B]: mean over the latent's values (Ho et al., eq. 14, up to weight)."""
        error = (prediction.float() - self.target(x_0, eps, t).float()).square().flatten(1).mean(1)
        return self.weight(t).to(error.dtype) * error
