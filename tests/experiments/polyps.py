"""A folder in Kvasir-SEG's layout: frames with a disc somewhere, and its mask."""

from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32


def write_polyps(root: Path, num: int = 40) -> Path:
    """Write images/ and masks/ of `num` pairs; returns the folder."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    y, x = np.mgrid[:SIDE, :SIDE]
    for number in range(num):
        stream = np.random.default_rng(number)
        centre, radius = stream.uniform(8, 24, 2), stream.uniform(5, 9)
        disc = np.hypot(x - centre[0], y - centre[1]) < radius
        frame = stream.integers(60, 120, (SIDE, SIDE, 3)) + 100 * disc[:, :, None]
        Image.fromarray(frame.astype(np.uint8)).save(root / f"images/polyp{number:03d}.jpg")
        Image.fromarray(np.uint8(255 * disc)).save(root / f"masks/polyp{number:03d}.jpg")
    return root
