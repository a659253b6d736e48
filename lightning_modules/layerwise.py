"""Which parameters of a classifier move, and how fast: by layer, the ones near the image slower than the head."""

from collections.abc import Mapping

from torch import nn

from datamodules.errors import UserError
from lightning_modules.training import Optimisation

VECTOR_DIMENSIONS = 1  # biases, norms and other vectors


def freeze_layers(network: nn.Module, layers: Mapping[str, int], num_frozen: int) -> list[nn.Module]:
    """Freeze the parameters of the first `num_frozen` layers; returns the modules all of whose parameters are frozen.

    Those stay in eval mode, so that their batch statistics are not moved either. `layers` is the layer of each
    parameter by its name, as `layers_of` gives it.

    Raises:
        ValueError: more layers than there are.
    """
    last = max(layers.values())
    if not 0 <= num_frozen <= last + 1:
        raise UserError(f"num_frozen={num_frozen}: the backbone has {last + 1} layers, give 0 to {last + 1}.")
    for name, parameter in network.named_parameters():
        if layers[name] < num_frozen:
            parameter.requires_grad_(False)
    frozen = []
    for module in network.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            frozen.append(module)
    return frozen


def layer_groups(
    backbone: nn.Module,
    heads: nn.Module,
    layers: Mapping[str, int],
    optimisation: Optimisation,
    layer_decay: float,
) -> list[dict]:
    """Parameter groups for an optimiser: the rate of a layer is `layer_decay` times that of the next one, the head's 1.

    As in BEiT (Bao et al. 2022, arXiv 2106.08254) and fine-tuning of MAE, where a norm after the last block has the
    head's rate. Vectors (biases, norms) are decayed where `decay_vectors` says so, what the network says of
    `no_weight_decay` never. Only what is not frozen.
    """
    last = max(layers.values())
    only_norm = all(p.ndim <= VECTOR_DIMENSIONS for name, p in backbone.named_parameters() if layers[name] == last)
    top = last if only_norm else last + 1
    kept = {f"network.{name}" for name in getattr(getattr(backbone, "network", None), "no_weight_decay", set)()}
    groups: dict[tuple[int, bool], dict] = {}

    def add(layer: int, name: str, parameter: nn.Parameter) -> None:
        if not parameter.requires_grad:
            return
        is_vector = parameter.ndim <= VECTOR_DIMENSIONS
        decayed = name not in kept and (optimisation.decay_vectors or not is_vector)
        group = groups.setdefault(
            (layer, decayed),
            {"params": [], "lr": optimisation.learning_rate * layer_decay ** (top - layer),
             "weight_decay": optimisation.weight_decay if decayed else 0.0, "layer": layer},
        )  # fmt: skip
        group["params"].append(parameter)

    for name, parameter in backbone.named_parameters():
        add(layers[name], name, parameter)
    for name, parameter in heads.named_parameters():
        add(top, name, parameter)
    return [groups[key] for key in sorted(groups)]
