"""RePaint against the conditional law of a Gaussian, and what its regions and its schedule of jumps are."""

import pytest
import torch
from refusals import refuses

from datamodules.errors import UserError
from lightning_modules.diffusion.objective import Objective
from lightning_modules.diffusion.repaint import repaint, visited_levels
from lightning_modules.diffusion.sampling import draw_noise
from lightning_modules.diffusion.schedule import Schedule
from lightning_modules.diffusion.spacing import spaced_timesteps
from lightning_modules.randomness import image_generators

CORRELATION, KNOWN, NUM = 0.9, 1.5, 600


def gaussian_network(objective):
    """A network that knows: E[x_0 | x_t] of two cells of unit variance that go together."""
    covariance = torch.tensor([[1.0, CORRELATION], [CORRELATION, 1.0]], dtype=torch.float64)

    def predict(x_t, t):
        alpha_bar = float(objective.schedule.alpha_bar[int(t)])
        noisy = alpha_bar * covariance + (1 - alpha_bar) * torch.eye(2)
        x_0 = x_t.double().flatten(1) @ (alpha_bar**0.5 * covariance @ torch.linalg.inv(noisy)).T
        times = torch.full((len(x_t),), int(t))
        return objective.from_x0(x_t.double(), times, x_0.view_as(x_t)).float()

    return predict


def painted(prediction="v", num_steps=20, seeds=range(NUM), **settings):
    objective = Objective(Schedule("cosine", zero_terminal_snr=prediction == "x0"), prediction)
    known, unknown = torch.full((len(seeds), 1, 1, 2), KNOWN), torch.zeros(len(seeds), 1, 1, 2, dtype=torch.bool)
    unknown[..., 1] = True
    generators = image_generators(seeds)
    noise = draw_noise((1, 1, 2), generators, "cpu")
    timesteps = spaced_timesteps(objective.schedule.alpha_bar, num_steps, "log_snr")
    return repaint(
        gaussian_network(objective), noise, known, unknown, objective, timesteps, generators, **settings
    ).flatten(1)


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_unknown_part_has_the_conditional_law(prediction, eta):
    x_0 = painted(prediction, eta=eta, jump_length=2, num_resamples=10)
    assert (x_0[:, 0] == KNOWN).all()
    assert float(x_0[:, 1].mean()) == pytest.approx(CORRELATION * KNOWN, abs=0.12)
    assert float(x_0[:, 1].std()) == pytest.approx((1 - CORRELATION**2) ** 0.5, abs=0.12)


def test_resampling_makes_both_parts_go_together():
    once, often = (painted(num_resamples=number)[:, 1].mean() for number in (1, 10))
    assert abs(often - CORRELATION * KNOWN) < 0.5 * abs(once - CORRELATION * KNOWN)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_an_image_follows_from_its_seed_alone(eta):
    whole = painted(seeds=range(5), eta=eta)
    assert torch.equal(painted(seeds=range(5), eta=eta), whole)
    assert torch.allclose(painted(seeds=[3], eta=eta), whole[3:4], atol=1e-6)
    assert len(whole[:, 1].unique()) == 5


def test_each_part_of_the_way_is_gone_as_often_as_asked():
    assert visited_levels(4, 1, 1) == [4, 3, 2, 1, 0]
    assert visited_levels(4, 2, 2) == [4, 3, 2, 1, 3, 2, 1, 0]
    assert visited_levels(3, 1, 2) == [3, 2, 3, 2, 1, 2, 1, 0]
    assert visited_levels(2, 5, 9) == [2, 1, 0]
    levels = visited_levels(25, 4, 5)
    downwards = [(a, b) for a, b in zip(levels, levels[1:], strict=False) if b < a]
    for level in range(2, 22):
        assert downwards.count((level, level - 1)) == 5
    assert set(downwards) == {(level, level - 1) for level in range(1, 26)}


def test_numbers_that_mean_nothing():
    for name in ("jump_length", "num_resamples"):
        with refuses(UserError, f"{name}=0"):
            painted(**{name: 0})


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_at_every_timestep_both_parts_have_its_noise(eta):
    """Seen by a network that knows independent cells of unit variance: with small steps no visit changes their law."""
    objective, seen = Objective(Schedule("cosine"), "v"), []

    def predict(x_t, t):
        seen.append((t, x_t.flatten(1)))
        times, a = torch.full((len(x_t),), t), float(objective.schedule.alpha_bar[t]) ** 0.5
        return objective.from_x0(x_t, times, a * x_t)

    generators = image_generators(range(NUM))
    known, unknown = torch.full((NUM, 1, 1, 2), KNOWN), torch.tensor([False, True]).expand(NUM, 1, 1, 2)
    noise, timesteps = draw_noise((1, 1, 2), generators, "cpu"), list(range(999, 0, -20))
    repaint(predict, noise, known, unknown, objective, timesteps, generators, eta, jump_length=10, num_resamples=3)
    levels = visited_levels(50, 10, 3)
    downwards = [level for level, after in zip(levels, levels[1:], strict=False) if after < level]
    assert [t for t, _ in seen] == [timesteps[-level] for level in downwards]
    for t, x_t in seen[1:]:
        alpha_bar = float(objective.schedule.alpha_bar[t])
        assert float(x_t[:, 0].mean()) == pytest.approx(alpha_bar**0.5 * KNOWN, abs=0.15)
        assert float(x_t[:, 0].std()) == pytest.approx((1 - alpha_bar) ** 0.5, abs=0.1)
        assert float(x_t[:, 1].std()) == pytest.approx(1, abs=0.13), t
