"""Kernel distance: a slow oracle, torchmetrics on the same features, no bias on small sets."""

import pytest
import torch
from refusals import refuses

from callbacks.metrics.kernel import kernel_distance


def slow_distance(rows_a, rows_b):
    def kernel(x, y):
        return (float(x @ y) / len(x) + 1) ** 3

    within = 0.0
    for rows in (rows_a, rows_b):
        pairs = [kernel(rows[i], rows[j]) for i in range(len(rows)) for j in range(len(rows)) if i != j]
        within += sum(pairs) / len(pairs)
    across = [kernel(x, y) for x in rows_a for y in rows_b]
    return within - 2 * sum(across) / len(across)


def draw(num, seed, shift=0.0):
    return torch.randn(num, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def test_agrees_with_the_double_loop():
    assert kernel_distance(draw(9, 0), draw(7, 1, 0.3)) == pytest.approx(slow_distance(draw(9, 0), draw(7, 1, 0.3)))


def test_agrees_with_torchmetrics():
    poly_mmd = pytest.importorskip("torchmetrics.image.kid").poly_mmd
    assert kernel_distance(draw(12, 2), draw(12, 3, 0.5)) == pytest.approx(
        float(poly_mmd(draw(12, 2), draw(12, 3, 0.5)))
    )


def test_unbiased_on_small_sets_of_one_law():
    values = torch.tensor([kernel_distance(draw(8, 2 * i), draw(8, 2 * i + 1)) for i in range(200)])
    assert abs(float(values.mean())) < 4 * float(values.std()) / 200**0.5
    assert (values < 0).any()


def test_errors():
    with refuses(ValueError, "1 and 30 rows"):
        kernel_distance(draw(1, 0), draw(30, 1))
    with refuses(ValueError, "(10, 6)", "(10, 3)", "[N, D]"):
        kernel_distance(draw(10, 0), draw(10, 1)[:, :3])
