"""Heads and their loss: ordered grades, unknown labels left out, each finding of the same weight."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refuses
from torch.nn import functional

from lightning_modules.losses.thresholds import threshold_loss
from lightning_modules.networks.heads import FindingHeads

LEVELS = {"dr_grade": 5, "is_gc": 2, "is_amd": 2, "stage": 3}
COLUMNS = {"dr_grade": 0, "is_gc": 3, "stage": 1}


@pytest.fixture
def heads():
    torch.manual_seed(0)
    heads = FindingHeads(8, COLUMNS, LEVELS)
    torch.nn.init.normal_(heads.offsets, std=2)
    torch.nn.init.normal_(heads.directions.weight)
    return heads


def test_probabilities_are_a_distribution_and_fall_with_the_threshold(heads):
    logits = heads(torch.randn(50, 8) * 3)
    assert logits.shape == (50, 7)
    found = heads.probabilities(logits)
    assert {name: values.shape[1] for name, values in found.items()} == {"dr_grade": 5, "is_gc": 2, "stage": 3}
    for values in found.values():
        assert (values >= 0).all() and torch.allclose(values.sum(1), torch.ones(50))
    above = torch.sigmoid(logits)
    assert torch.allclose(found["dr_grade"][:, 2:].sum(1), above[:, 1], atol=1e-6)
    assert torch.allclose(found["is_gc"][:, 1], above[:, 4], atol=1e-6)


def test_a_binary_finding_is_a_logistic_regression(heads):
    features = torch.randn(5, 8)
    expected = features @ heads.directions.weight[1] + heads.offsets[4]
    assert torch.allclose(heads(features)[:, 4], expected, atol=1e-6)


def test_targets_are_read_from_their_columns(heads):
    labels = torch.tensor([[2, 0, 9, 1], [-1, 2, 9, 0], [4, -1, 9, -1]])
    targets, known = heads.targets(labels)
    assert targets.tolist() == [[1, 1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1, 1], [1, 1, 1, 1, 0, 0, 0]]
    assert known.tolist() == [[True] * 7, [False] * 4 + [True] * 3, [True] * 4 + [False] * 3]


def test_no_finding_is_refused():
    with refuses(ValueError, "findings", "empty"):
        FindingHeads(8, {}, LEVELS)


def slow_loss(logits, targets, known, finding, weights):
    """A loop over images and findings."""
    total, number = 0.0, 0
    for image in range(len(logits)):
        for name in range(int(finding.max()) + 1):
            mine = finding == name
            if known[image][mine].all():
                wanted = targets[image][mine]
                losses = functional.binary_cross_entropy_with_logits(logits[image][mine], wanted, reduction="none")
                total += float((losses * weights[image][mine]).mean())
                number += 1
    return total / number if number else 0.0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000))
def test_the_loss_is_that_of_a_loop(seed):
    stream = torch.Generator().manual_seed(seed)
    heads = FindingHeads(4, COLUMNS, LEVELS)
    labels = torch.stack([torch.randint(-1, top, (6,), generator=stream) for top in (5, 3, 2, 2)], dim=1)
    logits, weights = torch.randn(6, 7, generator=stream), torch.rand(6, 3, generator=stream)[:, heads.finding]
    targets, known = heads.targets(labels)
    found = threshold_loss(logits, targets, known, heads.finding, known * weights)
    assert float(found) == pytest.approx(slow_loss(logits, targets, known, heads.finding, weights), rel=1e-5)
    plain = threshold_loss(logits, targets, known, heads.finding)
    assert float(plain) == pytest.approx(
        slow_loss(logits, targets, known, heads.finding, torch.ones_like(logits)), rel=1e-5
    )


def test_smoothing_spreads_a_share_over_all_levels_alike(heads):
    labels = torch.tensor([[2, 0, 9, 1]])
    targets, _ = heads.targets(labels, smoothing=0.1)
    above = torch.cat([torch.ones(1), targets[0, :4], torch.zeros(1)])
    assert (above[:-1] - above[1:]).tolist() == pytest.approx([0.02, 0.02, 0.92, 0.02, 0.02], abs=1e-6)
    assert targets[0, 4].tolist() == pytest.approx(0.95), "of two levels: (1 - s) target + s / 2"


def test_nothing_known_gives_no_gradient(heads):
    features = torch.randn(3, 8)
    targets, known = heads.targets(torch.full((3, 4), -1))
    loss = threshold_loss(heads(features), targets, known, heads.finding)
    loss.backward()
    assert float(loss.detach()) == 0 and all((p.grad == 0).all() for p in heads.parameters())


def test_grades_are_learnt_in_order():
    """Features on a line with graded noise: the most probable level is mostly the right one."""
    torch.manual_seed(0)
    grade = torch.randint(0, 5, (400, 1))
    features = torch.cat([grade + 0.2 * torch.randn(400, 1), torch.randn(400, 3)], dim=1)
    heads = FindingHeads(4, {"dr_grade": 0}, LEVELS)
    optimizer = torch.optim.Adam(heads.parameters(), lr=0.1)
    targets, known = heads.targets(grade)
    for _ in range(300):
        optimizer.zero_grad()
        threshold_loss(heads(features), targets, known, heads.finding).backward()
        optimizer.step()
    decided = heads.probabilities(heads(features))["dr_grade"].argmax(1)
    assert (decided == grade[:, 0]).float().mean() > 0.93
