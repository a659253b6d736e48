"""FundusDataModule: from a source to batches. The one place that builds a DataLoader."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from os import cpu_count
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch import LongTensor
from torch.utils.data import DataLoader, Dataset

from datamodules.augment import flip_batch, to_unit_range
from datamodules.balance import balanced_weights, repeated_chances
from datamodules.dataset import Conditions, FundusDataset, RowsOf
from datamodules.duplicate_report import DuplicateReport, cached_duplicates, check_handling
from datamodules.errors import UserError
from datamodules.findings import check_name
from datamodules.image_mask_cache import ImageMaskCache
from datamodules.latents import LatentCache, LatentDataset
from datamodules.loader import EpochBatches, ResumableLoader, as_it_is, begin_worker
from datamodules.manifest import Manifest
from datamodules.masks import to_levels
from datamodules.rejected import check_rejected, write_rejected
from datamodules.selection import select
from datamodules.sources.base import Source
from datamodules.splits import split_by_patient, split_fingerprint
from datamodules.transforms import Augmentation

log = logging.getLogger(__name__)

FRACTIONS: Mapping[str, float] = {"train": 0.8, "val": 0.1, "test": 0.1}


class FundusDataModule(lightning.LightningDataModule):
    """Batches {image float32 [B, 3, S, S] in [0, 1], labels int64 [B, F], id list[str]} of a source, split by patient.

    With `mask` int64 [B, S, S] where the source has masks: its `mask_levels`, -1 where an image has none.

    `prepare_data` reads every image once into a cache below `cache_dir`, with up to `cache_workers` processes (None:
    one for each core), and stops when more than `max_rejected` are refused. `fractions` are for the patients without
    an official split, drawn by hash of (seed, patient). `flip` mirrors half of the training images, and `augment` are
    transforms of torchvision.transforms.v2 that change each of them, on the device (transforms.py). `epoch_size` is
    the number of images in a training epoch, None all of them once. `balance` names findings whose levels are shown
    equally often in training (balance.py). `duplicates` says what becomes of photographs that are there twice:
    `ignore` does not look for them, `report` writes them down, `drop` leaves out all but one, in the strictest of
    their splits (duplicate_report.py). `train_fraction` leaves that share of the training patients, and `num_train`
    that number of training images, to see what fewer labels are worth. `split_seed` splits the patients where it is not
    to be `seed`, which draws the rest. On several processes each reads its own share; the Trainer's sampler injection
    does not concern it.
    """

    def __init__(
        self,
        source: Source,
        image_size: int = 64,
        batch_size: int = 32,
        cache_dir: str | Path = "cache",
        num_workers: int = 0,
        fractions: Mapping[str, float] = FRACTIONS,
        seed: int = 0,
        flip: bool = True,
        max_rejected: int = 0,
        cache_workers: int | None = None,
        epoch_size: int | None = None,
        balance: Sequence[str] = (),
        duplicates: str = "ignore",
        augment: Sequence[Any] = (),
        train_fraction: float = 1.0,
        num_train: int | None = None,
        split_seed: int | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (("image_size", image_size, 8), ("batch_size", batch_size, 1),
                                   ("num_workers", num_workers, 0), ("max_rejected", max_rejected, 0)):  # fmt: skip
            if value < least:
                raise UserError(f"data.{name} is {value}, and must be at least {least}.")
        self.source = source
        self.image_size = image_size
        self.batch_size = batch_size
        self.cache_dir = Path(cache_dir)
        self.num_workers = num_workers
        self.fractions = dict(fractions)
        self.seed = seed
        self.flip = flip
        self.max_rejected = max_rejected
        self.cache_workers = cache_workers
        self.epoch_size = epoch_size
        self.balance = tuple(check_name(name) for name in balance)
        self._rare_below: float | None = None  # the threshold of `repeat_rare`
        if not 0 < train_fraction <= 1:
            raise UserError(f"data.train_fraction is {train_fraction}, and must be in (0, 1].")
        if num_train is not None and num_train < 1:
            raise UserError(f"data.num_train is {num_train}, and must be at least 1, or null for all training images.")
        self.augmentation, self.train_fraction, self.num_train = Augmentation(augment), train_fraction, num_train
        self.split_seed = seed if split_seed is None else split_seed
        self.duplicates = check_handling(duplicates, image_size)
        self.manifest: Manifest | None = None
        self.copies: DuplicateReport | None = None  # of the images before any of them is left out as a duplicate
        self.rejected: list[tuple[str, str]] = []
        self.fingerprint = ""
        self._squares: ImageMaskCache | None = None
        self._rows: np.ndarray = np.zeros(0, dtype=np.int64)
        self._datasets: dict[str, FundusDataset] = {}
        self.latents: LatentCache | None = None  # that are trained on instead of images
        self._train_loader: ResumableLoader | None = None
        self._position: dict[str, Any] | None = None  # where the next training loader goes on

    # -- making and opening

    def prepare_data(self) -> None:
        """Index the source, and read every image once: what cannot be read or shows no fundus is rejected.

        Raises ValueError when more than `max_rejected` are.
        """
        index = self.source.index()
        workers = cpu_count() if self.cache_workers is None else self.cache_workers
        squares = ImageMaskCache.build(self.source, index, self.image_size, self.cache_dir, workers)
        if squares.rejected:
            log.warning("%d of %d images of %s are rejected", len(squares.rejected), len(index), self.source.name)
        self._check_rejected(squares, index)
        if self.duplicates != "ignore":
            cached_duplicates(squares.images)

    def setup(self, stage: str | None = None) -> None:
        """Open the cache and split by patient; the second call and later ones do nothing."""
        if self.manifest is not None:
            return
        index = self.source.index()
        squares = ImageMaskCache.open(self.source, index, self.image_size, self.cache_dir)
        self._check_rejected(squares, index)
        if len(squares.rejected) == len(index):
            raise UserError(f"none of the {len(index)} images of {self.source.name} could be used.")
        self._rows, self.manifest, self.copies = select(
            index, squares, self.fractions, self.seed, self.duplicates, self.train_fraction, self.num_train,
            self.split_seed,
        )  # fmt: skip
        self._squares = squares
        self.fingerprint = self._fingerprint(index.take(self._rows))
        if len(self.manifest.rows("test")) == 0:
            log.warning("the test split of %s is empty: nothing can be tested on it", self.source.name)

    def _check_rejected(self, squares: ImageMaskCache, index: Manifest) -> None:
        paths = index.paths
        self.rejected = [(paths[row], reason) for row, reason in squares.rejected.items()]
        check_rejected(self.rejected, len(paths), self.source.name, self.max_rejected)

    def _fingerprint(self, kept: Manifest) -> str:
        """32 hexadecimal digits over the rows, the pixels and the size: the same data on two machines agree."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(f"{kept.fingerprint}\0{self.image_size}\0".encode())
        digest.update(self._squares.digest(self._rows))
        return digest.hexdigest()

    @property
    def split_fingerprint(self) -> str:
        """That of splits.py, of the rows in use."""
        return split_fingerprint(self._ready())

    # -- what callbacks and jobs ask for

    def _ready(self) -> Manifest:
        if self.manifest is None:
            raise RuntimeError("the data are not set up: call prepare_data() and setup() first.")
        return self.manifest

    def dataset(self, split: str) -> FundusDataset:
        """The images of a split, with labels and ids. Raises ValueError when the split is empty."""
        if split not in self._datasets:
            manifest = self._ready()
            rows = manifest.rows(split)
            if len(rows) == 0:
                raise UserError(
                    f"the {split} split is empty: {manifest.num_patients} patients were shared out by fractions "
                    f"{self.fractions} with seed {self.split_seed}, or by the official split{self._left_out()}. "
                    f"Remedy: more patients, a larger data.fractions.{split} (and a smaller one of another: they sum "
                    f"to 1), another seed, or, in a table, a split column that has {split!r}."
                )
            part = manifest.take(rows)
            labels = torch.from_numpy(part.labels)
            masks = None if self._squares.masks is None else self._squares.masks.images
            images = self._squares.images.images
            self._datasets[split] = FundusDataset(images, labels, part.ids, self._rows[rows], masks)
        return self._datasets[split]

    def _left_out(self) -> str:
        """What was left out of the splits on request, for messages."""
        dropped = len(self.copies.dropped) if self.copies is not None and self.duplicates == "drop" else 0
        return f", and {dropped} images were left out as duplicates (data.duplicates=drop)" if dropped else ""

    def labels(self, split: str) -> LongTensor:
        """Labels of a split, int64 [N, F], in the order of `images(split)`."""
        return self.dataset(split).labels

    def conditions(self, split: str) -> LongTensor | Conditions:
        """What the images of a split show, in their order; rows of it are conditions of a generator.

        These are the labels, or labels with masks where there are masks.
        """
        dataset = self.dataset(split)
        return self.labels(split) if dataset.masks is None else Conditions(dataset.labels, dataset.masks)

    def training_labels(self) -> LongTensor:
        """Labels int64 [N, F] of the training images, once each, however often they are drawn."""
        return self.labels("train")

    def labels_of_all_training_patients(self) -> LongTensor:
        """Labels int64 [N, F] of the training split, with those that `train_fraction` and `num_train` leave out."""
        if self.train_fraction == 1 and self.num_train is None:
            return self.labels("train")
        return torch.from_numpy(self._indexed().select("train").labels)

    def images(self, split: str) -> RowsOf:
        """Images of a split, an array-like uint8 [N, S, S, 3] that reads from the cache what is indexed."""
        return self.dataset(split).images

    def check_latents(self) -> None:
        """Raise ValueError where training on cached latents would leave out what training images are to go through."""
        if self.augmentation:
            raise UserError(
                "data.augment changes images, and training is to be on cached latents, which were made before. Remedy: "
                "job.cache_latents=false, or augment=none."
            )

    def attach_latents(self, cache: LatentCache | None) -> None:
        """Train on cached latents of `images("train")` instead of images; None goes back to images.

        Raises ValueError when the cache is of other images, or of another split where it says of which, or when it
        does not say of which images it is.
        """
        if cache is not None:
            self.check_latents()
            cache.check_is_of(len(self.dataset("train")), self.fingerprint, self.split_fingerprint)
        self.latents = cache

    def write_index(self, folder: str | Path) -> None:
        """Write `manifest.parquet` (the images in use, with their splits) and `rejected.csv` (path, reason) there.

        And `duplicates.csv`, where they were looked for.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._ready().write(folder / "manifest.parquet")
        self.write_rejected(folder)
        if self.copies is not None:
            self.copies.write(folder / "duplicates.csv")

    def write_rejected(self, folder: str | Path) -> None:
        """Write `rejected.csv` (path, reason) there, also when there are too many to go on."""
        write_rejected(folder, self.rejected)

    def preview(self) -> dict[str, Any]:
        """As `describe`, by the index alone: no image has been read yet, so none is rejected."""
        return self._counts(self._indexed())

    def _indexed(self) -> Manifest:
        """The whole index with its splits, nothing rejected or left out."""
        return split_by_patient(self.source.index(), self.fractions, self.split_seed)

    def parts(self) -> list[tuple[Source, Manifest]]:
        """Each source that is read, with its manifest and splits: of the images in use, before setup of all."""
        return [(self.source, self._indexed() if self.manifest is None else self.manifest)]

    def describe(self) -> dict[str, Any]:
        """Counts for people: images and patients per split, and for each finding how many of each level."""
        prints = {"fingerprint": self.fingerprint, "split_fingerprint": self.split_fingerprint}
        return {**self._counts(self._ready()), **prints}

    def _counts(self, manifest: Manifest) -> dict[str, Any]:
        about = {"source": self.source.name, "image_size": self.image_size}
        return {**about, **manifest.counts(), "num_rejected": len(self.rejected)}

    # -- loaders

    def _place(self) -> tuple[int, int, bool]:
        """Rank, number of ranks, and whether training batches vary: not where a few are to be overfitted."""
        trainer = self.trainer
        if trainer is None:
            return 0, 1, True
        return trainer.global_rank, trainer.world_size, not trainer.overfit_batches > 0

    def _loader(self, dataset: Dataset, training: bool) -> ResumableLoader:
        rank, world_size, vary = self._place()
        vary = training and vary
        batches = EpochBatches(
            len(dataset), self.batch_size, seed=self.seed, rank=rank, world_size=world_size, shuffle=vary,
            flip=vary and self.flip, drop_last=training, epoch_size=self.epoch_size if training else None,
            draw=vary and bool(self.augmentation),
            weights=self._chances() if vary else None,
        )  # fmt: skip
        loader = DataLoader(
            dataset,
            batch_size=None,
            sampler=batches,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            collate_fn=as_it_is,
            worker_init_fn=begin_worker,
        )
        return ResumableLoader(loader, batches, self.training_images if training else "")

    def repeat_rare(self, threshold: float) -> bool:
        """From here on draw training images of rare levels more often, as `repeated_chances` has it.

        Returns:
            False, and nothing changes, where `balance` says how images are drawn.
        """
        self._rare_below = None if self.balance else threshold
        return not self.balance

    def _chances(self) -> np.ndarray | None:
        """Of each training image at every draw; None where each comes once."""
        if self.balance:
            return balanced_weights(self.labels("train").numpy(), self.balance)
        return None if self._rare_below is None else repeated_chances(self.labels("train").numpy(), self._rare_below)

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled batches of equal size; of latents when they are attached."""
        train = self.dataset("train")
        self._train_loader = self._loader(
            train if self.latents is None else LatentDataset(self.latents, train), training=True
        )
        if self._position is not None:
            self._train_loader.load_state_dict(self._position)
            self._position = None
        return self._train_loader

    def state_dict(self) -> dict[str, Any]:
        """Where training is in its data. Lightning saves the loader's state too, but does not restore it to a loader
        that was made before, as it is for a learning rate whose course ends with the training.
        """
        return {} if self._train_loader is None else {"train_loader": self._train_loader.state_dict()}

    @property
    def training_images(self) -> str:
        """What training batches depend on, but for their order and size."""
        balance = f" balance={','.join(self.balance)}" if self.balance else ""
        balance += "" if self._rare_below is None else f" repeat_threshold={self._rare_below}"
        augment = f" augment={self.augmentation}" if self.augmentation else ""
        return f"{self.fingerprint} {self.split_fingerprint} flip={self.flip}{balance}{augment}"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The next training loader goes on from there, and one that waits for its training to begin."""
        self._position = state_dict.get("train_loader")
        if self._position is not None and self._train_loader is not None and not self._train_loader.has_begun:
            self._train_loader.load_state_dict(self._position)

    def teardown(self, stage: str) -> None:
        """The next training begins anew, unless it has a checkpoint of its own."""
        self._position = None

    def val_dataloader(self) -> ResumableLoader:
        """Every validation image once, in order."""
        return self._loader(self.dataset("val"), training=False)

    def test_dataloader(self) -> ResumableLoader:
        """Every test image once, in order."""
        return self._loader(self.dataset("test"), training=False)

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """On the device: mirror what is to be mirrored, turn uint8 into float32 [0, 1], and augment."""
        batch = flip_batch(dict(batch))
        if "image" in batch and batch["image"].dtype == torch.uint8:
            batch["image"] = to_unit_range(batch["image"])
        if "mask" in batch and batch["mask"].dtype == torch.uint8:
            batch["mask"] = to_levels(batch["mask"])
        return self.augmentation(batch)
