"""Sampling: a pure loop over a diffusers scheduler, with classifier-free guidance and one generator an image.

Legend:
    x_t         latents at timestep t [B, C, h, w], float32 throughout
    t           timestep, T-1 the noisiest, 0 the cleanest
    cond        conditioning vectors [B, D]; uncond the same with every label unknown
    w           guidance: 1 is the conditional model, 0 the unconditional
Sources: Ho & Salimans 2022 (arXiv 2207.12598), eq. 6, whose w is ours less 1; Kynkäänniemi et al. 2024
(arXiv 2404.07724); Ho et al. 2020 (DDPM), Song et al. 2021 (DDIM, arXiv 2010.02502), Lu et al. 2022
(DPM-Solver++, arXiv 2211.01095).
"""

from collections.abc import Callable, Sequence

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, SchedulerMixin
from torch import Tensor

from lightning_modules.diffusion.objective import Objective
from lightning_modules.names import check_name

Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x_t [B, C, h, w], t float32 [B], cond [B, D]) -> [B, C, h, w]

SCHEDULERS = {
    "ddpm": (DDPMScheduler, {"clip_sample": False}),
    "ddim": (DDIMScheduler, {"clip_sample": False}),
    "dpm_solver": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
}
DIFFUSERS_PREDICTION = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}


def build_scheduler(name: str, objective: Objective) -> SchedulerMixin:
    """A fresh scheduler (they keep state) with the objective's schedule and prediction; spacing "trailing".

    "ddpm" is stochastic; "ddim" (eta 0) and "dpm_solver" (DPM-Solver++ 2M) are deterministic given the first noise.
    "Trailing" spacing starts at the last timestep (Lin et al. 2024, arXiv 2305.08891, table 2).

    Raises:
        ValueError: unknown name.
    """
    scheduler, options = SCHEDULERS[check_name("scheduler", name, SCHEDULERS)]
    return scheduler(
        num_train_timesteps=objective.schedule.num_timesteps,
        trained_betas=objective.schedule.betas.tolist(),
        rescale_betas_zero_snr=objective.schedule.zero_terminal_snr,
        prediction_type=DIFFUSERS_PREDICTION[objective.prediction],
        timestep_spacing="trailing",
        **options,
    )


def draw_noise(shape: Sequence[int], generators: Sequence[torch.Generator], device: torch.device | str) -> Tensor:
    """Standard normal float32 [len(generators), *shape]: image i from generator i alone."""
    return torch.stack([torch.randn(*shape, generator=g, device=g.device) for g in generators]).to(device)


def check_sampling(num_steps: int, guidance: float, interval: tuple[float, float], num_timesteps: int) -> None:
    """Raise ValueError for a number of steps, a guidance or an interval that means nothing."""
    if not 1 <= num_steps <= num_timesteps:
        raise ValueError(f"num_steps={num_steps} must be in 1..{num_timesteps}, the schedule's timesteps.")
    if guidance < 0:
        raise ValueError(f"guidance={guidance} must be 0 (unconditional), 1 (conditional) or more (guided).")
    low, high = interval
    if not 0 <= low <= high <= 1:
        raise ValueError(f"guidance_interval=({low}, {high}): need 0 <= low <= high <= 1, fractions of the timesteps.")


def guided(denoiser: Denoiser, x_t: Tensor, t: Tensor, cond: Tensor, uncond: Tensor | None, w: float) -> Tensor:
    """Prediction under guidance w, float32: uncond + w (cond - uncond); one pass where w is 0 or 1, else one of 2 B."""
    if w == 1:
        return denoiser(x_t, t, cond).float()
    if w == 0:
        return denoiser(x_t, t, uncond).float()
    both = denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([cond, uncond])).float()
    with_labels, without = both.chunk(2)
    return without + w * (with_labels - without)


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

    Raises:
        ValueError: guidance without `uncond`, a stochastic scheduler without generators, sizes that disagree.
    """
    num_timesteps = scheduler.config.num_train_timesteps
    check_sampling(num_steps, guidance, interval, num_timesteps)
    if guidance != 1 and uncond is None:
        raise ValueError(f"guidance={guidance} needs the unconditional conditioning `uncond`; it is None.")
    if generators is not None and len(generators) != len(noise):
        raise ValueError(f"{len(generators)} generators for {len(noise)} images: give one an image.")
    if generators is None and isinstance(scheduler, DDPMScheduler):
        raise ValueError("the 'ddpm' scheduler adds noise: give one generator an image.")
    stepping = {} if isinstance(scheduler, DDIMScheduler) else {"generator": list(generators) if generators else None}
    scheduler.set_timesteps(num_steps)  # kept on the CPU: a step costs no synchronisation
    low, high = (bound * (num_timesteps - 1) for bound in interval)
    x_t = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        t = torch.full((len(x_t),), float(timestep), device=x_t.device)
        w = guidance if low <= timestep <= high else 1.0
        prediction = guided(denoiser, x_t, t, cond, uncond, w)
        x_t = scheduler.step(prediction, timestep, x_t, return_dict=False, **stepping)[0]
    return x_t
