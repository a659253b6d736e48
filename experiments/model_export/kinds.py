"""The three kinds of models that are exported: how each is loaded, written, and compared with its folder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from datamodules.errors import UserError
from experiments.assembly import AUTOENCODER_PARTS, pretrained_autoencoder
from experiments.card.origin import architecture
from experiments.construction import Rebuilder, rebuilding
from experiments.loading import load_classifier, load_diffusion
from experiments.model_export.agreement import (
    Comparison,
    compare_autoencoder,
    compare_classifier,
    compare_generator,
)
from experiments.model_export.card import Model
from experiments.model_export.classifier import check_classifier, findings_of, write_classifier
from experiments.model_export.generator import (
    check_autoencoder,
    check_generator,
    vocabulary_of,
    write_autoencoder,
    write_generator,
)
from experiments.model_export.run_folder import evaluation, figures, software
from lightning_modules.autoencoder import Autoencoder
from lightning_modules.checkpoint import CONFIG_KEY, weights_fingerprint
from lightning_modules.networks.kl import NETWORK_KEY

AVERAGED, RAW = "averaged", "raw"
ONLY = "trained"  # weights of what keeps no averages


@dataclass(frozen=True)
class Export:
    """A model in memory, what its card says of it, and how it is written into a folder and compared with that."""

    model: Model
    write: Callable[[Path], Mapping[str, nn.Module]]
    compare: Callable[[Path], list[Comparison]]


def export_of(path: Path, state: Mapping[str, Any], weights: str, with_onnx: bool, trusted: Sequence[str]) -> Export:
    """The model of a checkpoint, of whichever kind.

    Args:
        state: the checkpoint at `path`.
        weights: AVERAGED or RAW, where there are both.

    Raises:
        ValueError: a checkpoint of no kind that is known, or with parts that cannot be exported.
    """
    names = state["state_dict"] if CONFIG_KEY in state else ()
    if any(name.startswith("network.heads.") for name in names):
        return _classifier(path, state, weights, with_onnx, trusted)
    if any(name.startswith("network.denoiser.") for name in names):
        return _generator(path, state, weights, trusted)
    if NETWORK_KEY in state and CONFIG_KEY in state:  # also one that ddpm_train has trained, by its configuration
        return _autoencoder(path, state, trusted)
    raise UserError(
        f"ckpt={path}: it does not say what it is of. Remedy: one that ddpm_train, vae_train or classifier_train wrote."
    )


def _generator(path: Path, state: Mapping[str, Any], weights: str, trusted: Sequence[str]) -> Export:
    module = load_diffusion(path, trusted)
    check_generator(module)
    if weights == RAW:
        module.ema.network.load_state_dict(module.network.state_dict())
    module.sample_by(precision="32")
    lay_out(module)
    module.ema.network.memory_format = torch.contiguous_format
    network, sampling = module.ema.network, module.sampling
    facts = {
        "denoiser": architecture(state[CONFIG_KEY]["model"]["denoiser"]),
        "autoencoder": _words(module.autoencoder),
        "objective": f"predicts {module.objective.prediction}, weighted {module.objective.weighting}",
        "samples, unless told otherwise": f"by `{sampling['scheduler']}` in {sampling['num_steps']} steps, with "
        f"guidance {sampling['guidance']:g}",
    }
    fingerprint = weights_fingerprint(network, module.autoencoder.network)  # as recipe.json of a set has it
    findings = vocabulary_of(network.conditioning)
    measured = {} if weights == RAW else figures(path, state)
    model = Model(
        "generator", state, weights, fingerprint, _size(path, state), findings, facts,
        figures=measured, software=software(path),
    )  # fmt: skip
    return Export(
        model,
        lambda folder: write_generator(module, folder, network),
        lambda folder: compare_generator(module, folder),
    )


def _autoencoder(path: Path, state: Mapping[str, Any], trusted: Sequence[str]) -> Export:
    with rebuilding(str(path)):
        make = Rebuilder(state[CONFIG_KEY], AUTOENCODER_PARTS, trusted, str(path))
        module = pretrained_autoencoder(make.cfg, str(path), make).eval()
    check_autoencoder(module)
    lay_out(module)
    fingerprint = weights_fingerprint(module.network)
    model = Model(
        "autoencoder", state, ONLY, fingerprint, _size(path, state), [], {"autoencoder": _words(module)},
        figures=figures(path, state), software=software(path),
    )  # fmt: skip
    return Export(
        model,
        lambda folder: write_autoencoder(module, folder),
        lambda folder: compare_autoencoder(module, folder, model.image_size),
    )


def _classifier(path: Path, state: Mapping[str, Any], weights: str, with_onnx: bool, trusted: Sequence[str]) -> Export:
    module = load_classifier(path, trusted)
    check_classifier(module, with_onnx)
    which = ONLY if module.ema is None else weights
    if which == RAW:
        module.ema = None
    network = module.measured.eval()
    size, fingerprint = network.backbone.input_size, weights_fingerprint(network)  # as annotation.json has it
    facts = {"backbone": architecture(state[CONFIG_KEY]["model"]["backbone"])}
    found, measured = ({}, {}) if which == RAW else (evaluation(path), figures(path, state))
    model = Model(
        "classifier", state, which, fingerprint, size, findings_of(network), facts, found, measured, software(path)
    )
    return Export(
        model,
        lambda folder: write_classifier(network, folder, with_onnx),
        lambda folder: compare_classifier(module, folder, model.image_size),
    )


@torch.no_grad()
def lay_out(module: nn.Module) -> None:
    """Put all tensors in memory as those of a file are, whatever the memory format that they were trained in.

    So safetensors takes them; and sums are rounded as in what is loaded, of which `to(memory_format=...)` does not
    take care where a kernel has one pixel.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)


def _words(module: Autoencoder) -> str:
    """Class and sizes of an autoencoder's network."""
    config, cell = module.network.config, module.downsampling
    sizes = f"widths {list(config.block_out_channels)}, {cell} x {cell} pixels a latent cell"
    return f"`{type(module.network).__name__}` ({sizes}, {module.latent_channels} channels)"


def _size(path: Path, state: Mapping[str, Any]) -> int:
    """Pixels of the images that it was trained on.

    Raises:
        ValueError: its configuration does not tell.
    """
    size = (state[CONFIG_KEY].get("data") or {}).get("image_size")
    if not isinstance(size, int) or size < 1:
        raise UserError(
            f"{path}: its configuration has data.image_size={size!r:.100}, and must have a number of pixels. Remedy: "
            "another checkpoint of the run."
        )
    return size
