"""The steps that the training jobs share."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

from callbacks.metrics.estimate import Better
from callbacks.run_record import changed_data
from datamodules.errors import UserError
from datamodules.fundus import FundusDataModule
from datamodules.manifest import SPLITS
from datamodules.mixed import SYNTHETIC
from experiments import launch
from experiments.assembly import build_datamodule
from experiments.lineage import check_test_patients
from experiments.machines import environment_text
from experiments.metric_directions import direction_of
from experiments.report import data_text, heading, say
from experiments.session import Run
from lightning_modules.checkpoint import load_training
from lightning_modules.checkpoint_shards import prune


def prepare_data(
    run: Run,
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
    say(environment_text(run.environment))
    datamodule = build_datamodule(run.cfg)
    say(heading("data, by the index"))
    summary = datamodule.preview()
    say(data_text(summary))
    check_batch_size(run, sum(summary["splits"].get(name, {}).get("num_images", 0) for name in ("train", SYNTHETIC)))
    check_test_patients(datamodule, weights)
    if rank_zero_only.rank == 0:
        if foretell is not None:
            foretell(datamodule, summary)
        run.output_dir.mkdir(parents=True, exist_ok=True)
        run.write_config()
        try:
            datamodule.prepare_data()
        finally:
            datamodule.write_rejected(run.output_dir)
    return datamodule


def check_batch_size(run: Run, num_images: int) -> None:
    """See that there is a batch for each process.

    Raises:
        ValueError: fewer training images than a step takes.
    """
    cfg, processes = run.cfg, run.world_size
    sizes = {"data.batch_size": cfg.data.batch_size}
    if "batch_size" in cfg.autoencoder and not (cfg.autoencoder.pretrained or cfg.ckpt):
        sizes["autoencoder.batch_size"] = cfg.autoencoder.batch_size
    for name, size in sizes.items():
        if size * processes > num_images:
            raise UserError(
                f"{name}={size} on {processes} process(es) is more than the {num_images} training images. "
                f"Set {name}={max(1, num_images // processes)} or less."
            )


def describe_data(datamodule: FundusDataModule, output_dir: Path) -> None:
    """After the set-up: keep the index, and say what was rejected, and what is there twice."""
    if rank_zero_only.rank == 0:
        datamodule.write_index(output_dir)
    if datamodule.rejected:
        say(f"{len(datamodule.rejected)} images are rejected: {output_dir / 'rejected.csv'}")
    if datamodule.duplicates == "drop" or datamodule.train_fraction < 1 or datamodule.num_train is not None:
        splits = {name: len(datamodule.manifest.rows(name)) for name in SPLITS}
        say("in use:       " + ", ".join(f"{number} images in {name}" for name, number in splits.items()))
    if datamodule.copies is not None:
        done = "they are left out" if datamodule.duplicates == "drop" else "data.duplicates=drop leaves them out"
        listed = f" ({done}): {output_dir / 'duplicates.csv'}" if datamodule.copies.pairs else ""
        say(f"duplicates: {datamodule.copies}{listed}")


def fit(trainer: L.Trainer, module: L.LightningModule, datamodule: FundusDataModule, run: Run) -> None:
    """Train from the run's checkpoint, or from the start, and leave `checkpoints/last.ckpt` of the last step.

    Only tensors and plain containers are read from the checkpoint.

    Raises:
        ValueError: a checkpoint of more epochs than are to be trained, or of weights alone.
    """
    checkpoint, folder = run.checkpoint, run.output_dir / "checkpoints"
    if checkpoint:
        progress = load_training(checkpoint)
        _check_epochs(progress, checkpoint, trainer.max_epochs)
        say(f"going on after step {progress.get('global_step', 0)}")
        say_changed_data(Path(checkpoint).parent.parent, datamodule)
    launch.begin()
    trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint or None, weights_only=True)
    trainer.save_checkpoint(folder / "last.ckpt", weights_only=False)
    if trainer.is_global_zero:
        prune(folder)  # of shares that a strategy before this one wrote


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
        raise UserError(
            f"{checkpoint} has {done} epochs behind it, and trainer.max_epochs={max_epochs}: nothing is left to train. "
            f"Give {done} or more, or another output_dir to begin anew."
        )


def beginning(checkpoint: str | None, init: Mapping[str, Any]) -> str | None:
    """Where the weights lie that training begins with; None for those at random or of ImageNet: they know no fundus.

    Args:
        checkpoint: of the whole network, if there is one.
        init: the group `model/init`, which gives the backbone its weights where there is none.
    """
    if checkpoint:
        return checkpoint
    return None if init["_target_"].endswith((".ImageNetInit", ".ImageNetStart")) else init.get("path")


def chosen_checkpoint(trainer: L.Trainer, output_dir: Path) -> Path:
    """`best.ckpt`: the best epoch, or the last one where the monitored figure was undefined in every epoch."""
    monitored, path = trainer.checkpoint_callback, output_dir / "checkpoints" / "best.ckpt"
    if monitored.best_model_score is None or not math.isfinite(monitored.best_model_score):
        say(
            f"{monitored.monitor} was undefined after every epoch (does the validation split lack a class?): no epoch "
            "is the best, and the last one is measured. Remedy: job.monitor=val/loss, or a larger validation split."
        )
        trainer.save_checkpoint(path, weights_only=False)
    return path


def monitored(name: str | None, callbacks: Sequence[L.Callback]) -> tuple[str, Better, int]:
    """The metric that chooses the best checkpoint, which direction is better, and every how many epochs it is measured.

    Args:
        name: None takes the first that a callback measures, else val/loss.

    Raises:
        ValueError: no callback measures it, or neither the callback nor the metric declares a direction.
    """
    measured = {callback.tag: callback for callback in callbacks if hasattr(callback, "tag")}
    name = next(iter(measured), "val/loss") if name is None else name
    if name not in (*measured, "val/loss"):
        raise UserError(f"job.monitor={name} is measured by no callback of this run: {', '.join(measured)}, val/loss.")
    callback = measured.get(name)
    declare = f"give {type(callback).__name__} an attribute mode, 'max' or 'min'"
    mode = getattr(callback, "mode", None) or direction_of(name, "job.monitor", declare)
    return name, mode, getattr(callback, "every_n_epochs", 1)
