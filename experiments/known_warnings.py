"""Silence what a run's reader can do nothing about: a line a message, each named; everything else is still said.

What is said holds no control characters, wherever the names in it are from.
"""

import logging
import threading
import warnings
from collections.abc import Callable
from typing import Any

from callbacks.disk import refusal
from callbacks.files import printable

# Lightning's lines of every Trainer: the run says itself which device, batch and steps it has, and advertises nothing.
LOGGED = (
    "💡 Tip: For seamless cloud",
    "GPU available: ",
    "TPU available: False",
    "Loading `train_dataloader` to estimate number of stepping batches.",
    "`Trainer.fit` stopped: `max_epochs=",  # the end that was asked for
    "SLURM auto-requeueing enabled.",  # it finds our own handlers, and leaves them
)
WARNED = (
    # Lightning's own use of torch's trees; nothing of ours can change it.
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # The frozen autoencoder and the averaged weights are meant to be.
    r"Found \d+ module\(s\) in eval mode at the start of training",
    # Small cached images are read fastest in the training process: data.num_workers is the user's choice.
    r"The '(train|val|test|predict)_dataloader' does not have many workers",
    # One line a batch is fine for short epochs: metrics.csv keeps all of them.
    r"The number of training batches \(\d+\) is smaller than the logging interval",
    # What last.ckpt is meant to hold: the weights after the step.
    r"Using ModelCheckpoint with manual optimization and every_n_train_steps",
    # checkpoints/ of a run that is resumed is not empty.
    r"Checkpoint directory .* exists and is not empty",
)


class _Printable(logging.LogRecord):
    """A message whose names of files and columns cannot move the terminal's cursor."""

    def getMessage(self) -> str:
        return printable(super().getMessage())


class _Unwanted(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(LOGGED)


def filter_known_warnings() -> None:
    """Leave these messages out, in this process and, by the same call, in those that it starts."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logger = logging.getLogger(name)
        if not any(isinstance(unwanted, _Unwanted) for unwanted in logger.filters):
            logger.addFilter(_Unwanted())
    logging.setLogRecordFactory(_Printable)
    if warnings.formatwarning is not _format_warning:
        _before.append(warnings.formatwarning)
        warnings.formatwarning = _format_warning
    if threading.excepthook is not _say_of_thread:
        _hooks.append(threading.excepthook)
        threading.excepthook = _say_of_thread
    for message in WARNED:
        warnings.filterwarnings("ignore", message=message)


_before: list[Callable[..., str]] = []  # what warnings were formatted by
_hooks: list[Callable[[threading.ExceptHookArgs], Any]] = []  # by which threads that died were told of


def _format_warning(*arguments: Any, **options: Any) -> str:
    return printable(_before[-1](*arguments, **options))


def _say_of_thread(died: threading.ExceptHookArgs) -> None:
    """What ended a thread; but what the disk refused TensorBoard's is raised again where its writer is used next."""
    if not type(died.thread).__module__.startswith("tensorboard.") or refusal(died.exc_value) is None:
        _hooks[-1](died)
