"""RePaint: denoise what is unknown of an image's latents beside what is known of them.

Legend:
    x_t         latents at timestep t [B, C, h, w]
    alpha_bar   share of the image's variance left at a timestep
    s           the timestep after t on the way down, or none: then alpha_bar is 1
    level       steps that are left: num_steps is pure noise, 0 the image
Source: Lugmayr et al. 2022 (arXiv 2201.09865), algorithm 1 and appendix B (the schedule of jumps). Differs from the
paper: timesteps are those of any spacing; a step has any eta of DDIM (Song et al. 2021, arXiv 2010.02502, eq. 12 and
16), of which 1 is the paper's; a jump over several steps draws its noise at once, which has the same law.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from datamodules.errors import UserError
from lightning_modules.diffusion.objective import Objective
from lightning_modules.diffusion.sampling import draw_noise

Predict = Callable[[Tensor, float], Tensor]  # (x_t [B, C, h, w], timestep) -> prediction of the objective's kind


def check_resampling(jump_length: int, num_resamples: int) -> None:
    """Raise UserError for numbers below 1."""
    for name, value in (("jump_length", jump_length), ("num_resamples", num_resamples)):
        if value < 1:
            raise UserError(f"{name}={value} must be at least 1.")


def visited_levels(num_steps: int, jump_length: int, num_resamples: int) -> list[int]:
    """Levels of noise from num_steps to 0, in the order in which they are visited.

    From every jump_length-th level, 1 the first, the way goes jump_length levels back and down again, until that part
    of it was gone num_resamples times.
    """
    left = dict.fromkeys(range(1, num_steps - jump_length + 1, jump_length), num_resamples - 1)
    levels = [num_steps]
    while levels[-1] > 0:
        levels.append(levels[-1] - 1)
        if left.get(levels[-1], 0):
            left[levels[-1]] -= 1
            levels.append(levels[-1] + jump_length)
    return levels


@torch.no_grad()
def repaint(
    predict: Predict,
    noise: Tensor,
    known: Tensor,
    unknown: Tensor,
    objective: Objective,
    timesteps: Sequence[int],
    generators: Sequence[torch.Generator],
    eta: float = 0.0,
    jump_length: int = 2,
    num_resamples: int = 4,
) -> Tensor:
    """Sample the unknown part of x_0 beside the known one.

    Args:
        predict: the network under all guidance, such as a `Prediction`.
        noise: standard normal [B, C, h, w].
        known: x_0 [B, C, h, w], which counts where `unknown` is False.
        unknown: bool [B, C, h, w], what is sampled.
        objective: what the network predicts, and the schedule.
        timesteps: descending; the network is called at each of them, and again after jumps.
        generators: one an image.
        eta: noise of a step: 0 is DDIM, 1 the ancestral step of DDPM.
        jump_length, num_resamples: of `visited_levels`.

    Returns:
        x_0 [B, C, h, w], which is `known` where it is known.
    """
    check_resampling(jump_length, num_resamples)
    alpha_bars = [1.0, *(float(objective.schedule.alpha_bar[t]) for t in reversed(timesteps))]  # by level

    def drawn() -> Tensor:
        return draw_noise(noise.shape[1:], generators, noise.device)

    levels = visited_levels(len(timesteps), jump_length, num_resamples)
    x = noise
    for level, following in zip(levels, levels[1:], strict=False):
        here, there = alpha_bars[level], alpha_bars[following]
        if following > level:  # lines 8 and 9: noise is added again
            x = (there / here) ** 0.5 * x + (1 - there / here) ** 0.5 * drawn()
            continue
        t = timesteps[-level]
        times, prediction = torch.full((len(x),), t, device=x.device), predict(x, t)
        sigma = eta * ((1 - there) / (1 - here) * (1 - here / there)) ** 0.5
        direction = max(1 - there - sigma**2, 0.0) ** 0.5
        x_0, eps = objective.to_x0(x, times, prediction), objective.to_eps(x, times, prediction)
        x = there**0.5 * x_0 + direction * eps  # line 6
        beside = known
        if following:
            x = x + sigma * drawn() if sigma else x
            beside = there**0.5 * known + (1 - there) ** 0.5 * drawn()  # line 4
        x = torch.where(unknown, x, beside)  # line 7
    return x
