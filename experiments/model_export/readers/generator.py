"""`python generator.py FOLDER REQUEST ANSWER`: an exported generator, by diffusers alone, paints what is asked for."""

import sys

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging

if __name__ == "__main__":
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder, request, answer = sys.argv[1:]
    pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    torch.save([pipeline(**call, output_type="pt").images for call in torch.load(request)], answer)
