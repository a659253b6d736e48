"""Random generators that are functions of where we are, not of what was drawn before.

A run that is killed and resumed draws the numbers that the uninterrupted run would have drawn: the seed of every step
is a hash of (seed, epoch, batch). Ranks draw for the batch of all of them and take their part, so that no two use the
same numbers, and any number of ranks uses those that one alone would.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from datamodules.errors import UserError

SEED_LIMIT = 2**32  # torch's CPU generator keeps the low 32 bits of its seed: seed and seed + 2**32 draw the same.


def stable_seed(*parts: int | str) -> int:
    """Hash of the parts in [0, 2**32): the same on every machine and in every process."""
    digest = hashlib.blake2b("/".join(f"{type(part).__name__}:{part}" for part in parts).encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "little") % SEED_LIMIT


def step_generator(device: torch.device | str, *parts: int | str) -> torch.Generator:
    """Generator on `device`, seeded by the hash of the parts."""
    return torch.Generator(device=device).manual_seed(stable_seed(*parts))


def seed_global_stream(*parts: int | str) -> None:
    """Seed torch's global streams, which dropout draws from, by the hash of the parts: on the CPU and every device."""
    torch.manual_seed(stable_seed("global", *parts))


def image_generators(seeds: Sequence[int] | Tensor) -> list[torch.Generator]:
    """One CPU generator an image, so that image i is a function of seed i on every device and in every batch.

    Raises:
        ValueError: a seed outside [0, 2**32), where two seeds could give one image.
    """
    seeds = [int(seed) for seed in (seeds.tolist() if isinstance(seeds, Tensor) else seeds)]
    for i, seed in enumerate(seeds):
        if not 0 <= seed < SEED_LIMIT:
            raise UserError(
                f"seeds[{i}]={seed} is outside [0, 2**32). torch's CPU generator keeps 32 bits of a seed, so larger "
                "seeds would repeat images: number the images from a base, e.g. seed + index."
            )
    return [torch.Generator().manual_seed(seed) for seed in seeds]
