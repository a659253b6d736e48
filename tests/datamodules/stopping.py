"""A run that is cut off, as by a kill."""

from lightning.pytorch.callbacks import Callback


class Stop(Callback):
    """Ends the process's part of the run after a number of training batches, as a kill would: without any saving."""

    def __init__(self, after: int) -> None:
        self.after, self.count = after, 0

    def on_train_batch_end(self, *args):
        self.count += 1
        if self.count == self.after:
            raise KeyboardInterrupt
