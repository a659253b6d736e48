"""Features of a set of images, gathered over all processes and kept on disk where they are costly.

Letters: N = number of images; D = feature dimension; K = rows kept, all N of them when N is small.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from callbacks.atomic import write_atomically
from callbacks.features import FeatureExtractor
from callbacks.metrics.frechet import Gaussian, GaussianMoments, rows_are_cheaper
from callbacks.ranks import Ranks


@dataclass(frozen=True)
class FeatureSet:
    """Features of num_images images: the Gaussian of all of them, and the rows [K, D] float32 of the first K."""

    num_images: int
    rows: Tensor
    gaussian: Gaussian


def collect(
    make_images: Callable[[Sequence[int]], Tensor],
    num_images: int,
    extractor: FeatureExtractor,
    ranks: Ranks,
    batch_size: int,
    num_rows: int,
    advance: Callable[[int], Any] = lambda num: None,
) -> FeatureSet:
    """Extract the features of images 0 .. num_images - 1, each rank its share.

    Args:
        make_images: indices [B] -> uint8 [B, 3, H, W] on the extractor's device.
        num_images: at least 2.
        extractor: on the device that make_images uses.
        ranks: the place of this process.
        batch_size: images at a time on each rank.
        num_rows: rows to keep for the kernel distance where there are too many images to keep all.
        advance: called with the number of images done over all ranks.
    """
    keep_all = rows_are_cheaper(num_images, extractor.dim)
    num_rows = num_images if keep_all else min(num_rows, num_images)
    share, genuine = ranks.share(num_images), ranks.genuine(num_images)
    moments, rows = GaussianMoments(extractor.dim), []
    for start in range(0, len(share), batch_size):
        chunk = slice(start, start + batch_size)
        features = extractor(make_images(share[chunk]).float() / 255).cpu()
        if not keep_all:
            moments.add(features[genuine[chunk]])
        rows.append(features[: max(0, -(-num_rows // ranks.num_ranks) - start)])
        advance(min(len(features) * ranks.num_ranks, num_images - start * ranks.num_ranks))
    kept = ranks.gather(torch.cat(rows), num_rows)
    if keep_all:
        return FeatureSet(num_images, kept, Gaussian.from_features(kept))
    ranks.add_up(moments.tensors())
    return FeatureSet(num_images, kept, moments.gaussian())


def save(path: Path, features: FeatureSet, identity: dict[str, Any]) -> None:
    """Write features and what they depend on to an npz file, atomically."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(
                file,
                identity=json.dumps(identity, sort_keys=True),
                num_images=features.num_images,
                rows=features.rows.numpy(),
                mean=features.gaussian.mean.numpy(),
                factor=features.gaussian.factor.numpy(),
            )

    write_atomically(path, write)


def load(path: Path, identity: dict[str, Any]) -> FeatureSet:
    """Read features back.

    Raises:
        ValueError: the file is not whole, or was made from something else than identity says.
    """
    try:
        with np.load(path, allow_pickle=False) as saved:
            found = json.loads(str(saved["identity"]))
            arrays = {name: torch.from_numpy(saved[name]) for name in ("rows", "mean", "factor")}
            num_images = int(saved["num_images"])
    except Exception as error:
        raise ValueError(f"{path} is not a whole feature cache ({error}): delete it, it will be made anew") from error
    differing = sorted(key for key in found.keys() | identity.keys() if found.get(key) != identity.get(key))
    if differing:
        raise ValueError(
            f"{path} was made from other {', '.join(differing)}: "
            + "; ".join(f"{key} {found.get(key)} there, {identity.get(key)} here" for key in differing)
            + "; delete it, it will be made anew"
        )
    return FeatureSet(num_images, arrays["rows"], Gaussian(arrays["mean"], arrays["factor"]))
