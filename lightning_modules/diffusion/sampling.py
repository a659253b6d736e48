"""Sampling: a pure loop over a diffusers scheduler, with classifier-free guidance and one generator an image.

Legend:
    x_t         latents at timestep t [B, C, h, w], float32 throughout
    t           timestep, T-1 the noisiest, 0 the cleanest
    cond        conditioning vectors [B, D]; uncond the same with every label unknown
    w           guidance: 1 is the conditional model, 0 the unconditional
Sources: Ho & Salimans 2022 (arXiv 2207.12598), eq. 6, whose w is ours less 1; Kynkäänniemi et al. 2024 (arXiv
2404.07724); Dhariwal & Nichol 2021 (arXiv 2105.05233); Ho et al. 2020 (DDPM), Song et al. 2021 (DDIM, arXiv
2010.02502), Lu et al. 2022 (DPM-Solver++, arXiv 2211.01095).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, SchedulerMixin
from torch import Tensor

from datamodules.errors import UserError
from lightning_modules.diffusion.objective import Objective
from lightning_modules.diffusion.spacing import LARGEST_SIGMA, SPACINGS, spaced_timesteps
from lightning_modules.names import check_name

Gradient = Callable[[Tensor, Tensor], Tensor]  # (x_t [B, C, h, w], t float32 [B]) -> [B, C, h, w]
Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x_t [B, C, h, w], t float32 [B], cond [B, D]) -> [B, C, h, w]

SCHEDULERS = {
    "ddpm": (DDPMScheduler, {"clip_sample": False}),
    "ddim": (DDIMScheduler, {"clip_sample": False}),
    "dpm_solver": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
}
DIFFUSERS_PREDICTION = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}


def build_scheduler(name: str, objective: Objective, num_steps: int) -> SchedulerMixin:
    """A fresh scheduler (they keep state) with the objective's schedule and prediction, for so many steps.

    "ddpm" is stochastic; "ddim" (eta 0) and "dpm_solver" (DPM-Solver++ 2M) are deterministic given the first noise.
    Diffusers' DDIM goes down by T // num_steps, and leaves noise where that is no step of its own timesteps: for such a
    number "ddim" is DPM-Solver++ of first order, which is the same (Lu et al. 2022, section 4.1).

    Raises:
        ValueError: unknown name.
    """
    scheduler, options = SCHEDULERS[check_name("scheduler", name, SCHEDULERS)]
    if name == "ddim" and objective.schedule.num_timesteps % num_steps:
        scheduler, options = DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 1}
    return scheduler(
        num_train_timesteps=objective.schedule.num_timesteps,
        trained_betas=objective.schedule.betas.tolist(),
        rescale_betas_zero_snr=objective.schedule.zero_terminal_snr,
        prediction_type=DIFFUSERS_PREDICTION[objective.prediction],
        timestep_spacing="trailing",
        **options,
    )


def default_spacing(scheduler: str) -> str:
    """The spacing of timesteps that is best for a scheduler."""
    return "log_snr" if scheduler == "dpm_solver" else "trailing"


def set_timesteps(scheduler: SchedulerMixin, num_steps: int, spacing: str) -> None:
    """Give a scheduler the timesteps of a sampling."""
    if spacing == "trailing":
        scheduler.set_timesteps(num_steps)
    else:
        scheduler.set_timesteps(timesteps=spaced_timesteps(scheduler.alphas_cumprod, num_steps, spacing))


def draw_noise(shape: Sequence[int], generators: Sequence[torch.Generator], device: torch.device | str) -> Tensor:
    """Standard normal float32 [len(generators), *shape]: image i from generator i alone."""
    return torch.stack([torch.randn(*shape, generator=g, device=g.device) for g in generators]).to(device)


def check_sampling(
    scheduler: str, num_steps: int, spacing: str, guidance: float, interval: tuple[float, float], num_timesteps: int
) -> None:
    """Raise ValueError for names that there are not, and for numbers that mean nothing or do not go together."""
    check_name("scheduler", scheduler, SCHEDULERS)
    if check_name("spacing", spacing, SPACINGS) != "trailing" and scheduler != "dpm_solver":
        raise UserError(f"spacing={spacing!r} needs scheduler='dpm_solver'; {scheduler!r} has 'trailing' alone.")
    if not 1 <= num_steps <= num_timesteps:
        raise UserError(f"num_steps={num_steps} must be in 1..{num_timesteps}, the schedule's timesteps.")
    if guidance < 0:
        raise UserError(f"guidance={guidance} must be 0 (unconditional), 1 (conditional) or more (guided).")
    check_interval("guidance_interval", interval)


def check_interval(name: str, interval: tuple[float, float]) -> None:
    """Raise ValueError for what is no interval of fractions of the timesteps."""
    low, high = interval
    if not 0 <= low <= high <= 1:
        raise UserError(f"{name}=({low}, {high}): need 0 <= low <= high <= 1, fractions of the timesteps.")


class ClassifierGuidance(NamedTuple):
    """Towards what a classifier of noised latents takes for the labels (Dhariwal & Nichol 2021, algorithm 2).

    `gradient` is that of the log-probability of the labels by x_t, `interval` where in the timesteps it acts.
    """

    gradient: Gradient
    scale: float
    interval: tuple[float, float] = (0.0, 1.0)

    def added(self, x_t: Tensor, t: Tensor, scheduler: SchedulerMixin) -> Tensor | float:
        """What is added to the network's prediction at a timestep, all of `t` the same; 0 where it does not act."""
        timestep, last = float(t[0]), scheduler.config.num_train_timesteps - 1
        alpha_bar = float(scheduler.alphas_cumprod[int(timestep)])
        low, high = self.interval
        sigma = ((1 - alpha_bar) / max(alpha_bar, 1e-12)) ** 0.5
        if not low * last <= timestep <= high * last or sigma > LARGEST_SIGMA:
            return 0.0
        # eps falls by s times the gradient; what x_0 and v are then follows from x_t = a x_0 + s eps.
        factor = {
            "epsilon": -((1 - alpha_bar) ** 0.5),
            "sample": (1 - alpha_bar) / alpha_bar**0.5,
            "v_prediction": -sigma,
        }
        return self.scale * factor[scheduler.config.prediction_type] * self.gradient(x_t, t)


def guided(
    denoiser: Denoiser, x_t: Tensor, t: Tensor, cond: Tensor, uncond: Tensor | None, w: float, rescale: float = 0.0
) -> Tensor:
    """Prediction under guidance w, float32: uncond + w (cond - uncond); one pass where w is 0 or 1, else one of 2 B.

    `rescale` is the share to which its deviation, of each image, is brought back to that of the conditional prediction
    (Lin et al. 2024, arXiv 2305.08891, eq. 14 to 16).
    """
    if w == 1:
        return denoiser(x_t, t, cond).float()
    if w == 0:
        return denoiser(x_t, t, uncond).float()
    both = denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([cond, uncond])).float()
    with_labels, without = both.chunk(2)
    found = without + w * (with_labels - without)
    if rescale == 0:
        return found
    deviation, wanted = (part.flatten(1).std(1).view(-1, 1, 1, 1) for part in (found, with_labels))
    return found * (1 - rescale + rescale * wanted / deviation)


class Prediction(NamedTuple):
    """What the network says of x_t at a timestep under all guidance of a sampling; arguments as of `sample`."""

    denoiser: Denoiser
    scheduler: SchedulerMixin
    cond: Tensor
    uncond: Tensor | None
    guidance: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    classifier: ClassifierGuidance | None = None
    rescale: float = 0.0

    def __call__(self, x_t: Tensor, timestep: Tensor) -> Tensor:
        """x_t [B, C, h, w] at one timestep -> prediction float32 [B, C, h, w]."""
        low, high = (bound * (self.scheduler.config.num_train_timesteps - 1) for bound in self.interval)
        t = torch.full((len(x_t),), float(timestep), device=x_t.device)
        w = self.guidance if low <= timestep <= high else 1.0
        prediction = guided(self.denoiser, x_t, t, self.cond, self.uncond, w, self.rescale)
        return prediction if self.classifier is None else prediction + self.classifier.added(x_t, t, self.scheduler)


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    noise: Tensor,
    cond: Tensor,
    uncond: Tensor | None,
    scheduler: SchedulerMixin,
    num_steps: int,
    guidance: float = 1.0,
    interval: tuple[float, float] = (0.0, 1.0),
    generators: Sequence[torch.Generator] | None = None,
    spacing: str = "trailing",
    classifier: ClassifierGuidance | None = None,
    rescale: float = 0.0,
) -> Tensor:
    """Denoise from pure noise to x_0.

    Args:
        noise: x_T, standard normal [B, C, h, w]; `draw_noise` makes it from the same generators.
        cond: conditioning [B, D]; `uncond` [B, D] is needed when guidance is not 1.
        scheduler: a fresh one of `build_scheduler`.
        guidance: scale w.
        interval: (low, high) in fractions of the timesteps: w applies where low <= t / (T - 1) <= high, and 1 (the
            conditional model, one pass) elsewhere. 0 is the clean end, 1 pure noise.
            Differs from the paper, which gives the interval in noise levels sigma.
        generators: one an image, for schedulers that add noise ("ddpm").
        spacing: of the timesteps, one of SPACINGS.
        classifier: guidance besides, by the gradient of a classifier.
        rescale: of `guided`.

    Raises:
        ValueError: guidance without `uncond`, a stochastic scheduler without generators, sizes that disagree; numbers
            that `check_sampling` refuses.
    """
    num_timesteps = scheduler.config.num_train_timesteps
    name = next(name for name, (kind, _) in SCHEDULERS.items() if isinstance(scheduler, kind))
    check_sampling(name, num_steps, spacing, guidance, interval, num_timesteps)
    if guidance != 1 and uncond is None:
        raise UserError(f"guidance={guidance} needs the unconditional conditioning `uncond`; it is None.")
    if generators is not None and len(generators) != len(noise):
        raise UserError(f"{len(generators)} generators for {len(noise)} images: give one an image.")
    if generators is None and isinstance(scheduler, DDPMScheduler):
        raise UserError("the 'ddpm' scheduler adds noise: give one generator an image.")
    stepping = {} if isinstance(scheduler, DDIMScheduler) else {"generator": list(generators) if generators else None}
    set_timesteps(scheduler, num_steps, spacing)  # kept on the CPU: a step costs no synchronisation
    predict = Prediction(denoiser, scheduler, cond, uncond, guidance, interval, classifier, rescale)
    x_t = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        x_t = scheduler.step(predict(x_t, timestep), timestep, x_t, return_dict=False, **stepping)[0]
    return x_t
