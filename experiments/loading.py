"""Generators, classifiers and segmenters from their checkpoints alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from callbacks.mask_agreement import MaskAgreement
from datamodules.errors import UserError
from experiments.assembly import (
    AUTOENCODER_PARTS,
    DIFFUSION_PARTS,
    GAN_PARTS,
    OPTIONAL_PARTS,
    build_autoencoder,
    build_classifier,
    build_diffusion,
    build_gan,
    build_segmenter,
    check_scale,
)
from experiments.construction import Rebuilder, rebuilding
from lightning_modules.checkpoint import CONFIG_KEY, TRAINED_ON_KEY, best_of_run, load_state, load_weights
from lightning_modules.classifier import Classifier
from lightning_modules.gan import PairGAN
from lightning_modules.latent_diffusion import LatentDiffusion
from lightning_modules.segmenter import Segmenter
from lightning_modules.training import TrainedModule

Module = TypeVar("Module", bound=TrainedModule)


def load_generator(checkpoint: str | Path, trusted: Sequence[str] = ()) -> LatentDiffusion | PairGAN:
    """Rebuild a generator of any kind from its checkpoint alone.

    Args:
        trusted: modules besides ours whose classes the checkpoint's configuration may name and so call.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: a checkpoint without a configuration, of another kind, or that names a class of elsewhere.
    """
    state, origin = load_state(checkpoint), str(checkpoint)
    if "gan" not in model_of(state):
        return _diffusion_of(state, origin, trusted)
    with rebuilding(origin):
        make = Rebuilder(state[CONFIG_KEY], GAN_PARTS, trusted, origin)
        module = build_gan(make.cfg, make)
    return _with_weights_of(module, state, origin)


def load_diffusion(checkpoint: str | Path, trusted: Sequence[str] = ()) -> LatentDiffusion:
    """Rebuild a latent diffusion model from its checkpoint alone; as `load_generator`, which takes other kinds too."""
    return _diffusion_of(load_state(checkpoint), str(checkpoint), trusted)


def _diffusion_of(state: Mapping[str, Any], origin: str, trusted: Sequence[str]) -> LatentDiffusion:
    _check_part(state, origin, "denoiser", "ddpm_train; give the checkpoint of a generator")
    with rebuilding(origin):
        there = [f"model.{name}" for name in OPTIONAL_PARTS if model_of(state).get(name) is not None]
        make = Rebuilder(state[CONFIG_KEY], (*AUTOENCODER_PARTS, *DIFFUSION_PARTS, *there), trusted, origin)
        autoencoder = build_autoencoder(make.cfg, with_judges=False, start=origin, make=make)
        module = build_diffusion(make.cfg, autoencoder, make)
    module = _with_weights_of(module, state, origin)
    check_scale(module.autoencoder, origin)
    return module


def _with_weights_of(module: Module, state: Mapping[str, Any], origin: str) -> Module:
    """A generator with the weights of its checkpoint, in eval mode; it knows what it was trained on."""
    load_weights(module, state, origin)
    module.trained_on = state.get(TRAINED_ON_KEY)
    return module.eval()


def load_classifier(checkpoint: str | Path, trusted: Sequence[str] = ()) -> Classifier:
    """Rebuild a classifier from its checkpoint alone, or from the best one in the folder of a run.

    Args:
        trusted: modules besides ours whose classes the checkpoint's configuration may name and so call.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: a checkpoint without a configuration, of another kind, or that names a class of elsewhere.
    """
    of_a_classifier = "classifier_train; give one of a classifier"
    path = best_of_run(checkpoint)
    state, origin = load_state(path), str(path)
    _check_part(state, origin, "classifier", of_a_classifier)
    with rebuilding(origin):
        make = Rebuilder(state[CONFIG_KEY], ("model.backbone", "model.classifier"), trusted, origin)
        module = build_classifier(make.cfg, make)
    load_weights(module, state, origin)
    return module.eval()


def load_segmenter(checkpoint: str | Path, trusted: Sequence[str] = ()) -> Segmenter:
    """Rebuild a segmenter, with its threshold, from its checkpoint alone, or from the best one in the folder of a run.

    Args:
        trusted: modules besides ours whose classes the checkpoint's configuration may name and so call.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: a checkpoint without a configuration, of another kind, or that names a class of elsewhere.
    """
    path = best_of_run(checkpoint)
    state, origin = load_state(path), str(path)
    _check_part(state, origin, "segmenter", "segmenter_train; give one of a segmenter")
    with rebuilding(origin):
        make = Rebuilder(state[CONFIG_KEY], ("model.network", "model.segmenter"), trusted, origin)
        module = build_segmenter(make.cfg, make)
    load_weights(module, state, origin)
    return module.eval()


def mask_agreement(segmenter: str | None, **settings: Any) -> MaskAgreement:
    """The callback MaskAgreement with a segmenter from its checkpoint or run; without one it measures nothing.

    Args:
        settings: of the callback, but `levels`, which are the segmenter's.
    """
    if segmenter is None:
        return MaskAgreement(None, (), **settings)
    module = load_segmenter(segmenter)
    return MaskAgreement(module, module.config["model"]["mask_levels"], **settings)


def with_weights(module: Classifier | Segmenter, checkpoint: Path) -> Classifier | Segmenter:
    """A classifier or segmenter with the weights of a checkpoint, all of them on this process."""
    load_weights(module, load_state(checkpoint), str(checkpoint))
    return module


def _check_part(state: Mapping[str, Any], origin: str, part: str, by: str) -> None:
    """See that the model of a checkpoint has this part; `by` says which job writes it."""
    if part not in model_of(state):
        raise UserError(f"ckpt={origin}: it was not written by {by}.")


def model_of(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the configuration of a checkpoint says under `model`, by which it is known what it is of; {} for nothing."""
    model = state.get(CONFIG_KEY, {}).get("model")
    return model if isinstance(model, Mapping) else {}


def start_from(module: LatentDiffusion | PairGAN, checkpoint: str | Path) -> None:
    """Take the averaged weights of another run's network, autoencoder included, as the start of training.

    Raises:
        FileNotFoundError, ValueError: no such checkpoint, or one of another architecture.
    """
    load_weights(module, load_state(checkpoint), f"ckpt={checkpoint}")
    module.network.load_state_dict(module.ema.network.state_dict())
    module.ema.restart()
