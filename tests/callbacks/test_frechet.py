"""Fréchet distance: closed forms, the published implementation, and sets with fewer images than dimensions."""

import pytest
import torch
from refusals import refuses

from callbacks.metrics.frechet import (
    Gaussian,
    GaussianMoments,
    frechet_distance,
    rows_are_cheaper,
)


def features(num, dim, seed, scale=1.0, shift=0.0, rank=None):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(rank or dim, dim, generator=generator, dtype=torch.float64)
    return torch.randn(num, rank or dim, generator=generator, dtype=torch.float64) @ mixing * scale + shift


def moments(rows):
    running = GaussianMoments(rows.shape[1])
    for chunk in rows.split(7):
        running.add(chunk)
    return running


def test_closed_form_of_diagonal_gaussians():
    mean_a, mean_b = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 1.0, 0.0])
    std_a, std_b = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([3.0, 0.5, 1.0])
    distance = Gaussian.from_moments(mean_a, std_a.square().diag()).distance(
        Gaussian.from_moments(mean_b, std_b.square().diag())
    )
    assert distance == pytest.approx(
        float((mean_a - mean_b).square().sum() + (std_a - std_b).square().sum()), rel=1e-12
    )


def test_closed_form_of_a_scaled_and_shifted_copy():
    rows = features(50, 8, seed=0)
    covariance_trace = rows.T.cov().trace()
    shift = torch.arange(8.0, dtype=torch.float64)
    mean_term = (rows.mean(0) * 2 + shift - rows.mean(0)).square().sum()
    assert frechet_distance(rows, rows * 2 + shift) == pytest.approx(float(mean_term + covariance_trace), rel=1e-10)


def test_agrees_with_torch_fidelity_on_the_same_features():
    metric_fid = pytest.importorskip("torch_fidelity.metric_fid")
    rows_a, rows_b = features(200, 24, seed=1), features(150, 24, seed=2, scale=1.3, shift=0.2)
    expected = metric_fid.fid_statistics_to_metric(
        metric_fid.fid_features_to_statistics(rows_a), metric_fid.fid_features_to_statistics(rows_b), False
    )["frechet_inception_distance"]
    assert frechet_distance(rows_a, rows_b) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("num_a", "num_b"), [(20, 15), (20, 90), (90, 120)])
@pytest.mark.parametrize("rank", [None, 5])
def test_rows_and_moments_agree(num_a, num_b, rank):
    rows_a, rows_b = features(num_a, 32, seed=3, rank=rank), features(num_b, 32, seed=4, shift=0.5, rank=rank)
    expected = frechet_distance(rows_a, rows_b)
    assert moments(rows_a).gaussian().distance(moments(rows_b).gaussian()) == pytest.approx(expected, rel=1e-9)
    assert moments(rows_a).gaussian().distance(Gaussian.from_features(rows_b)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("num", [10, 100])
def test_symmetric_and_zero_on_itself(num):
    rows_a, rows_b = features(num, 32, seed=5), features(num, 32, seed=6)
    assert frechet_distance(rows_a, rows_b) == pytest.approx(frechet_distance(rows_b, rows_a), rel=1e-12)
    assert frechet_distance(rows_a, rows_a.flip(0)) == pytest.approx(0, abs=1e-9 * float(rows_a.square().sum()))


def test_constant_features_give_a_number():
    constant = torch.ones(10, 16, dtype=torch.float64)
    assert frechet_distance(constant, constant + 1) == pytest.approx(16)
    assert moments(constant).gaussian().distance(moments(constant + 1).gaussian()) == pytest.approx(16)


def test_errors_name_the_row_and_the_shape():
    rows = features(10, 4, seed=7)
    rows[3, 1] = float("nan")
    with refuses(ValueError, "features", "row 3", "finite"):
        frechet_distance(rows, rows)
    with refuses(ValueError, "features", "(1, 4)", "N >= 2"):
        frechet_distance(rows[:1], rows)
    with refuses(ValueError, "4 dimensions", 5):
        frechet_distance(features(10, 4, seed=8), features(10, 5, seed=8))
    with refuses(ValueError, "covariance", 2, 1):
        moments(rows[:1]).gaussian()


def test_few_images_keep_rows():
    assert rows_are_cheaper(100, 1280)
    assert not rows_are_cheaper(50_000, 1280)
