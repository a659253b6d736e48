"""`python autoencoder.py FOLDER REQUEST ANSWER`: load an exported autoencoder with diffusers alone, and reconstruct."""

import sys
from pathlib import Path

import torch
from diffusers import AutoModel
from diffusers.utils import logging

if __name__ == "__main__":
    logging.set_verbosity_error()
    folder, request, answer = sys.argv[1:]
    has_code = any(Path(folder).glob("*.py"))  # a plain AutoencoderKL has none
    autoencoder = AutoModel.from_pretrained(folder, trust_remote_code=has_code)
    with torch.no_grad():
        latents = autoencoder.encode(2 * torch.load(request) - 1).latent_dist.mean
        torch.save((autoencoder.decode(latents).sample / 2 + 0.5).clamp(0, 1), answer)
