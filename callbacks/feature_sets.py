"""Features of a set of images, gathered over all processes and kept on disk where they are costly.

Letters: N = number of images; D = feature dimension; K = rows kept, all N of them when N is small.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from tqdm import tqdm

from callbacks.features import FeatureExtractor
from callbacks.files import write_atomically
from callbacks.metrics.frechet import Gaussian, GaussianMoments, rows_are_cheaper
from callbacks.ranks import Ranks
from datamodules.errors import UserError


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
    keep_all, num_rows = rows_are_cheaper(num_images, extractor.dim), rows_kept(num_images, extractor.dim, num_rows)
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


def rows_kept(num_images: int, dim: int, num_rows: int) -> int:
    """Rows of a set that are kept where so many are asked for: all, where that is cheaper than moments."""
    return num_images if rows_are_cheaper(num_images, dim) else min(num_rows, num_images)


def random_order(num_images: int) -> list[int]:
    """The order in which real images are looked at: of a table sorted by grade or source the first stand for all."""
    return torch.randperm(num_images, generator=torch.Generator().manual_seed(0)).tolist()


def real_features(
    trainer: Trainer,
    extractor: FeatureExtractor,
    split: str,
    num_real: int,
    num_rows: int,
    batch_size: int,
    cache_dir: str | None,
    title: str | None = None,
) -> FeatureSet:
    """Features of the first `num_real` images of a split in `random_order`, from the cache if rank 0 finds them there.

    Args:
        trainer: its datamodule gives the images, `images(split)`, and their fingerprints.
        extractor: on the device of this process.
        cache_dir: they are kept in `<cache_dir>/features`; None keeps nothing.
        title: of a bar of progress; None shows none.
    """
    data, ranks = trainer.datamodule, Ranks.of(trainer)
    identity = {
        "format": 2,
        "data": data.fingerprint,
        "who_is_where": data.split_fingerprint,
        "split": split,
        "extractor": extractor.fingerprint,
        "num_real": num_real,
        "num_rows": rows_kept(num_real, extractor.dim, num_rows),  # as others that ask for more or less have it
    }
    path = None
    if cache_dir is not None:
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
        path = Path(cache_dir) / "features" / f"{digest}.npz"
    # Only rank 0 looks: were the cache visible to some ranks alone, the others would wait for them for ever.
    cached = load(path, identity) if path is not None and trainer.is_global_zero and path.is_file() else None
    cached = trainer.strategy.broadcast(cached)
    if cached is not None:
        return cached
    images, device = data.images(split), next(extractor.buffers()).device
    order = random_order(len(images))

    def make_images(indices: Sequence[int]) -> Tensor:
        batch = np.stack([np.asarray(images[order[i]]) for i in indices])
        return torch.from_numpy(batch).to(device).permute(0, 3, 1, 2)

    with progress(title, num_real) as bar:
        features = collect(make_images, num_real, extractor, ranks, batch_size, num_rows, bar.update)
    if path is not None and trainer.is_global_zero:
        save(path, features, identity)
    return features


def progress(title: str | None, num_images: int) -> tqdm:
    """A bar of images; one that shows nothing for None."""
    return tqdm(total=num_images, desc=title, unit="image", leave=False, disable=title is None, dynamic_ncols=True)


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
    remedy = "delete it, it will be made anew"
    try:
        with np.load(path, allow_pickle=False) as saved:
            found = json.loads(str(saved["identity"]))
            arrays = {name: torch.from_numpy(saved[name]) for name in ("rows", "mean", "factor")}
            num_images = int(saved["num_images"])
        if not isinstance(found, dict):
            raise UserError(f"identity is {found!r}")
    except Exception as error:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None):
            raise  # the machine's fault, not the file's
        raise UserError(f"{path} is not a whole feature cache ({error}): {remedy}") from error
    differing = sorted(key for key in found.keys() | identity.keys() if found.get(key) != identity.get(key))
    if differing:
        raise UserError(
            f"{path} was made from other {', '.join(differing)}: "
            + "; ".join(f"{key} {found.get(key)} there, {identity.get(key)} here" for key in differing)
            + f"; {remedy}"
        )
    _check_shapes(path, num_images, **arrays, remedy=remedy)
    return FeatureSet(num_images, arrays["rows"], Gaussian(arrays["mean"], arrays["factor"]))


def _check_shapes(path: Path, num_images: int, rows: Tensor, mean: Tensor, factor: Tensor, remedy: str) -> None:
    """Raise ValueError unless rows [K, D], mean [D] and factor [D, *] go together, and are finite."""
    fits = rows.ndim == 2 and mean.ndim == 1 and factor.ndim == 2 and rows.shape[1] == len(mean)
    whole = fits and factor.shape[1] == len(mean) and 0 < len(rows) <= num_images
    if not whole or not all(bool(torch.isfinite(array).all()) for array in (rows, mean, factor)):
        shapes = ", ".join(str(list(array.shape)) for array in (rows, mean, factor))
        raise UserError(
            f"{path} is not a whole feature cache (rows, mean and factor are {shapes}, of {num_images} images, or not "
            f"finite): {remedy}"
        )
