"""Predicting with the Trainer, for the jobs that train nothing: what comes of it is written as it comes."""

import os
from collections.abc import Sequence
from datetime import timedelta

import lightning as L
from lightning.pytorch.strategies import DDPStrategy

from experiments import launch
from experiments.session import Run

PRECISION = "32-true"  # whatever trainer.precision says: what is made follows from the recipe alone
PATIENCE = timedelta(hours=6)  # of processes for the first, which looks at what is there before it joins them
MOST_ENCODERS = 8


def trainer_of(run: Run, callbacks: Sequence[L.Callback]) -> L.Trainer:
    """A Trainer that predicts on the devices of a run, and keeps nothing."""
    several = run.world_size > 1
    return L.Trainer(
        **{name: run.cfg.trainer[name] for name in ("accelerator", "devices", "num_nodes")},
        precision=PRECISION,
        strategy=DDPStrategy(timeout=PATIENCE) if several else "auto",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=str(run.output_dir),
    )


def predict(trainer: L.Trainer, module: L.LightningModule, data: L.LightningDataModule) -> None:
    """Predict without keeping what comes of it; what fails here ends the processes that were started for it.

    Raises:
        KeyboardInterrupt: on Ctrl-C or SIGTERM, which Lightning turns into an exit.
    """
    launch.begin()
    try:
        trainer.predict(module, datamodule=data, return_predictions=False)
    except BaseException as error:
        for process in getattr(trainer.strategy.launcher, "procs", None) or ():
            process.terminate()
        if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise


def encoding_threads(run: Run) -> int:
    """Threads that encode images, of each process: the machine's cores, shared out."""
    here = max(1, run.world_size // run.cfg.trainer.num_nodes)
    return max(1, min(MOST_ENCODERS, (os.cpu_count() or 1) // here))
