"""The blocks of a network: what is recomputed, compiled or shared out as one."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

RECOMPILE_LIMIT = 64  # ways in which the blocks of a network may differ, before those that follow are left as they are


def blocks(network: nn.Module) -> list[nn.Module]:
    """What a network's outermost lists of modules hold: its blocks, in the order in which it has them.

    A Sequential counts as a list where what it holds has parts of its own: not where it strings layers together.
    """
    found = []
    for part in network.children():
        is_list = isinstance(part, nn.ModuleList | nn.Sequential)
        of_blocks = is_list and all(any(block.children()) for block in part.children())
        found += part.children() if of_blocks else blocks(part)
    return [block for block in found if any(True for _ in block.parameters())]


def prepare_blocks(network: nn.Module, recomputed: bool, compiled: bool) -> None:
    """`recompute` and `compile_blocks` where asked for, in the order in which they have to come."""
    if recomputed:
        recompute(network)
    if compiled:
        compile_blocks(network)


def recompute(network: nn.Module) -> None:
    """Let the blocks of a network keep their inputs alone, and compute the rest again in the backward pass.

    Source: Chen et al. 2016 (arXiv 1604.06174). Only where they are trained: not in eval mode, nor without gradients.
    Names of parameters, and what is computed, stay the same: dropout draws the same again, and running statistics are
    updated once. Comes before the network is spread over processes; a second call changes nothing.
    """
    for block in blocks(network):
        if not isinstance(block.forward, ActivationCheckpointed):
            block.forward = ActivationCheckpointed(block)


class ActivationCheckpointed:
    """Forward pass of a block of which nothing but the inputs is kept."""

    def __init__(self, block: nn.Module) -> None:
        self.block, self.forward = block, block.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the block's own."""
        if not (self.block.training and torch.is_grad_enabled()):
            return self.forward(*args, **kwargs)
        if torch.compiler.is_compiling():  # the compiler updates running statistics once by itself
            return checkpoint(self._compute, args, kwargs, use_reentrant=False)
        # Both as positional arguments: of tensors in others the device's random state would not be put back.
        return checkpoint(self._compute, args, kwargs, use_reentrant=False, context_fn=self._contexts)

    def _compute(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.forward(*args, **kwargs)

    def _contexts(self) -> tuple[Any, Any]:
        return nullcontext(), _running_statistics_kept(self.block)


def compile_blocks(network: nn.Module) -> None:
    """Let torch.compile make the blocks of a network faster; blocks that are alike are compiled once.

    Only where they are trained: in eval mode and without gradients they compute as before, and so do copies. Names of
    parameters stay the same. Comes after `recompute`, before the network is spread; a second call changes nothing.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
    torch._dynamo.config.optimize_ddp = False  # cuts a whole network into parts, which blocks are already
    for block in blocks(network):
        if not isinstance(block.forward, Compiled):
            block.forward = Compiled(block)


class Compiled:
    """Forward pass of a block, compiled."""

    def __init__(self, block: nn.Module) -> None:
        self.block, self.forward = block, block.forward
        self.compiled = torch.compile(self.forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the block's own."""
        is_trained = self.block.training and torch.is_grad_enabled()
        return (self.compiled if is_trained else self.forward)(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.forward, memo)  # what is compiled belongs to this block


@contextmanager
def _running_statistics_kept(block: nn.Module) -> Iterator[None]:
    """Within it batch normalisation computes as in training, and does not count the batch once more."""
    norms = [part for part in block.modules() if isinstance(part, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, num_batches) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, num_batches
