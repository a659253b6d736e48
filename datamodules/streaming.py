"""ShardDataModule: training on Parquet shards as they lie (`data=shards`), with a held-out sample in memory."""

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from os import cpu_count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import LongTensor
from torch.utils.data import Dataset

from datamodules.dataset import FundusDataset
from datamodules.errors import UserError
from datamodules.findings import NAMES
from datamodules.fundus import FundusDataModule
from datamodules.image_mask_cache import ImageMaskCache
from datamodules.loader import ResumableLoader
from datamodules.manifest import SPLITS, Manifest
from datamodules.shard_files import ShardError
from datamodules.shard_stream import StreamBatches, StreamDataset, StreamOrder, num_lanes_for, stream_loader
from datamodules.shards import ShardSource
from datamodules.splits import split_by_patient

log = logging.getLogger(__name__)

FRACTIONS: Mapping[str, float] = {"train": 0.99, "val": 0.01, "test": 0.0}
NO_LATENTS = (
    "images are streamed from shards, and latents of a stream cannot be cached. Remedy: job.cache_latents=false, which "
    "encodes every batch."
)
MOST_BYTES = 2**31 - 1  # of a row group: Arrow numbers the bytes of a column of images with 32 bits


class ShardDataModule(FundusDataModule):
    """A FundusDataModule whose training images are streamed from Parquet shards, and never unpacked.

    Batches are those of FundusDataModule. A row's split is a hash of (seed, id), by `fractions`. All training rows are
    streamed; of the others up to `num_val` a split are read, drawn at random, and so are `num_reference` training rows,
    for what asks for `images("train")`: the Fréchet distance, the autoencoder's latent statistics. These samples
    are decoded once, by `prepare_data`, into the image cache below `cache_dir`, which all processes and later runs
    share: 3 S² bytes an image. Drawing them reads a row group for each, at worst.

    The order, and how well it is shuffled: StreamOrder. Each rank holds up to `num_lanes` (`window_groups` + 2) row
    groups in memory, and at most `window_gb` GB are allowed for them; a number of workers that divides
    `num_lanes` reads every row group once. Besides there is the manifest, a row an image, in each process that
    is no worker.

    Latents of a stream are not cached: `check_latents` and `attach_latents` raise ValueError.
    """

    def __init__(
        self,
        source: ShardSource,
        image_size: int = 64,
        batch_size: int = 32,
        cache_dir: str | Path = "cache",
        num_workers: int = 0,
        fractions: Mapping[str, float] = FRACTIONS,
        seed: int = 0,
        flip: bool = True,
        augment: Sequence[Any] = (),
        cache_workers: int | None = None,
        epoch_size: int | None = None,
        num_val: int = 2000,
        num_reference: int = 2000,
        num_lanes: int = 8,
        window_groups: int = 8,
        window_gb: float = 2.0,
    ) -> None:
        super().__init__(
            source, image_size, batch_size, cache_dir, num_workers, fractions, seed, flip,
            cache_workers=cache_workers, epoch_size=epoch_size, augment=augment,
        )  # fmt: skip
        counts = {"num_val": num_val, "num_reference": num_reference, "num_lanes": num_lanes,
                  "window_groups": window_groups}  # fmt: skip
        for name, value in counts.items():
            if value < 1:
                raise UserError(f"data.{name} is {value}, and must be at least 1.")
        self.num_val, self.num_reference = num_val, num_reference
        self.num_lanes, self.window_groups, self.window_gb = num_lanes, window_groups, window_gb
        self._samples: dict[str, np.ndarray] = {}  # of each split the rows that are decoded, ascending

    # -- making and opening

    def prepare_data(self) -> None:
        """Check every shard by its footer and its columns without images, and decode the samples into the cache.

        Raises ShardError for a file that is truncated, foreign or of too large row groups, ManifestError for a row.
        """
        self._check_windows()
        workers = cpu_count() if self.cache_workers is None else self.cache_workers
        ImageMaskCache.build(self.source, self._sampled(), self.image_size, self.cache_dir, workers)

    def setup(self, stage: str | None = None) -> None:
        """Open the cache of the samples; the second call and later ones do nothing."""
        if self.manifest is not None:
            return
        self._check_windows()
        self._squares = ImageMaskCache.open(self.source, self._sampled(), self.image_size, self.cache_dir)
        self.manifest = self._index
        self.fingerprint = self._fingerprint(self.manifest)

    @cached_property
    def _index(self) -> Manifest:
        """All rows of all shards, with their splits."""
        return split_by_patient(self.source.index(), self.fractions, self.seed)

    def _indexed(self) -> Manifest:
        return self._index

    def _sampled(self) -> Manifest:
        """The rows that are decoded: those of the train split, then val, then test."""
        if not self._samples:
            for place, split in enumerate(SPLITS):
                rows, most = self._index.rows(split), self.num_reference if split == "train" else self.num_val
                stream = np.random.default_rng(np.random.SeedSequence((self.seed, place, 0x5A3B)))
                self._samples[split] = np.sort(stream.choice(rows, min(most, len(rows)), replace=False, shuffle=False))
        return self._index.take(np.concatenate(list(self._samples.values())))

    def _check_windows(self) -> None:
        """Raise ShardError when the windows of a rank may take more memory than is allowed for them."""
        groups = self.source.footers.groups
        largest = int(groups.num_bytes.max())
        lanes = num_lanes_for(len(groups), self.num_lanes, self.window_groups)
        of_a_batch = math.ceil(self.batch_size / groups.num_rows.mean())
        held = min(max(self.window_groups, of_a_batch) + 2, len(groups))
        copies = self.num_workers if self.num_workers and lanes % self.num_workers else 1  # each worker holds all lanes
        needed = lanes * held * largest * copies
        if largest > MOST_BYTES or needed > self.window_gb * 1e9:
            at = int(groups.num_bytes.argmax())
            file = self.source.footers.files[groups.shard[at]]
            raise ShardError(
                f"{str(file)!r} has a row group of {largest / 1e9:.2g} GB ({groups.num_rows[at]} images), of which "
                f"data.num_lanes={self.num_lanes} windows of data.window_groups={self.window_groups} would take "
                f"{needed / 1e9:.2g} GB, and data.window_gb is {self.window_gb:g}. Remedy: write the shards with row "
                "groups of about 100 images (never above 2 GB); or fewer lanes or groups, or a larger data.window_gb."
            )

    def _fingerprint(self, kept: Manifest) -> str:
        """32 hexadecimal digits over rows, size, samples, and the footers, which say where every page lies."""
        digests = self._squares.digest(np.arange(len(self._sampled())))
        return hashlib.blake2b(self._streamed.encode() + digests, digest_size=16).hexdigest()

    @cached_property
    def _streamed(self) -> str:
        """What the images of the stream depend on, whatever is sampled of them."""
        return f"{self.source.index().fingerprint} {self.image_size} {self.source.footers.digest} "

    @property
    def training_images(self) -> str:
        """As that of FundusDataModule; what is sampled for other ends does not matter."""
        return super().training_images.replace(self.fingerprint, self._streamed)

    @cached_property
    def split_fingerprint(self) -> str:
        """32 hexadecimal digits over which id is on which side, in the order of the rows."""
        return Manifest(self._ready().table.select(["id", "split"])).fingerprint

    # -- what callbacks and jobs ask for

    def dataset(self, split: str) -> FundusDataset:
        """The decoded sample of a split, with labels and ids. Raises ValueError when the split is empty."""
        if split not in self._datasets:
            manifest = self._ready()
            manifest.rows(split)  # refuses what is no split
            rows = self._samples[split]
            if len(rows) == 0:
                raise UserError(
                    f"the {split} split is empty: {len(manifest)} rows were shared out by fractions {self.fractions} "
                    f"with seed {self.seed}. Remedy: a larger data.fractions.{split} (and a smaller one of another: "
                    "they sum to 1), or another seed."
                )
            part, names = manifest.take(rows), list(self._samples)
            first = sum(len(self._samples[other]) for other in names[: names.index(split)])
            labels, places = torch.from_numpy(part.labels), np.arange(first, first + len(rows))
            masks = None if self._squares.masks is None else self._squares.masks.images
            self._datasets[split] = FundusDataset(self._squares.images.images, labels, part.ids, places, masks)
        return self._datasets[split]

    def labels(self, split: str) -> LongTensor:
        """Labels of all rows of a split, int64 [N, F]: those of `images(split)` first and in their order."""
        findings = Manifest(self._ready().table.select(list(NAMES)))
        rows, first = self.manifest.rows(split), self._samples[split]
        return torch.from_numpy(findings.take(np.concatenate([first, np.setdiff1d(rows, first)])).labels)

    def check_latents(self) -> None:
        """Raises ValueError: latents of all images would be the unpacking that streaming avoids."""
        raise UserError(NO_LATENTS)

    # -- loaders

    def repeat_rare(self, threshold: float) -> bool:
        """False: rows come as they lie in the shards."""
        return False

    def _loader(self, dataset: Dataset, training: bool) -> ResumableLoader:
        if not training:
            return super()._loader(dataset, training)
        rank, world_size, vary = self._place()
        stream = self.stream(rank, world_size, vary)
        batches = StreamBatches(stream.order, self.epoch_size, vary)
        return stream_loader(stream, batches, self.num_workers, self.training_images)

    def stream(self, rank: int, world_size: int, vary: bool) -> StreamDataset:
        """The training batches of a rank, by their numbers; without `vary` none is mirrored or transformed."""
        train, groups = self._ready().rows("train"), self.source.footers.groups
        is_train = np.zeros(int(groups.num_rows.sum()), dtype=bool)  # of the rows of the shards
        is_train[train if self.source.rows is None else self.source.rows[train]] = True
        order = StreamOrder(
            np.add.reduceat(is_train, groups.first_row, dtype=np.int64), self.batch_size,
            seed=self.seed, rank=rank, world_size=world_size,
            num_lanes=self.num_lanes, window_groups=self.window_groups,
        )  # fmt: skip
        if self.num_workers and order.num_lanes % self.num_workers:
            log.warning(
                "data.num_workers is %d, which does not divide the %d lanes that there are: every worker reads all row "
                "groups. A divisor shares them out.", self.num_workers, order.num_lanes,
            )  # fmt: skip
        return StreamDataset(self.source, order, is_train, self.image_size, flip=vary and self.flip,
                             draw=vary and bool(self.augmentation))  # fmt: skip
