"""The sampling loop against the analytic score of a Gaussian mixture, and its promises on seeds and guidance."""

import pytest
import torch

from lightning_modules.diffusion.objective import Objective
from lightning_modules.diffusion.sampling import SCHEDULERS, build_scheduler, draw_noise, sample
from lightning_modules.diffusion.schedule import Schedule
from lightning_modules.networks.unet import UNet
from lightning_modules.randomness import image_generators

MEANS = torch.tensor([[1.5, 0.5], [-1.0, 1.0]])
STD = 0.4


def mixture_denoiser(objective):
    """Network that knows: E[x_0 | x_t] of 0.5 N(m_0, STD^2) + 0.5 N(m_1, STD^2), in the objective's prediction."""

    def denoise(x_t, t, cond):
        x = x_t.double().flatten(1)
        a = objective.schedule.alpha_bar[t.long()].sqrt()[:, None]
        variance = a**2 * STD**2 + 1 - a**2
        gaps = x[:, None] - a[:, None] * MEANS.double()  # [B, 2, 2]
        share = torch.softmax(-gaps.square().sum(-1) / (2 * variance), dim=1)[..., None]
        x_0 = (share * (MEANS.double() + a[:, None] * STD**2 / variance[:, None] * gaps)).sum(1)
        return objective.from_x0(x_t.double(), t.long(), x_0.view_as(x_t)).float()

    return denoise


@pytest.mark.parametrize("prediction, zero_terminal_snr", [("epsilon", False), ("x0", True), ("v", False), ("v", True)])
@pytest.mark.parametrize("name, num_steps", [("ddim", 100), ("dpm_solver", 25), ("ddpm", 125)])
def test_reaches_the_mixtures_mean_and_covariance(name, num_steps, prediction, zero_terminal_snr):
    objective = Objective(Schedule("cosine", zero_terminal_snr=zero_terminal_snr), prediction)
    num = 1500 if name == "ddpm" else 4000  # ddpm draws one small tensor an image and step
    noise = torch.randn(num, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    generators = image_generators(range(num)) if name == "ddpm" else None
    scheduler = build_scheduler(name, objective)
    x_0 = sample(
        mixture_denoiser(objective), noise, torch.zeros(num, 1), None, scheduler, num_steps, generators=generators
    ).flatten(1)
    mean = MEANS.mean(0)
    covariance = STD**2 * torch.eye(2) + torch.cov(MEANS.T, correction=0)
    assert (x_0.mean(0) - mean).abs().max() < 0.08
    assert (torch.cov(x_0.T) - covariance).abs().max() < 0.12


def linear_denoiser(x_t, t, cond):
    return 0.3 * x_t + cond.view(-1, 1, 1, 1)


def run(denoiser=linear_denoiser, **arguments):
    noise = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    cond, uncond = torch.full((3, 1), 0.5), torch.full((3, 1), -0.2)
    objective = Objective(Schedule())
    settings = {"cond": cond, "uncond": uncond, "num_steps": 10} | arguments
    return sample(denoiser, noise, scheduler=build_scheduler("ddim", objective), **settings)


def test_guidance_one_is_conditional_and_zero_unconditional():
    uncond = torch.full((3, 1), -0.2)
    assert torch.equal(run(guidance=1.0), run(uncond=None))
    assert torch.equal(run(guidance=0.0), run(cond=uncond, uncond=None))
    # Linear in the conditioning: guidance 3 is the model at uncond + 3 (cond - uncond).
    torch.testing.assert_close(run(guidance=3.0), run(cond=torch.full((3, 1), 1.9), uncond=None))


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
        scheduler = build_scheduler(name, objective)
        return noise, sample(network, noise, cond[rows], 0 * cond[rows], scheduler, 5, 2.0, (0, 1), generators)

    noise, whole = images(list(range(8)))
    for size in (1, 3):
        parts = [images(list(range(8))[i : i + size]) for i in range(0, 8, size)]
        assert torch.equal(torch.cat([part[0] for part in parts]), noise)
        assert (torch.cat([part[1] for part in parts]) - whole).abs().max() < 1 / 255


def test_a_scheduler_is_the_objectives_own():
    objective = Objective(Schedule("cosine", zero_terminal_snr=True), "v")
    for name in SCHEDULERS:
        scheduler = build_scheduler(name, objective)
        assert (scheduler.alphas_cumprod.double() - objective.schedule.alpha_bar).abs().max() < 1e-6
        scheduler.set_timesteps(50)
        assert scheduler.timesteps[0] == 999


def test_errors_name_the_value_and_the_remedy():
    with pytest.raises(ValueError, match="scheduler='ddmp'.*Did you mean 'ddpm'"):
        build_scheduler("ddmp", Objective(Schedule()))
    with pytest.raises(ValueError, match="num_steps=2000"):
        run(num_steps=2000)
    with pytest.raises(ValueError, match="guidance_interval"):
        run(guidance=2.0, interval=(0.5, 0.2))
    with pytest.raises(ValueError, match="uncond"):
        run(guidance=2.0, uncond=None)
    with pytest.raises(ValueError, match=r"seeds\[1\]=4294967296"):
        image_generators([0, 2**32])
