"""A generator, or an autoencoder alone, as a folder that diffusers loads."""

import copy
import inspect
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
from diffusers import AutoencoderKL
from torch import nn

from datamodules.errors import UserError
from datamodules.findings import FINDINGS
from experiments.model_export.shipped import label_embedder, pipeline
from experiments.model_export.shipped.label_embedder import LabelEmbedder
from lightning_modules.autoencoder import Autoencoder
from lightning_modules.conditioning import LabelConditioning
from lightning_modules.diffusion import spacing
from lightning_modules.diffusion.sampling import build_scheduler
from lightning_modules.label_maps import LabelMaps
from lightning_modules.latent_diffusion import LatentDiffusion
from lightning_modules.networks import dit, folded, latent_classifier
from lightning_modules.networks.dit import DiT
from lightning_modules.networks.unet import UNet

NAMES = {"dit": "fundus_dit", "folded": "folded_autoencoder"}  # of copied files; diffusers has a `dit` of its own


def check_generator(module: LatentDiffusion) -> None:
    """See that its parts are such as can be given away.

    Raises:
        ValueError: a denoiser or an autoencoder that is of elsewhere.
    """
    denoiser = module.network.denoiser
    if type(denoiser) not in (UNet, DiT):
        raise UserError(
            f"the denoiser is a {type(denoiser).__name__}, and export_model knows UNet and DiT: the code of another "
            "cannot be put beside its weights. Remedy: a generator trained with one of model/denoiser's own options."
        )
    conditioning = module.network.conditioning
    if type(conditioning) is not LabelConditioning:
        raise UserError(
            f"the conditioning is a {type(conditioning).__name__}, and export_model knows LabelConditioning alone. "
            "Remedy: a generator trained with that."
        )
    if module.network.masks is not None:
        raise UserError(
            "the generator has masks (model.masks), which diffusers' pipeline has no word for. Remedy: a generator "
            "trained with model/masks=none; +exp=synthesize writes its pairs."
        )
    if module.network.clusters is not None:
        raise UserError(
            "the generator knows clusters (model.clusters), which diffusers' pipeline has no word for. Remedy: a "
            "generator trained with model.clusters=null."
        )
    check_autoencoder(module.autoencoder)


def check_autoencoder(module: Autoencoder) -> None:
    """See that it is one of diffusers.

    Raises:
        ValueError: it is not.
    """
    if type(module.network) not in (AutoencoderKL, folded.FoldedAutoencoderKL, folded.ShortcutAutoencoderKL):
        raise UserError(
            f"the autoencoder is a {type(module.network).__name__}, and export_model knows AutoencoderKL alone. Remedy:"
            " one of model/autoencoder's own options."
        )


def write_generator(module: LatentDiffusion, folder: Path, network: nn.Module) -> dict[str, nn.Module]:
    """Write all that a pipeline needs; returns the networks by the folder that each is in.

    Args:
        network: the weights that are to be written, in the contiguous format: `module.network` or the averaged one.
    """
    denoiser, sampling = network.denoiser, module.sampling
    is_unet = isinstance(denoiser, UNet)
    parts = {
        "vae": _network(module.autoencoder),
        "label_embedder": embedder(network.conditioning, denoiser.cond_proj if is_unet else None, network.label_maps),
        "unet" if is_unet else "transformer": denoiser.unet if is_unet else denoiser,
        **({} if network.guide is None else {"guide": network.guide}),
    }
    index: dict[str, Any] = {"_class_name": ["pipeline", "FundusPipeline"], "_diffusers_version": diffusers.__version__}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        index[name] = [_with_code(part, folder / name), type(part).__name__]
    scheduler = build_scheduler(sampling["scheduler"], module.objective, sampling["num_steps"])
    scheduler.register_to_config(clip_sample=False)  # for those that it is exchanged for: latents are not in [-1, 1]
    scheduler.save_pretrained(folder / "scheduler")
    (low, high), classifier = sampling["guidance_interval"], sampling["classifier_interval"]
    index |= {
        "scheduler": ["diffusers", type(scheduler).__name__],
        "num_inference_steps": sampling["num_steps"],
        "spacing": sampling["spacing"],
        "guidance_scale": sampling["guidance"],
        "guidance_low": low,
        "guidance_high": high,
        "classifier_scale": sampling["classifier_scale"],
        "classifier_low": classifier[0],
        "classifier_high": classifier[1],
        "classifier_findings": sampling["classifier_findings"],
        "guidance_rescale": sampling["guidance_rescale"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    _copy(pipeline, folder)
    _copy(spacing, folder)
    return parts


def write_autoencoder(module: Autoencoder, folder: Path) -> dict[str, nn.Module]:
    """Write the network alone; returns it."""
    network = _network(module)
    network.save_pretrained(folder)
    _with_code(network, folder, loads_alone=True)
    return {"autoencoder": network}


def vocabulary(num_levels: Mapping[str, int]) -> list[dict[str, Any]]:
    """Name, title and names of the levels of each finding; numbers where the project does not know it so."""
    known = {finding.name: finding for finding in FINDINGS}
    found = []
    for name, number in num_levels.items():
        mine = known.get(name)
        if mine is None or len(mine.levels) != number:
            found.append({"name": name, "title": name, "levels": [str(level) for level in range(number)]})
        else:
            found.append({"name": name, "title": mine.title, "levels": list(mine.levels)})
    return found


def vocabulary_of(conditioning: LabelConditioning) -> list[dict[str, Any]]:
    """The same of what a generator is conditioned on."""
    return vocabulary(dict(zip(conditioning.names, conditioning.levels, strict=True)))


def embedder(
    conditioning: LabelConditioning, projection: nn.Linear | None, maps: LabelMaps | None = None
) -> LabelEmbedder:
    """The conditioning, the U-Net's projection of it, and the label maps, as one network with the vocabulary."""
    width, map_size = None if projection is None else projection.out_features, 0 if maps is None else len(maps.mean)
    found = LabelEmbedder(vocabulary_of(conditioning), conditioning.dim, width, map_size)
    found.embedding.load_state_dict({"weight": conditioning.table()})
    found.mlp.load_state_dict(conditioning.mlp.state_dict())
    if projection is not None:
        found.projection.load_state_dict(projection.state_dict())
    if maps is not None:
        found.map_table.load_state_dict({"weight": maps.table})
        found.map_mean.data.copy_(maps.mean)
    return found.eval()


def _network(module: Autoencoder) -> AutoencoderKL:
    """The autoencoder's network, with mean and deviation of its latents in its config, where they were measured."""
    network = copy.deepcopy(module.network)
    if module.measured:
        mean, std = module.latent_shift.tolist(), module.latent_scale.tolist()
        network.register_to_config(latents_mean=mean, latents_std=std, scaling_factor=1.0)
    return network


def _with_code(part: nn.Module, folder: Path, loads_alone: bool = False) -> str:
    """Put the code of a network that is not of diffusers beside its weights; the module that its class is in."""
    code = {module.__name__: module for module in (label_embedder, dit, folded, latent_classifier)}.get(
        type(part).__module__
    )
    if code is None:
        return "diffusers"
    name = _copy(code, folder)
    if loads_alone:
        path = folder / "config.json"
        config = json.loads(path.read_text("utf-8")) | {"auto_map": {"AutoModel": f"{name}.{type(part).__name__}"}}
        path.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    return name


def _copy(module: ModuleType, folder: Path) -> str:
    """The file of a module into a folder, as it is; returns the module's name there."""
    source = Path(inspect.getfile(module))
    name = NAMES.get(source.stem, source.stem)
    shutil.copyfile(source, folder / f"{name}.py")
    return name
