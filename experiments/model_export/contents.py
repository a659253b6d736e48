"""Every file of an exported folder, and what it is for."""

from pathlib import Path

from experiments.model_export import code_licence, samples

PARTS = {
    "vae": "the autoencoder, latents to images",
    "label_embedder": "findings to vectors",
    "unet": "the denoiser, a `UNet2DModel` of diffusers",
    "transformer": "the denoiser, a diffusion transformer",
    "guide": "a classifier of noised latents, by which images are led to their findings",
    "scheduler": "the sampler, one of diffusers'",
}
FILES = {
    "README.md": "this card",
    code_licence.FILE: "the licence of the code in this folder",
    samples.FILE: "images that this folder has painted",
    "model_index.json": "what the pipeline consists of, and how it samples unless told otherwise",
    "pipeline.py": "the pipeline's code",
    "spacing.py": "the pipeline's code: at which timesteps it calls the denoiser",
    "vae/config.json": "its architecture, with mean and deviation of each latent channel",
    "label_embedder/config.json": "its sizes, and the findings with their names and levels",
    "config.json": "the architecture",
    "model.safetensors": "the backbone's weights, by timm's names",
    "heads.safetensors": "the heads: `weight` [thresholds, features] and `bias` [thresholds]",
    "model.onnx": "all of it: `image` [batch, 3, H, W] in [0, 1] to probabilities [batch, levels], an output a finding",
}
ENDINGS = {
    ".index.json": "which of its weights lie in which file",
    ".safetensors": "its weights",
    ".py": "its code",
    ".json": "its architecture or settings",
}


def files(folder: Path) -> list[list[str]]:
    """Rows of a table: path and use of every file, the card that is yet to be written among them."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} | {"README.md"}
    return [[f"`{name}`", _use(name)] for name in sorted(found, key=lambda name: ("/" in name, name))]


def _use(name: str) -> str:
    part = PARTS.get(name.partition("/")[0]) if "/" in name else None
    use = FILES.get(name) or next((use for ending, use in ENDINGS.items() if name.endswith(ending)), "")
    return f"{part}: {use}" if part else use
