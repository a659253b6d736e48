"""Blocks that compute their activations again train what blocks that keep them train, with less memory."""

import copy

import pytest
import torch
from torch.utils._pytree import tree_leaves

from lightning_modules.autoencoder import Autoencoder
from lightning_modules.blocks import ActivationCheckpointed, Compiled, blocks, compile_blocks, prepare_blocks, recompute
from lightning_modules.ema import AveragedNetwork
from lightning_modules.networks.backbone import TimmBackbone
from lightning_modules.networks.dit import DiT
from lightning_modules.networks.kl import kl_autoencoder
from lightning_modules.networks.unet import UNet

TIMM = ["vit_tiny_patch16_224", "resnet26", "tf_efficientnet_lite0", "convnext_atto"]


def denoise(network):
    torch.manual_seed(1)
    return network(torch.randn(4, 2, 8, 8), torch.arange(4.0), torch.randn(4, 8))


def autoencode(module):
    torch.manual_seed(1)
    return module.losses(torch.rand(2, 3, 16, 16), torch.Generator())[0]["loss"]


def see(network):
    torch.manual_seed(1)
    return network(torch.rand(2, 3, network.input_size, network.input_size))


CASES = {
    "unet": (lambda: UNet(2, 8, 8, (8, 16), 1, (1,), 8, 4, dropout=0.3), denoise),
    "dit": (lambda: DiT(2, 8, 8, hidden=16, depth=4, heads=2, dropout=0.3), denoise),
    "autoencoder": (lambda: Autoencoder(kl_autoencoder(2, (8, 8), norm_groups=4)), autoencode),
    **{name: (lambda name=name: TimmBackbone(name, 64, drop_path=0.2), see) for name in TIMM},
}


def build(name):
    """A network in training mode of which no weight is zero, so that every gradient says something."""
    torch.manual_seed(0)
    network = CASES[name][0]().train()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return network


def train(name, network):
    """Output, gradients and the bytes that were kept for the backward pass: inputs of blocks too, but no weights."""
    kept = {}
    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # alive, or its place would be given to another
        return tensor

    def keep_inputs(block, args, kwargs):
        for leaf in tree_leaves((args, kwargs)):
            if torch.is_tensor(leaf):
                keep(leaf)

    for block in blocks(network):
        block.register_forward_pre_hook(keep_inputs, with_kwargs=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = CASES[name][1](network)
    output.square().mean().backward()
    return output.detach(), {name: p.grad for name, p in network.named_parameters()}, sum(n for n, _ in kept.values())


@pytest.mark.parametrize("name", CASES)
def test_the_same_gradients_from_less_memory(name):
    plain, light = build(name), build(name)
    recompute(light)
    output, gradients, num_bytes = train(name, plain)
    again, ours, fewer = train(name, light)
    torch.testing.assert_close(again, output, rtol=0, atol=0)
    for key, gradient in gradients.items():
        torch.testing.assert_close(ours[key], gradient, msg=key)
    assert fewer < 0.5 * num_bytes, (fewer, num_bytes)
    assert light.state_dict().keys() == plain.state_dict().keys()
    for key, tensor in plain.state_dict().items():  # running statistics
        assert torch.equal(light.state_dict()[key], tensor), key


def test_a_second_call_changes_nothing():
    network = build("dit")
    recompute(network)
    before = [block.forward for block in blocks(network)]
    recompute(network)
    assert all(isinstance(forward, ActivationCheckpointed) for forward in before)
    assert [block.forward for block in blocks(network)] == before


def test_neither_evaluation_nor_averages_compute_twice():
    network, calls = build("dit"), []
    average = AveragedNetwork(network)
    recompute(network)
    for part in (network, average.network):
        part.blocks[0].mlp_in.register_forward_hook(lambda *_: calls.append(1))
    for setting in ("averages", "eval", "no_grad"):
        network.train(setting == "no_grad")
        with torch.set_grad_enabled(setting != "no_grad"):
            output = denoise(average.network if setting == "averages" else network)
        if setting == "eval":
            output.sum().backward()
        assert len(calls) == 1, setting
        calls.clear()
    denoise(network.train()).sum().backward()
    assert len(calls) == 2


def test_a_copy_computes_with_its_own_weights():
    network = build("dit")
    recompute(network)
    copied = copy.deepcopy(network)
    before = denoise(copied)
    with torch.no_grad():
        for weight in network.parameters():
            weight.zero_()
    assert torch.equal(denoise(copied), before)


def test_frozen_blocks_get_no_gradients():
    network = build("dit")
    network.blocks[:2].requires_grad_(False)
    recompute(network)
    denoise(network).sum().backward()
    assert all(weight.grad is None for weight in network.blocks[0].parameters())
    assert all(weight.grad is not None for weight in network.blocks[3].parameters())


@pytest.fixture
def eagerly(monkeypatch):
    """Blocks are traced as they would be, and run as they are: no compiler, and seconds instead of minutes."""
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compiler(function, backend="aot_eager"))
    yield
    torch.compiler.reset()


def undisturbed(network):
    """Nothing is left out at random: what is compiled draws other numbers."""
    for part in network.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
        if hasattr(part, "drop_prob"):
            part.drop_prob = 0.0
    return network


@pytest.mark.parametrize("name", ["dit", pytest.param("resnet26", marks=pytest.mark.slow)])
@pytest.mark.parametrize("recomputed", [False, True])
def test_compiled_blocks_compute_the_same_under_the_same_names(name, recomputed, eagerly):
    plain, fast = undisturbed(build(name)), undisturbed(build(name))
    prepare_blocks(fast, recomputed, compiled=True)
    assert all(isinstance(block.forward, Compiled) for block in blocks(fast))
    output, gradients, num_bytes = train(name, plain)
    again, ours, fewer = train(name, fast)
    torch.testing.assert_close(again, output, rtol=1e-4, atol=1e-4)
    for key, gradient in gradients.items():
        torch.testing.assert_close(ours[key], gradient, rtol=1e-3, atol=1e-4, msg=key)
    assert not recomputed or fewer < 0.5 * num_bytes
    assert list(fast.state_dict()) == list(plain.state_dict())
    for key, tensor in plain.state_dict().items():  # running statistics, counted once
        torch.testing.assert_close(fast.state_dict()[key], tensor, msg=key)


def test_nothing_is_compiled_but_training(monkeypatch):
    compiled = []

    def pretend(function):
        return lambda *args, **kwargs: compiled.append(1) or function(*args, **kwargs)

    monkeypatch.setattr(torch, "compile", pretend)
    network = build("dit")
    average = AveragedNetwork(network)
    compile_blocks(network)
    copied = copy.deepcopy(network)
    before = [block.forward for block in blocks(network)]
    compile_blocks(network)
    assert [block.forward for block in blocks(network)] == before
    for other in (average.network, copied, network.eval()):
        denoise(other)
    with torch.no_grad():
        denoise(network.train())
    assert not compiled
    denoise(network)
    assert len(compiled) == 4
