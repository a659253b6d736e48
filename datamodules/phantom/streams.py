"""Named random streams: each part of a phantom draws from its own, so that one label never moves another part."""

import zlib

import numpy as np


def stream(seed: int, *keys: int | str) -> np.random.Generator:
    """A generator that depends on ``seed`` and ``keys`` alone, the same in any process and on any machine."""
    words = [seed & 0xFFFFFFFF, seed >> 32]
    words += [zlib.crc32(key.encode()) if isinstance(key, str) else key for key in keys]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))
