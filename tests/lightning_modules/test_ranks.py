"""What ranks do together is what one would do with the batch of all."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lightning_modules.losses.thresholds import known_total, threshold_loss
from lightning_modules.ranks import RankSlice, mean_over_ranks, share_running_statistics


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_the_parts_of_a_draw_are_the_draw_of_one(num_ranks):
    def draw(num):
        return torch.randn(num, 3, generator=torch.Generator().manual_seed(0))

    parts = [RankSlice(rank, num_ranks).of(draw, 8 // num_ranks) for rank in range(num_ranks)]
    assert torch.equal(torch.cat(parts), draw(8))


def module_of(num_ranks, others):
    """A module on rank 0, whose strategy averages with what `others` says the other ranks have."""
    strategy = SimpleNamespace(reduce=lambda tensor, reduce_op: torch.stack([tensor, *others]).mean(0))
    trainer = SimpleNamespace(global_rank=0, world_size=num_ranks, strategy=strategy)
    return SimpleNamespace(_trainer=trainer, trainer=trainer)


def test_running_statistics_become_their_mean():
    network = nn.Sequential(nn.BatchNorm2d(2), nn.GroupNorm(1, 2), nn.BatchNorm1d(2, track_running_stats=False))
    network[0].running_mean[:] = torch.tensor([1.0, 2.0])
    share_running_statistics(module_of(2, [torch.tensor([3.0, 4.0, 5.0, 7.0])]), network)
    assert network[0].running_mean.tolist() == [2.0, 3.0] and network[0].running_var.tolist() == [3.0, 4.0]
    share_running_statistics(module_of(1, []), network)
    assert network[0].running_mean.tolist() == [2.0, 3.0]


def test_the_losses_of_ranks_that_know_unlike_numbers_average_to_that_of_all():
    g = torch.Generator().manual_seed(0)
    logits, finding = torch.randn(6, 3, generator=g), torch.tensor([0, 0, 1])
    targets, known = torch.rand(6, 3, generator=g).round(), torch.rand(6, 3, generator=g) < 0.6
    known[:3] &= torch.tensor([True, False, False])
    parts = [slice(0, 3), slice(3, 6)]
    totals = [known_total(known[part], finding) for part in parts]
    total = mean_over_ranks(module_of(2, [totals[1]]), totals[0])
    losses = [threshold_loss(logits[part], targets[part], known[part], finding, total=total) for part in parts]
    assert totals[0] != totals[1]
    torch.testing.assert_close(sum(losses) / 2, threshold_loss(logits, targets, known, finding))
