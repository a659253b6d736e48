"""Schedules against diffusers', and the objective against its own inverse and the papers' closed forms."""

import diffusers
import pytest
import torch
from refusals import refuses

from lightning_modules.diffusion.objective import Objective
from lightning_modules.diffusion.schedule import Schedule

DIFFUSERS = {
    "linear": {"beta_schedule": "linear"},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 8.5e-4, "beta_end": 1.2e-2},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
@pytest.mark.parametrize("name", DIFFUSERS)
def test_alpha_bar_is_diffusers_own(name, zero_terminal_snr):
    theirs = diffusers.DDIMScheduler(**DIFFUSERS[name], rescale_betas_zero_snr=zero_terminal_snr).alphas_cumprod
    ours = Schedule(name, zero_terminal_snr=zero_terminal_snr).alpha_bar
    assert ours.dtype == torch.float64
    assert (ours - theirs.double()).abs().max() < 1e-6
    assert (ours[-1] == 0) == zero_terminal_snr


def test_unknown_names_list_the_known_ones_and_the_nearest():
    with refuses(ValueError, "schedule='cosin'", "linear, scaled_linear, cosine", "'cosine'"):
        Schedule("cosin")
    with refuses(ValueError, "prediction='eps'", "epsilon, x0, v"):
        Objective(Schedule(), prediction="eps")
    with refuses(ValueError, "prediction='epsilon'", "zero_terminal_snr=True", "prediction='v'"):
        Objective(Schedule(zero_terminal_snr=True), prediction="epsilon")


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_converters_are_inverse_of_one_another(prediction):
    objective = Objective(Schedule("scaled_linear"), prediction)
    g = torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, 64, 3, 2, 2, generator=g, dtype=torch.float64)
    t = torch.randint(1000, (64,), generator=g)
    x_t = objective.q_sample(x_0, eps, t)
    output = objective.target(x_0, eps, t)
    close = dict(rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(objective.to_x0(x_t, t, output), x_0, **close)
    torch.testing.assert_close(objective.to_eps(x_t, t, output), eps, **close)
    v = Objective(objective.schedule, "v").target(x_0, eps, t)
    torch.testing.assert_close(objective.to_v(x_t, t, output), v, **close)
    torch.testing.assert_close(objective.from_x0(x_t, t, objective.to_x0(x_t, t, output)), output, **close)


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_min_snr_weighs_the_same_error_of_x0_the_same(prediction):
    """Whatever the network predicts, the weighted loss is min(snr, gamma) |x_0 error|^2."""
    schedule = Schedule("linear")
    objective = Objective(schedule, prediction, weighting="min_snr", min_snr_gamma=5.0)
    g = torch.Generator().manual_seed(1)
    x_0, eps, error = torch.randn(3, 200, 1, 1, 1, generator=g, dtype=torch.float64)
    t = torch.arange(200) * 5
    x_t = objective.q_sample(x_0, eps, t)
    output = objective.from_x0(x_t, t, x_0 + 0.1 * error)
    snr = schedule.alpha_bar[t] / (1 - schedule.alpha_bar[t])
    expected = snr.clamp(max=5.0) * (0.1 * error).square().flatten()
    squared = (output - objective.target(x_0, eps, t)).square().flatten()
    torch.testing.assert_close(objective.weight(t) * squared, expected, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(objective.loss(output, x_0, eps, t), expected.float(), rtol=1e-2, atol=1e-5)


def test_the_floor_weighs_the_noisy_end():
    schedule, t = Schedule(zero_terminal_snr=True), torch.tensor([0, 500, 999])
    snr = schedule.snr(t)
    without = Objective(schedule, "v", weighting="min_snr")
    assert without.weight(t)[2] < 1e-6
    with refuses(ValueError, "weighting='min_snr'", "zero_terminal_snr=True", "model.objective.min_snr_floor=1.0"):
        without.check_trainable()
    with_floor = Objective(schedule, "v", weighting="min_snr", min_snr_floor=1.0)
    with_floor.check_trainable()
    torch.testing.assert_close(with_floor.weight(t), torch.maximum(snr.clamp(max=5), snr.new_tensor(1)) / (snr + 1))
    assert with_floor.weight(t)[2] == pytest.approx(1, abs=1e-6)
    with refuses(ValueError, "min_snr_floor=6", "min_snr_gamma=5.0"):
        Objective(schedule, "v", weighting="min_snr", min_snr_floor=6)


def test_timestep_laws():
    g = torch.Generator().manual_seed(0)
    uniform = Objective(Schedule()).draw_timesteps(20_000, g)
    assert uniform.min() == 0 and uniform.max() == 999 and abs(uniform.double().mean() - 499.5) < 10
    schedule = Schedule()
    normal = Objective(schedule, timestep_law="logit_normal", logit_mean=-1.0).draw_timesteps(20_000, g)
    noise_over_signal = -schedule.snr(normal).log() / 2  # log of u / (1 - u): the normal that was drawn
    assert abs(noise_over_signal.mean() + 1) < 0.03 and abs(noise_over_signal.std() - 1) < 0.03
    spread = Objective(schedule, timestep_law="stratified")
    batches = torch.stack([spread.draw_timesteps(16, g) for _ in range(500)])
    gaps = batches.sort(1).values.diff(dim=1)
    assert gaps.min() >= 62 and gaps.max() <= 63, "a batch lies evenly over the 1000"
    assert abs(batches[:, 0].double().mean() - 499.5) < 40 and abs(batches[:, 0].double().std() - 288.7) < 20
    fractions = torch.tensor([0.0, 0.2506, 1.0])
    assert Objective(Schedule()).timesteps_at(fractions).tolist() == [0, 250, 999]


def test_tables_made_in_validation_serve_training():
    objective = Objective(Schedule(), "v")
    x = torch.randn(2, 1, 1, 1)
    t = torch.tensor([1, 500])
    with torch.inference_mode():
        objective.q_sample(x, x, t)
    output = torch.randn(2, 1, 1, 1, requires_grad=True)
    objective.to_x0(x, t, output).sum().backward()
    assert output.grad is not None
