"""Coverage in closed form, against a slow oracle, and where its authors' code goes wrong."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refuses

from callbacks.metrics.coverage import coverage


def test_on_a_line_it_is_known():
    """Real images at 0, 1 ... 9, the first neighbour 1 away: a generated one covers three, at an end two."""
    real = torch.arange(10.0)[:, None]
    assert coverage(real, torch.tensor([[4.0]]), nearest=1) == 0.3
    assert coverage(real, torch.tensor([[0.0]]), nearest=1) == 0.2
    assert coverage(real, torch.tensor([[4.0], [0.0], [4.0]]), nearest=1) == 0.5
    assert coverage(real, torch.tensor([[-1.5], [99.0]]), nearest=1) == 0.0


def test_copies_of_the_real_images_cover_all_of_them():
    """With duplicates among them too: the authors' strict comparison has 0 there."""
    real = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).repeat_interleave(7, dim=0)
    assert coverage(real, real) == 1.0
    assert coverage(real, real[:7]) == 7 / 140


def test_fewer_kinds_cover_less():
    generator = torch.Generator().manual_seed(0)
    real, generated = torch.randn(200, 4, generator=generator), torch.randn(200, 4, generator=generator)
    collapsed = generated[:4].repeat(50, 1)
    assert coverage(real, generated) > 0.9
    assert coverage(real, collapsed) < 0.3


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(1, 9), st.data())
def test_it_is_that_of_a_loop(seed, num_real, num_generated, data):
    draw = np.random.default_rng(seed)
    real, generated = draw.integers(0, 5, (num_real, 2)), draw.integers(0, 5, (num_generated, 2))
    nearest = data.draw(st.integers(1, num_real - 1))
    covered = 0
    for i in range(num_real):
        others = sorted(np.hypot(*(real[i] - real[j])) for j in range(num_real) if j != i)
        covered += any(np.hypot(*(real[i] - one)) <= others[nearest - 1] for one in generated)
    found = coverage(torch.from_numpy(real), torch.from_numpy(generated), nearest)
    assert found == pytest.approx(covered / num_real, abs=1e-12)


@pytest.mark.parametrize("shapes", [((5, 2), (5, 3), 1), ((5, 2), (0, 2), 1), ((5, 2), (4, 2), 5), ((5, 2), (4, 2), 0)])
def test_what_means_nothing_is_refused(shapes):
    real, generated, nearest = torch.zeros(shapes[0]), torch.zeros(shapes[1]), shapes[2]
    with refuses(ValueError, *(shapes[:2] if nearest == 1 else ("nearest", nearest))):
        coverage(real, generated, nearest)
