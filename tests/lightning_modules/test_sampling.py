"""The sampling loop against the analytic score of a Gaussian mixture, and its promises on seeds and guidance."""

from itertools import pairwise

import pytest
import torch
from refusals import refuses

from lightning_modules.diffusion.objective import Objective
from lightning_modules.diffusion.sampling import SCHEDULERS, build_scheduler, draw_noise, guided, sample
from lightning_modules.diffusion.schedule import Schedule
from lightning_modules.diffusion.spacing import spaced_timesteps
from lightning_modules.networks.unet import UNet
from lightning_modules.randomness import image_generators


@pytest.mark.parametrize("prediction, zero_terminal_snr", [("epsilon", False), ("x0", True), ("v", False), ("v", True)])
@pytest.mark.parametrize("name, num_steps", [("ddim", 100), ("dpm_solver", 25), ("ddpm", 125)])
def test_reaches_the_mixtures_mean_and_covariance(build, name, num_steps, prediction, zero_terminal_snr):
    objective = Objective(Schedule("cosine", zero_terminal_snr=zero_terminal_snr), prediction)
    num = 1500 if name == "ddpm" else 4000  # ddpm draws one small tensor an image and step
    noise = torch.randn(num, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    generators = image_generators(range(num)) if name == "ddpm" else None
    scheduler = build_scheduler(name, objective, num_steps)
    x_0 = sample(
        build.mixture_denoiser(objective), noise, torch.zeros(num, 1), None, scheduler, num_steps, generators=generators
    ).flatten(1)
    mean = build.means.mean(0)
    covariance = build.std**2 * torch.eye(2) + torch.cov(build.means.T, correction=0)
    assert (x_0.mean(0) - mean).abs().max() < 0.08
    assert (torch.cov(x_0.T) - covariance).abs().max() < 0.12


def linear_denoiser(x_t, t, cond):
    return 0.3 * x_t + cond.view(-1, 1, 1, 1)


def run(denoiser=linear_denoiser, **arguments):
    noise = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    cond, uncond = torch.full((3, 1), 0.5), torch.full((3, 1), -0.2)
    objective = Objective(Schedule())
    settings = {"cond": cond, "uncond": uncond, "num_steps": 10} | arguments
    return sample(denoiser, noise, scheduler=build_scheduler("ddim", objective, 10), **settings)


def test_guidance_one_is_conditional_and_zero_unconditional():
    uncond = torch.full((3, 1), -0.2)
    assert torch.equal(run(guidance=1.0), run(uncond=None))
    assert torch.equal(run(guidance=0.0), run(cond=uncond, uncond=None))
    # Linear in the conditioning: guidance 3 is the model at uncond + 3 (cond - uncond).
    torch.testing.assert_close(run(guidance=3.0), run(cond=torch.full((3, 1), 1.9), uncond=None))


def test_rescaled_guidance_has_the_deviation_of_none_and_its_direction():
    def denoiser(x_t, t, cond):
        return x_t * cond[:, 0].view(-1, 1, 1, 1)

    x, t, cond = torch.randn(3, 2, 8, 8), torch.zeros(3), torch.tensor([[1.0], [2.0], [3.0]])
    for w in (1.5, 4.0):
        free = guided(denoiser, x, t, cond, torch.zeros(3, 1), w)
        for rescale in (0.0, 0.7, 1.0):
            found = guided(denoiser, x, t, cond, torch.zeros(3, 1), w, rescale)
            torch.testing.assert_close(found, free * (1 - rescale + rescale / w))


def test_guidance_only_inside_the_interval_costs_two_passes_there_and_one_elsewhere():
    seen = {}

    def counting(x_t, t, cond):
        seen[int(t[0])] = len(x_t)
        return linear_denoiser(x_t, t, cond)

    inside = run(counting, guidance=2.0, interval=(0.25, 0.65))
    assert seen == {t: 6 if 250 <= t <= 649 else 3 for t in range(99, 1000, 100)}
    assert not torch.allclose(inside, run(guidance=2.0))
    assert torch.equal(run(guidance=2.0, interval=(0.0, 0.05)), run())


@pytest.mark.parametrize("name", SCHEDULERS)
def test_image_i_depends_on_seed_i_alone(name):
    torch.manual_seed(0)
    network = UNet(2, 8, 4, channels=(8, 16), layers_per_block=1, attention_levels=(1,), head_dim=8, norm_groups=4)
    torch.nn.init.normal_(network.unet.conv_out.weight, std=0.05)
    objective = Objective(Schedule("scaled_linear"), "v")
    seeds = list(range(40, 48))
    cond = torch.randn(8, 4)

    def images(rows):
        generators = image_generators([seeds[i] for i in rows])
        noise = draw_noise((2, 8, 8), generators, "cpu")
        torch.rand(1)  # the global stream plays no part
        scheduler = build_scheduler(name, objective, 5)
        return noise, sample(network, noise, cond[rows], 0 * cond[rows], scheduler, 5, 2.0, (0, 1), generators)

    noise, whole = images(list(range(8)))
    for size in (1, 3):
        parts = [images(list(range(8))[i : i + size]) for i in range(0, 8, size)]
        assert torch.equal(torch.cat([part[0] for part in parts]), noise)
        assert (torch.cat([part[1] for part in parts]) - whole).abs().max() < 1 / 255


def test_a_scheduler_is_the_objectives_own():
    objective = Objective(Schedule("cosine", zero_terminal_snr=True), "v")
    for name in SCHEDULERS:
        scheduler = build_scheduler(name, objective, 50)
        assert (scheduler.alphas_cumprod.double() - objective.schedule.alpha_bar).abs().max() < 1e-6
        scheduler.set_timesteps(50)
        assert scheduler.timesteps[0] == 999


def deviation(name, num_steps, spacing="trailing", std=0.1, zero_terminal_snr=False, num=4000):
    """Of samples of N(0, std^2) by a network that knows it, over that of the distribution."""
    objective = Objective(Schedule("scaled_linear", zero_terminal_snr=zero_terminal_snr), "v")

    def denoise(x_t, t, cond):
        alpha_bar = objective.schedule.alpha_bar[t.long()].view(-1, 1, 1, 1)
        x_0 = alpha_bar.sqrt() * std**2 / (alpha_bar * std**2 + 1 - alpha_bar) * x_t.double()
        return objective.from_x0(x_t.double(), t.long(), x_0).float()

    noise = torch.randn(num, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    scheduler = build_scheduler(name, objective, num_steps)
    x_0 = sample(denoise, noise, torch.zeros(num, 1), None, scheduler, num_steps, spacing=spacing)
    return float(x_0.std() / noise.std()) / std


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
@pytest.mark.parametrize("spacing", ["log_snr", "karras"])
def test_ten_steps_keep_fine_structure(spacing, zero_terminal_snr):
    """Which those that are even in t average away: their last one starts at sigma 0.34."""
    assert deviation("dpm_solver", 10, zero_terminal_snr=zero_terminal_snr) < 0.5
    assert 0.9 < deviation("dpm_solver", 10, spacing, zero_terminal_snr=zero_terminal_snr) < 1.1


@pytest.mark.parametrize("num_steps", [150, 350, 600])
def test_ddim_leaves_no_noise_where_steps_do_not_divide_the_timesteps(num_steps):
    """Of so fine a structure even a thousand steps lose some, none may add any."""
    assert 0.3 < deviation("ddim", num_steps, std=0.05, num=1000) < 1.01


def test_ddim_is_the_solver_of_first_order():
    """So that one may stand for the other: at a number of steps that both take they agree."""
    objective = Objective(Schedule(), "v")
    first_order = build_scheduler("ddim", objective, 9)
    found = [
        sample(linear_denoiser, torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0)),
               torch.full((3, 1), 0.5), None, scheduler, 10)
        for scheduler in (build_scheduler("ddim", objective, 10), first_order)
    ]  # fmt: skip
    assert type(first_order) is not type(build_scheduler("ddim", objective, 10))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
@pytest.mark.parametrize("name", ["scaled_linear", "linear", "cosine"])
@pytest.mark.parametrize("spacing", ["log_snr", "karras"])
def test_spaced_timesteps_descend_from_the_last_to_the_first(name, spacing, zero_terminal_snr):
    alpha_bar = Schedule(name, zero_terminal_snr=zero_terminal_snr).alpha_bar
    for num_steps in (1, 2, 3, 10, 50, 999, 1000):
        steps = spaced_timesteps(alpha_bar, num_steps, spacing)
        assert len(steps) == num_steps and steps[0] == 999 and all(0 <= b < a for a, b in pairwise(steps))
        assert num_steps < 3 or steps[-1] == 0
    sigma = ((1 - alpha_bar) / alpha_bar).sqrt()[spaced_timesteps(alpha_bar, 8, spacing)]
    scaled = sigma.log() if spacing == "log_snr" else sigma ** (1 / 7)
    gaps = scaled[:-1] - scaled[1:]
    assert (gaps[1:] / gaps[1:].mean() - 1).abs().max() < 0.25, "steps are even, up to rounding; the first may differ"


def test_errors_name_the_value_and_the_remedy():
    with refuses(ValueError, "scheduler='ddmp'", "'ddpm'"):
        build_scheduler("ddmp", Objective(Schedule()), 10)
    with refuses(ValueError, "num_steps=2000", "1..1000"):
        run(num_steps=2000)
    with refuses(ValueError, "spacing='karras'", "scheduler='dpm_solver'", "'ddim'"):
        run(spacing="karras")
    with refuses(ValueError, "guidance_interval=(0.5, 0.2)"):
        run(guidance=2.0, interval=(0.5, 0.2))
    with refuses(ValueError, "guidance=2.0", "uncond"):
        run(guidance=2.0, uncond=None)
    with refuses(ValueError, "seeds[1]=4294967296"):
        image_generators([0, 2**32])
