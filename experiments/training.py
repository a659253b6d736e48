"""The steps that the training jobs share."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig

from callbacks.atomic import write_text
from callbacks.run_record import RunRecord, changed_data
from datamodules.fundus import FundusDataModule
from datamodules.manifest import SPLITS
from datamodules.mixed import SYNTHETIC
from experiments import launch
from experiments.assembly import build_datamodule, plain
from experiments.lineage import check_test_patients
from experiments.machines import environment_text
from experiments.report import config_text, data_text, heading, say, say_error
from experiments.trainers import environment_of, world_size
from lightning_modules.checkpoint import load_training
from lightning_modules.checkpoint_shards import prune


def prepare_data(
    cfg: DictConfig,
    output_dir: Path,
    weights: str | None = None,
    foretell: Callable[[FundusDataModule, Mapping[str, Any]], None] | None = None,
) -> FundusDataModule:
    """Index the data, say what there is, read every image once, and list what is rejected.

    Args:
        foretell: is given the datamodule and what its index says, before anything is read; on the first process.
        weights: where the weights that the training begins with lie, if they must not know its test patients.

    Raises:
        ValueError: rejected images beyond data.max_rejected; they are in `rejected.csv` all the same. Test patients
            who trained the generator of a synthetic set in the data, or `weights`.
    """
    say(environment_text(environment_of(cfg)))
    datamodule = build_datamodule(cfg)
    say(heading("data, by the index"))
    summary = datamodule.preview()
    say(data_text(summary))
    check_batch_size(cfg, sum(summary["splits"].get(name, {}).get("num_images", 0) for name in ("train", SYNTHETIC)))
    check_test_patients(datamodule, weights)
    if rank_zero_only.rank == 0:
        if foretell is not None:
            foretell(datamodule, summary)
        output_dir.mkdir(parents=True, exist_ok=True)
        write_text(output_dir / "config.yaml", config_text(plain(cfg)) + "\n")
        try:
            datamodule.prepare_data()
        finally:
            datamodule.write_rejected(output_dir)
    return datamodule


def check_batch_size(cfg: DictConfig, num_images: int) -> None:
    """See that there is a batch for each process.

    Raises:
        ValueError: fewer training images than a step takes.
    """
    processes = world_size(cfg)
    sizes = {"data.batch_size": cfg.data.batch_size}
    if "batch_size" in cfg.autoencoder and not (cfg.autoencoder.pretrained or cfg.ckpt):
        sizes["autoencoder.batch_size"] = cfg.autoencoder.batch_size
    for name, size in sizes.items():
        if size * processes > num_images:
            raise ValueError(
                f"{name}={size} on {processes} process(es) is more than the {num_images} training images. "
                f"Set {name}={max(1, num_images // processes)} or less."
            )


def describe_data(datamodule: FundusDataModule, output_dir: Path) -> None:
    """After the set-up: keep the index, and say what was rejected, and what is there twice."""
    if rank_zero_only.rank == 0:
        datamodule.write_index(output_dir)
    if datamodule.rejected:
        say(f"{len(datamodule.rejected)} images are rejected: {output_dir / 'rejected.csv'}")
    if datamodule.duplicates == "drop" or datamodule.train_fraction < 1:
        splits = {name: len(datamodule.manifest.rows(name)) for name in SPLITS}
        say("in use:       " + ", ".join(f"{number} images in {name}" for name, number in splits.items()))
    if datamodule.copies is not None:
        done = "they are left out" if datamodule.duplicates == "drop" else "data.duplicates=drop leaves them out"
        listed = f" ({done}): {output_dir / 'duplicates.csv'}" if datamodule.copies.pairs else ""
        say(f"duplicates: {datamodule.copies}{listed}")


def fit(
    trainer: L.Trainer, module: L.LightningModule, datamodule: FundusDataModule, output_dir: Path, checkpoint: str
) -> None:
    """Train from `checkpoint` ("" from the start) and leave `checkpoints/last.ckpt` of the last step.

    Only tensors and plain containers are read from the checkpoint.

    Raises:
        ValueError: a checkpoint of more epochs than are to be trained, or of weights alone.
    """
    if checkpoint:
        progress = load_training(checkpoint)
        _check_epochs(progress, checkpoint, trainer.max_epochs)
        say(f"going on after step {progress.get('global_step', 0)}")
        say_changed_data(Path(checkpoint).parent.parent, datamodule)
    launch.begin()
    trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint or None, weights_only=True)
    trainer.save_checkpoint(output_dir / "checkpoints" / "last.ckpt", weights_only=False)
    if trainer.is_global_zero:
        prune(output_dir / "checkpoints")  # of shares that a strategy before this one wrote


def say_changed_data(run: Path, datamodule: FundusDataModule) -> None:
    """Say it where the run in a folder was at work on other data than these."""
    changed = changed_data(run, datamodule)
    if changed:
        what = ", ".join(f"{name} {then[:8]} then, {now[:8]} now" for name, (then, now) in changed.items())
        say(
            f"WARNING: these are other data than {run} was trained on ({what}; its record.json has all). From here on "
            "it learns from these. Figures of before and after are of different images, and so is which epoch is the "
            "best. If that is not meant: stop, and give the data as they were, or another output_dir."
        )


def _check_epochs(progress: Mapping[str, Any], checkpoint: str, max_epochs: int | None) -> None:
    loops = progress.get("loops", {})
    done = loops.get("fit_loop", {}).get("epoch_progress", {}).get("current", {}).get("completed", 0)
    if max_epochs is not None and 0 <= max_epochs < done:
        raise ValueError(
            f"{checkpoint} has {done} epochs behind it, and trainer.max_epochs={max_epochs}: nothing is left to train. "
            f"Give {done} or more, or another output_dir to begin anew."
        )


@contextmanager
def recorded(record: RunRecord) -> Iterator[RunRecord]:
    """Open a session of the record; one that does not come to its end is closed as interrupted or failed."""
    record.start()
    try:
        yield record
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        if not stopped:
            record.record["error"] = f"{type(error).__name__}: {error}"
        try:
            record.finish("interrupted" if stopped else "failed")
        except OSError as refused:  # as on a full disk, of which the error itself says more
            say_error(f"record.json could not be written ({refused}), and says that this still runs.")
        raise
