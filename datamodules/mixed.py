"""MixedDataModule: photographs, and beside them synthetic images in every training batch (`mix=synthetic`)."""

import hashlib
import inspect
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import LongTensor
from torch.utils.data import Dataset

from datamodules.dataset import FundusDataset, Picks
from datamodules.errors import UserError
from datamodules.fundus import FundusDataModule
from datamodules.loader import EpochBatches, Epochs, ResumableLoader
from datamodules.manifest import Manifest
from datamodules.masks import NO_MASK
from datamodules.shard_stream import StreamBatches, StreamDataset, StreamOrder, stream_loader
from datamodules.shards import ShardSource
from datamodules.sources.base import Source
from datamodules.streaming import ShardDataModule

SYNTHETIC = "synthetic"  # of the counts, beside the splits
ALL_TRAIN = {"train": 1.0, "val": 0.0, "test": 0.0}
OTHER_DRAWS = 0x5E7  # so that a synthetic image does not share its transforms with the photograph of its row
NO_LATENTS = (
    "mix=synthetic streams its synthetic images, and latents of a stream cannot be cached. Remedy: "
    "job.cache_latents=false, which encodes every batch."
)


class MixedDataModule(FundusDataModule):
    """A FundusDataModule of photographs whose training batches hold `ratio` synthetic images for each real one.

    Of the `batch_size` B images on each process round(B / (1 + ratio)) are real and come first, the others are streamed
    from the set in passes of their own (shard_stream.py). An epoch is once through the real training images, or
    `epoch_size` images of both kinds. What is measured, and what callbacks ask for, is of the photographs alone:
    validation, test, `images`, `labels`, `manifest`. A batch is a function of (seed, rank, epoch, batch). Masks of the
    set are learnt as those of the photographs are, whose levels they must have; without masks they are unknown.

    Args:
        synthetic: the set; all its images are for training.
        ratio: synthetic images for one real image; infinite: training batches are synthetic, and an epoch is once
            through the set.
        num_lanes, window_groups, window_gb: of the stream, as in ShardDataModule.
        settings: of FundusDataModule.

    Raises:
        ValueError: a ratio that leaves no real or no synthetic image in a batch; shards as the other part. Masks of
            other levels than the photographs', or none where nothing else is trained on, when the shards are read.
    """

    def __init__(
        self,
        synthetic: ShardSource,
        ratio: float = 1.0,
        num_lanes: int = 8,
        window_groups: int = 8,
        window_gb: float = 2.0,
        **settings: Any,
    ) -> None:
        foreign = set(settings) - set(inspect.signature(FundusDataModule).parameters)
        if foreign:
            raise UserError(
                f"mix=synthetic mixes with photographs, and this data option has {', '.join(sorted(foreign))}: it "
                "streams shards itself. Remedy: the photographs' option by data=, and the set by data.synthetic.root."
            )
        super().__init__(**settings)
        self.ratio = ratio
        self.num_real = num_real_of(self.batch_size, ratio)
        self.num_synthetic = self.batch_size - self.num_real
        self.synthetic = ShardDataModule(
            synthetic, self.image_size, self.num_synthetic, self.cache_dir, self.num_workers, ALL_TRAIN, self.seed,
            self.flip, settings.get("augment", ()), self.cache_workers, num_val=1, num_reference=1,
            num_lanes=num_lanes, window_groups=window_groups, window_gb=window_gb,
        )  # fmt: skip

    # -- making and opening

    def prepare_data(self) -> None:
        """Read every photograph, and check the shards; one synthetic image is decoded, to see that it can be."""
        self._check_levels()
        super().prepare_data()
        self.synthetic.prepare_data()

    def _check_levels(self) -> None:
        """Raise UserError where masks of the set mean other things than the photographs', or lack."""
        real = tuple(getattr(self.source, "mask_levels", ()))
        theirs = self.synthetic.source.mask_levels
        if real and (theirs or not self.num_real) and theirs != real:
            said = f"have the levels {', '.join(theirs)}" if theirs else "are not there"
            raise UserError(
                f"masks of the set {str(self.synthetic.source.root)!r} {said}, and those of {self.source.name} have "
                f"{', '.join(real)}. Remedy: a set of a generator that learnt these masks (docs/pairs.md)."
            )

    def setup(self, stage: str | None = None) -> None:
        """Open both; the second call and later ones do nothing."""
        if self.manifest is not None:
            return
        self.synthetic.setup(stage)
        super().setup(stage)
        both = f"{self.fingerprint} {self.synthetic.fingerprint}"
        self.fingerprint = hashlib.blake2b(both.encode(), digest_size=16).hexdigest()

    @property
    def training_images(self) -> str:
        """As that of FundusDataModule, with the synthetic ones, and how many there are of both in a batch."""
        numbers = f"{self.num_real} real and {self.num_synthetic} synthetic"
        return f"{super().training_images} with {self.synthetic.training_images}, {numbers}"

    # -- what callbacks and jobs ask for

    def training_labels(self) -> LongTensor:
        """Labels int64 [N, F] of an epoch: of the real images, then of as many synthetic ones as come with them."""
        return self._with_synthetic(self.labels("train"))

    def labels_of_all_training_patients(self) -> LongTensor:
        """As that of FundusDataModule, with those of synthetic images behind."""
        return self._with_synthetic(super().labels_of_all_training_patients())

    def _with_synthetic(self, real: LongTensor) -> LongTensor:
        """Labels of real images with those of synthetic ones behind; of all synthetic ones where none is real."""
        if not self.num_real:
            return self.synthetic.labels("train")
        return torch.cat([real, self._synthetic_labels(round(len(real) * self.num_synthetic / self.num_real))])

    def _synthetic_labels(self, number: int) -> LongTensor:
        """Of `number` synthetic training images, drawn by the seed."""
        [(_, manifest)] = self.synthetic.parts()
        rows = manifest.rows("train")
        stream = np.random.default_rng(np.random.SeedSequence((self.seed, 0x1AB5)))
        return torch.from_numpy(manifest.take(stream.choice(rows, number, replace=number > len(rows))).labels)

    def check_latents(self) -> None:
        """Raises ValueError: a part of the images comes from a stream."""
        raise UserError(NO_LATENTS)

    def parts(self) -> list[tuple[Source, Manifest]]:
        """The photographs', and the set's; photographs that nothing is trained on are not among the first."""
        [(source, manifest)] = super().parts()
        if not self.num_real:
            manifest = manifest.take(np.setdiff1d(np.arange(len(manifest)), manifest.rows("train")))
        return [(source, manifest), *self.synthetic.parts()]

    def write_index(self, folder: str | Path) -> None:
        """As FundusDataModule, and `manifest_synthetic.parquet`, the same of the synthetic images."""
        super().write_index(folder)
        [(_, manifest)] = self.synthetic.parts()
        manifest.write(Path(folder) / "manifest_synthetic.parquet")

    def _counts(self, manifest: Manifest) -> dict[str, Any]:
        """With a column `synthetic` beside the splits."""
        found = super()._counts(manifest)
        found["source"] += f" (in each batch {self.num_real} real and {self.num_synthetic} synthetic images)"
        of_set = self.synthetic.preview()["splits"]["train"]
        found["splits"][SYNTHETIC] = {**of_set, "num_patients": 0}
        return found

    # -- loaders

    def _loader(self, dataset: Dataset, training: bool) -> ResumableLoader:
        if not training:
            return super()._loader(dataset, training)
        rank, world_size, vary = self._place()
        if self.num_real * world_size > len(dataset):
            raise UserError(
                f"a step takes {self.num_real} real images on each of {world_size} process(es), and there are only "
                f"{len(dataset)} real training images. Remedy: a smaller data.batch_size (now {self.batch_size}), or a "
                f"larger data.synthetic.ratio (now {self.ratio:g})."
            )
        steps = None if self.epoch_size is None else self.epoch_size // (self.batch_size * world_size)
        if steps == 0:
            raise UserError(
                f"data.epoch_size is {self.epoch_size}, and must be at least one batch of {self.batch_size} on each of "
                f"{world_size} process(es)."
            )
        stream = self.synthetic.stream(rank, world_size, vary)
        if not self.num_real:
            alone = StreamBatches(stream.order, self.epoch_size, vary)
            return stream_loader(stream, alone, self.num_workers, self.training_images)
        real = self._real_batches(len(dataset), rank, world_size, vary, steps)
        synthetic = StreamBatches(stream.order, len(real) * self.num_synthetic * world_size, vary)
        batches = MixedBatches(real, synthetic)
        return stream_loader(MixedDataset(dataset, stream), batches, self.num_workers, self.training_images)

    def _real_batches(self, num_rows: int, rank: int, world_size: int, vary: bool, steps: int | None) -> EpochBatches:
        weights = self._chances() if vary else None
        return EpochBatches(
            num_rows, self.num_real, seed=self.seed, rank=rank, world_size=world_size, shuffle=vary,
            flip=vary and self.flip, drop_last=True, draw=vary and bool(self.augmentation), weights=weights,
            epoch_size=None if steps is None else steps * self.num_real * world_size,
        )  # fmt: skip


class MixedBatches(Epochs):
    """The batches of an epoch on one rank: Picks of real images, each with the number of a stream's batch.

    For a DataLoader with `batch_size=None`, as EpochBatches and StreamBatches are, of which it is made.
    """

    def __init__(self, real: EpochBatches, synthetic: StreamBatches) -> None:
        self.real, self.synthetic = real, synthetic
        self.batch_size = real.batch_size + synthetic.batch_size
        self.seed, self.world_size, self.num_rows = real.seed, real.world_size, real.num_rows
        self.epoch_size = len(real) * self.batch_size * self.world_size

    @property
    def order(self) -> StreamOrder:
        """That of the stream."""
        return self.synthetic.order

    def __len__(self) -> int:
        return len(self.real)

    def __iter__(self) -> Iterator[tuple[Picks, int]]:
        for part in (self.real, self.synthetic):
            part.epoch, part.start = self.epoch, self.start
        yield from zip(self.real, self.synthetic, strict=True)


class MixedDataset(Dataset):
    """`dataset[picks, number]` is a batch of both: the real images first. Masks that a set lacks are unknown."""

    def __init__(self, real: FundusDataset, synthetic: StreamDataset) -> None:
        self.real, self.synthetic = real, synthetic

    def __getitem__(self, place: tuple[Picks, int]) -> dict[str, Any]:
        picks, number = place
        real, synthetic = self.real[picks], self.synthetic[number]
        if "draw" in synthetic:
            synthetic["draw"] = synthetic["draw"] ^ OTHER_DRAWS
        if "mask" in real and "mask" not in synthetic:
            shape = (len(synthetic["labels"]), *real["mask"].shape[1:])
            synthetic["mask"] = torch.full(shape, NO_MASK, dtype=torch.uint8)
        both = {name: (value, synthetic[name]) for name, value in real.items()}
        return {name: sum(pair, []) if name == "id" else torch.cat(pair) for name, pair in both.items()}


def num_real_of(batch_size: int, ratio: float) -> int:
    """Real images in a batch: round(batch_size / (1 + ratio)); 0 where the ratio is infinite.

    Raises:
        ValueError: a ratio that is not positive, or leaves none of one kind.
    """
    if not ratio > 0:
        raise UserError(
            f"data.synthetic.ratio is {ratio}, and must be positive: synthetic images for one real image. Without "
            "synthetic ones: mix=none; without real ones: data.synthetic.ratio=inf, or data=synthetic."
        )
    if ratio == math.inf:
        return 0
    num_real = math.floor(batch_size / (1 + ratio) + 0.5)
    if not 0 < num_real < batch_size:
        lacking, least = ("real", 1 + ratio) if num_real == 0 else ("synthetic", 1 + 1 / ratio)
        raise UserError(
            f"data.batch_size={batch_size} with data.synthetic.ratio={ratio:g} has no {lacking} image in a batch. "
            f"Remedy: data.batch_size={math.ceil(least)} or more, or a ratio nearer to 1."
        )
    return num_real
