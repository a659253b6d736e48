"""Averaged weights against their closed form, and what must not be averaged."""

import torch
from refusals import refuses
from torch import nn

from lightning_modules.ema import AveragedNetwork


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
        self.register_buffer("count", torch.tensor(3))


def follow(ema, network, values):
    for value in values:
        with torch.no_grad():
            network.weight.fill_(value)
            network.frozen.fill_(value)
            network.count.fill_(int(value))
        ema.update(network)


def test_closed_form_with_warm_up():
    network = Network()
    ema = AveragedNetwork(network, decay=0.3)
    follow(ema, network, [1.0, 2.0, 5.0, 4.0])
    expected = 0.0
    for n, value in enumerate([1.0, 2.0, 5.0, 4.0]):
        d = min(0.3, (1 + n) / (10 + n))  # 0.1, 0.1818, 0.25, 0.3
        expected = d * expected + (1 - d) * value
    torch.testing.assert_close(ema.network.weight.detach(), torch.full((3,), expected))
    assert ema.num_updates == 4


def test_frozen_parameters_and_integer_buffers_are_copied_and_the_raw_left_alone():
    network = Network()
    ema = AveragedNetwork(network, decay=0.9)
    follow(ema, network, [2.0, 7.0])
    assert torch.equal(ema.network.frozen, torch.full((2,), 7.0))
    assert ema.network.count.dtype == torch.int64 and ema.network.count == 7
    assert torch.equal(network.weight.detach(), torch.full((3,), 7.0))
    assert not any(p.requires_grad for p in ema.parameters())
    assert not ema.train().network.training


def test_state_is_restored_with_the_warm_up():
    network, resumed = Network(), Network()
    ema = AveragedNetwork(network, decay=0.99)
    follow(ema, network, [1.0, 2.0])
    other = AveragedNetwork(resumed, decay=0.99)
    follow(other, resumed, [9.0])  # the count on the host must follow the restored one
    other.load_state_dict(ema.state_dict())
    follow(ema, network, [3.0])
    follow(other, resumed, [3.0])
    assert torch.equal(ema.network.weight, other.network.weight)
    assert set(ema.state_dict()) == {"num_updates", "network.weight", "network.frozen", "network.count"}


def test_a_restart_forgets_its_start_as_soon_as_a_new_average():
    network, fresh = Network(), Network()
    ema, other = AveragedNetwork(network, decay=0.9999), AveragedNetwork(fresh, decay=0.9999)
    follow(ema, network, [1.0] * 2000)
    assert ema.decay_at(int(ema.num_updates)) > 0.99
    ema.restart()
    follow(ema, network, [3.0] * 50)
    follow(other, fresh, [1.0, *[3.0] * 49])
    assert abs(float(ema.network.weight[0]) - 3) < 1e-3 and ema.num_updates == 50


def test_decay_out_of_range():
    with refuses(ValueError, "ema_decay=1.0"):
        AveragedNetwork(Network(), 1.0)
