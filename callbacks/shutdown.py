"""Stop on Ctrl-C or SIGTERM with a checkpoint from which training goes on as if it had never stopped."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from callbacks.atomic_checkpoint_io import finish_writing

ECHO_SECONDS = 1.0  # launchers pass on a signal that the terminal has sent already: within this time it is the same one


WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)  # by which SLURM says that the time is almost up: sbatch --signal=USR1@120


class Interrupted(SystemExit):
    """Raised out of Trainer.fit once the checkpoint is saved; its code is 128 + the signal's number on rank 0.

    The other ranks leave with code 0: a launcher that sees another code kills rank 0 before it has written its record.

    Attributes:
        checkpoint: path of the checkpoint to go on from.
    """

    def __init__(self, checkpoint: str, code: int) -> None:
        super().__init__(code)
        self.checkpoint = checkpoint

    def __str__(self) -> str:
        return f"saved {self.checkpoint}; go on with resume=auto"


class GracefulShutdown(Callback):
    """On SIGINT, SIGTERM or a queue's warning save `checkpoints/last.ckpt` at the batch's end and leave `Trainer.fit`.

    The ranks agree at the end of each batch, so it is enough that one of them gets the signal. After the last batch of
    an epoch, or where a validation follows, the checkpoint is a makeshift: resuming would not go back to what follows.
    So that is finished, and the checkpoint saved again after one batch more. A second signal stops at once.

    Lightning's own handling of these signals is set aside while this trains: it stops without a checkpoint, or with one
    of the midst of a step.

    Args:
        output_dir: folder of the run.
    """

    def __init__(self, output_dir: str) -> None:
        self.path = str(Path(output_dir) / "checkpoints" / "last.ckpt")
        self._received: int | None = None
        self._received_at = 0.0
        self._is_warned = False  # some rank was, whatever this one has received
        self._process = 0
        self._listening = False
        self._previous: dict[int, Any] = {}
        self._num_saved = 0
        self._is_exact = False  # resuming from what is saved repeats and leaves out nothing

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Go to the end of the callbacks: the checkpoint is to hold what the others have noted."""
        trainer.callbacks = [*(other for other in trainer.callbacks if other is not self), self]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to SIGINT; before the loaders' workers are forked, so that Ctrl-C does not kill them."""
        self._received, self._num_saved, self._is_exact, self._process = None, 0, False, os.getpid()
        self._listen(signal.SIGINT)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to SIGTERM and warnings in the place of Lightning's handlers, which are there by now."""
        for number in (signal.SIGTERM, *WARNINGS):
            self._listen(number)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save, if any rank got a signal; not while gradients are being accumulated, for they are not saved."""
        self._is_exact = False
        at_step_end = trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if at_step_end and trainer.strategy.reduce_boolean_decision(self._received is not None, all=False):
            self._is_warned = trainer.strategy.reduce_boolean_decision(self._received in WARNINGS, all=False)
            self._save(trainer)
            self._num_saved += 1
            self._is_exact = not trainer.is_last_batch

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that resuming would leave this validation out."""
        self._is_exact = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Leave before the next batch, when the loggers have everything of the last."""
        # With an epoch or a validation every batch no checkpoint is better than the second.
        if self._is_exact or self._num_saved >= 2:
            self._leave(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        self._stop_listening()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._stop_listening()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back once more: Lightning's own clean-up came in between."""
        self._stop_listening()

    def _save(self, trainer: Trainer) -> None:
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.save_last and self._is_in_folder_of(callback):
                # Told of the file, it goes on overwriting it; otherwise it would write last-v1.ckpt after the resume.
                callback.last_model_path = self.path
        trainer.save_checkpoint(self.path, weights_only=False)  # the optimisers too

    def _is_in_folder_of(self, callback: ModelCheckpoint) -> bool:
        return callback.dirpath is not None and Path(callback.dirpath).resolve() == Path(self.path).resolve().parent

    def _leave(self, trainer: Trainer) -> None:
        finish_writing(trainer)
        number = self._received or (signal.SIGUSR1 if self._is_warned else signal.SIGTERM)
        leaving = Interrupted(self.path, 128 + number if trainer.is_global_zero else 0)
        if trainer.is_global_zero:
            print(f"\n{leaving}", file=sys.stderr, flush=True)
        raise leaving

    def _listen(self, number: int) -> None:
        if threading.current_thread() is threading.main_thread():
            self._previous[number] = signal.signal(number, self._handle)
            self._listening = True

    def _stop_listening(self) -> None:
        self._listening = False
        for number, handler in self._previous.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A loader's worker: Ctrl-C is the parent's to deal with, SIGTERM is the parent's order.
            if number == signal.SIGTERM:
                _pass_on(signal.SIG_DFL, number, frame)
        elif not self._listening:
            # After an exception Lightning puts back the handlers that it found, ours among them.
            _pass_on(self._previous[number], number, frame)
        elif self._received is None:
            self._received, self._received_at = number, time.monotonic()
            _say("signal received: finishing the batch, then saving; once more to stop at once")
        elif time.monotonic() - self._received_at > ECHO_SECONDS:
            _say("stopping at once. The last checkpoint is kept. To continue: resume=auto")
            raise KeyboardInterrupt


class PredictionShutdown(Callback):
    """While `Trainer.predict` runs, SIGTERM does what it did before, or what Ctrl-C does where nobody listened to it.

    Lightning notes the signal alone and asks the other processes to, some of which may have done their share and left.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note who listens, before Lightning does."""
        self._before = signal.getsignal(signal.SIGTERM)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put it back; Lightning does so at the end."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._before if callable(self._before) else _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _pass_on(handler: Any, number: int, frame: FrameType | None) -> None:
    if callable(handler):
        handler(number, frame)
    elif handler == signal.SIG_DFL:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _say(text: str) -> None:
    # print is not safe inside a signal handler: it may interrupt another print.
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\n{text}\n".encode())
