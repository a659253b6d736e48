"""A callback by which one process of a run dies."""

import os
import signal

import lightning as L


class Dies(L.Callback):
    """Before the end of a step a process raises an error that no user makes, one that some do, or is killed."""

    def __init__(self, rank: int, step: int, how: str):
        self.rank, self.step, self.how = rank, step, how

    def on_before_backward(self, trainer, pl_module, loss):
        """Die."""
        if trainer.global_rank != self.rank or trainer.global_step != self.step:
            return
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise {"raise": ArithmeticError, "mistake": ValueError}[self.how](f"rank {self.rank} was to die")
