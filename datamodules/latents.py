"""Latents of every training image and of its mirror image, computed once: their mean and standard deviation.

`<cache_dir>/latents/<fingerprint>/` holds `latents.bin` [N, 2, 2, C, h, w] (as it is and mirrored; mean and standard
deviation), `done.bin` uint8 [N] and `latents.json`. Keeping the deviation lets training draw a new latent at each
step. A folder's fingerprint covers the images, the autoencoder, the shape and the number type; a cache that is
unfinished or made of something else is refused.

Letters: N images, C latent channels, h x w latent cells.
"""

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from datamodules.augment import mirror_labels, to_unit_range
from datamodules.cache_files import CacheError, check_size, remedy
from datamodules.dataset import FundusDataset, Picks, RowsOf
from datamodules.errors import UserError
from datamodules.files import open_own, read_json, refuse_link, write_text

DTYPES = ("float32", "float16")
LATENTS, DONE, DESCRIPTION = "latents.bin", "done.bin", "latents.json"


class LatentCache:
    """A finished latent cache: `latents` [N, 2, 2, C, h, w], memory-mapped, read only; `depends_on` says of what."""

    def __init__(self, folder: Path, fingerprint: str | Mapping[str, str]) -> None:
        self.folder = Path(folder)
        self.depends_on = _depends_on(fingerprint)
        if not (self.folder / DESCRIPTION).is_file():
            raise CacheError(f"there is no latent cache in {str(self.folder)!r}. Remedy: build it first.")
        found = _described(self.folder)
        if found["depends_on"] != self.depends_on:
            raise CacheError(
                f"the latent cache {str(self.folder)!r} was made of {found['depends_on']}, and not of "
                f"{self.depends_on}. Remedy: {remedy(self.folder)}."
            )
        self.shape, self.dtype = tuple(found["shape"]), np.dtype(found["dtype"])
        num_done = int((np.fromfile(self.folder / DONE, dtype=np.uint8) == 1).sum())
        if num_done != self.shape[0]:
            raise CacheError(
                f"the latent cache {str(self.folder)!r} has {num_done} of {self.shape[0]} images. Remedy: build it, "
                "which makes the others."
            )
        self.latents = np.memmap(self.folder / LATENTS, dtype=self.dtype, mode="r", shape=self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def check_is_of(self, num_images: int, fingerprint: str, split_fingerprint: str) -> None:
        """Raise ValueError unless it is of so many images of these fingerprints; one that tells no split is of any."""
        here = {"images": fingerprint, "split": split_fingerprint}
        there = {"images": self.depends_on.get("images"), "split": self.depends_on.get("split", split_fingerprint)}
        if len(self) != num_images or there != here:
            raise UserError(
                f"the latent cache {str(self.folder)!r} is of {len(self)} images with fingerprints {there}, but the "
                f"training set has {num_images} with {here}. Remedy: build it again from these images."
            )

    @classmethod
    def build(
        cls,
        encode: Callable[[Tensor], tuple[Tensor, Tensor]],
        images: np.ndarray | RowsOf,
        fingerprint: str | Mapping[str, str],
        cache_dir: str | Path,
        batch_size: int = 64,
        dtype: str = "float32",
    ) -> "LatentCache":
        """Encode images, uint8 [N, S, S, 3], and their mirror images; what an earlier build finished is kept.

        `encode` takes float32 [B, 3, S, S] in [0, 1] on the CPU and gives mean and standard deviation [B, C, h, w],
        raw. `fingerprint` says what the latents depend on: `{"images": datamodule.fingerprint, "split":
        datamodule.split_fingerprint, "autoencoder": …}`, of which `attach_latents` compares the first two. Raises
        CacheError when the disk is full.
        """
        if dtype not in DTYPES:
            raise UserError(f"dtype is {dtype!r}, and must be one of: {', '.join(DTYPES)}.")
        depends_on = _depends_on(fingerprint)
        folder = latent_folder(depends_on, dtype, cache_dir)
        with torch.no_grad():
            shape = (len(images), 2, 2, *_encode(encode, images[:1]).shape[3:])
            _prepare(folder, shape, dtype, depends_on)
            try:
                _fill(folder, shape, dtype, encode, images, batch_size)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise _full(folder, shape, dtype) from error
                raise
        return cls(folder, depends_on)


def latent_folder(fingerprint: str | Mapping[str, str], dtype: str, cache_dir: str | Path) -> Path:
    """The folder of a latent cache: its name covers what it depends on, and the number type."""
    text = json.dumps({"dtype": dtype, **_depends_on(fingerprint)}, sort_keys=True)
    return Path(cache_dir) / "latents" / hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _depends_on(fingerprint: str | Mapping[str, str]) -> dict[str, str]:
    return {"fingerprint": fingerprint} if isinstance(fingerprint, str) else dict(fingerprint)


def _encode(encode: Callable, pixels: np.ndarray) -> np.ndarray:
    """uint8 [B, S, S, 3] to [B, 2, 2, C, h, w]: orientations, then mean and standard deviation."""
    image = to_unit_range(torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2))
    views = (image, image.flip(-1).contiguous())
    latents = torch.stack([torch.stack([part.float().cpu() for part in encode(view)], dim=1) for view in views], dim=1)
    if latents.ndim != 6 or len(latents) != len(pixels):
        raise UserError(f"encode must give mean and std [B, C, h, w]; together they are {list(latents.shape)}.")
    if not bool(torch.isfinite(latents).all()):
        raise UserError("encode gave a latent that is not finite: is the autoencoder trained?")
    return latents.numpy()


def _described(folder: Path) -> dict[str, Any]:
    """What a latent cache says of itself, and its files are as large as that. Raises CacheError for a damaged one."""
    found = read_json(
        folder / DESCRIPTION, {"depends_on": dict, "shape": [int], "dtype": str}, remedy(folder), CacheError
    )
    shape = found["shape"]
    if found["dtype"] not in DTYPES or len(shape) != 6 or 0 in shape:
        raise CacheError(
            f"the latent cache {str(folder)!r} is damaged: it says shape {shape} and dtype {found['dtype']!r}, and "
            f"must say six sizes and one of {', '.join(DTYPES)}. Remedy: {remedy(folder)}."
        )
    check_size(folder / LATENTS, prod(shape) * np.dtype(found["dtype"]).itemsize)
    check_size(folder / DONE, shape[0])
    return found


def _prepare(folder: Path, shape: tuple[int, ...], dtype: str, depends_on: dict[str, str]) -> None:
    if (folder / DESCRIPTION).is_file():
        found = _described(folder)
        if tuple(found["shape"]) != shape:
            raise CacheError(
                f"the latent cache {str(folder)!r} has shape {found['shape']}, and not {list(shape)}: its fingerprint "
                "does not cover what changed. Remedy: delete the folder, and give build() a fingerprint of images and "
                "autoencoder."
            )
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if num_bytes > shutil.disk_usage(folder.parent).free:
        raise _full(folder, shape, dtype)
    fresh = folder.with_name(f"{folder.name}.new-{uuid.uuid4().hex}")
    fresh.mkdir()  # with the rights that the umask gives: users may share caches
    try:
        for name, size in ((LATENTS, num_bytes), (DONE, shape[0])):
            with open(fresh / name, "wb") as file:
                file.truncate(size)
        write_text(fresh / DESCRIPTION, json.dumps({"depends_on": depends_on, "shape": shape, "dtype": dtype}))
        os.rename(fresh, folder)
    except OSError:  # another process was first: both fill the same files with the same bytes
        shutil.rmtree(fresh, ignore_errors=True)
        if not (folder / DESCRIPTION).is_file():
            raise


def _fill(folder: Path, shape: tuple[int, ...], dtype: str, encode: Callable, images: Any, batch_size: int) -> None:
    pending = np.flatnonzero(np.fromfile(folder / DONE, dtype=np.uint8) != 1)
    if not len(pending):  # a finished cache may lie elsewhere
        return
    refuse_link(folder)
    row_bytes = int(np.prod(shape[1:])) * np.dtype(dtype).itemsize
    with (
        open_own(folder / LATENTS, "r+b") as latents,
        open_own(folder / DONE, "r+b") as done,
        tqdm(
            total=shape[0],
            initial=shape[0] - len(pending),
            desc="encoding latents",
            unit="image",
            disable=rank_zero_only.rank != 0,
        ) as bar,
    ):
        for start in range(0, len(pending), batch_size):
            rows = pending[start : start + batch_size]
            for row, latent in zip(rows.tolist(), _encode(encode, images[rows]).astype(dtype), strict=True):
                latents.seek(row * row_bytes)
                latents.write(latent.tobytes())
            latents.flush()
            os.fsync(latents.fileno())
            for row in rows.tolist():
                done.seek(row)
                done.write(b"\1")
            done.flush()
            bar.update(len(rows))


def _full(folder: Path, shape: tuple[int, ...], dtype: str) -> CacheError:
    num_bytes, free = int(np.prod(shape)) * np.dtype(dtype).itemsize, shutil.disk_usage(folder.parent).free
    return CacheError(
        f"the disk of the latent cache is full: {str(folder)!r} needs {num_bytes:,} bytes and {free:,} are free. "
        "Remedy: delete caches that are no longer used, or choose another folder with cache_dir=…."
    )


class LatentDataset(Dataset):
    """Batches of latents for training: latent_mean and latent_std float32 [B, C, h, w], labels, id.

    With `mask` uint8 [B, S, S] where there are masks. A row that is picked mirrored gives the latents and the mask of
    the mirrored image, with `eye_side` changed.
    """

    def __init__(self, cache: LatentCache, images: FundusDataset) -> None:
        self.latents = cache.latents
        self.labels, self.ids, self.masks = images.labels, images.ids, images.masks

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int | Picks) -> dict[str, Any]:
        if not isinstance(index, Picks):
            batch = self[Picks(np.array([index]), np.zeros(1, dtype=bool))]
            return {name: values[0] for name, values in batch.items()}
        chosen = np.asarray(self.latents[index.rows, index.flips.astype(np.int64)], dtype=np.float32)
        labels = self.labels[torch.from_numpy(index.rows)]
        flips = torch.from_numpy(index.flips)
        batch = {
            "latent_mean": torch.from_numpy(chosen[:, 0].copy()),
            "latent_std": torch.from_numpy(chosen[:, 1].copy()),
            "labels": torch.where(flips[:, None], mirror_labels(labels), labels),
            "id": [self.ids[row] for row in index.rows],
        }
        if self.masks is not None:
            mask = torch.from_numpy(self.masks[index.rows][..., 0])
            batch["mask"] = torch.where(flips[:, None, None], mask.flip(-1), mask)
        return batch
