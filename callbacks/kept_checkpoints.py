"""More checkpoints than the newest and the best: the last few, and the few best."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from callbacks.atomic import write_atomically
from callbacks.whole_files import finish_writing

LAST = "last.ckpt"
KEPT = "step-*.ckpt"


class KeepingTrainer(L.Trainer):
    """Trainer that keeps what a `last.ckpt` held before, as `step-00001200.ckpt` beside it, before it is overwritten.

    It is a second name of what is there, so nothing is written twice, and at any time a kill leaves all of them whole.

    Args:
        keep_last: how many of the last states are kept, that in `last.ckpt` among them.
        progress: a checkpoint's path -> what it says of the training, `global_step` at least.
        settings: as L.Trainer has them.
    """

    def __init__(self, keep_last: int, progress: Callable[[Path], Mapping[str, Any]], **settings: Any) -> None:
        super().__init__(**settings)
        self._keep_last, self._progress = keep_last, progress

    def save_checkpoint(
        self, filepath: str | Path, weights_only: bool | None = None, storage_options: Any | None = None
    ) -> None:
        """As L.Trainer's."""
        path = Path(filepath)
        if self._keep_last > 1 and self.is_global_zero and path.name == LAST:
            finish_writing(self)
            self._keep(path)
        super().save_checkpoint(filepath, weights_only, storage_options)

    def _keep(self, last: Path) -> None:
        if not last.exists():
            return
        step = self._progress(last)["global_step"]
        if step < self.global_step:
            name_also(last, last.with_name(KEPT.replace("*", f"{step:08d}")))
        for old in sorted(last.parent.glob(KEPT))[: 1 - self._keep_last]:
            old.unlink()


class BestCheckpoints(ModelCheckpoint):
    """The `save_top_k` best epochs as `best-0007-0.1234.ckpt`: epoch, counted from 0, and value of `monitor`."""

    def __init__(self, monitor: str, **settings: Any) -> None:
        name = f"best-{{epoch:04d}}-{{{monitor}:.6g}}"
        super().__init__(filename=name, monitor=monitor, auto_insert_metric_name=False, **settings)
        self._surplus: list[str] = []

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting; where fewer are to be kept than were, with the best of them."""
        super().load_state_dict(state_dict)
        ranked = sorted(self.best_k_models.items(), key=lambda kept: float(kept[1]), reverse=self.mode == "max")
        self.best_k_models = dict(ranked[: self.save_top_k])
        self._surplus = [path for path, _ in ranked[self.save_top_k :]]
        if self.best_k_models:
            self.kth_best_model_path, self.kth_value = list(self.best_k_models.items())[-1]

    def _update_best_and_save(self, current: Tensor, trainer: L.Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        super()._update_best_and_save(current, trainer, monitor_candidates)
        while self._surplus:
            self._remove_checkpoint(trainer, self._surplus.pop())


def name_also(path: Path, name: Path) -> None:
    """Give a checkpoint, a file or a link to a folder of shares, a second name beside it."""
    if name.exists():
        return
    if path.is_symlink():
        name.symlink_to(os.readlink(path), target_is_directory=True)
        return
    try:
        os.link(path, name)
    except OSError:  # a file system without links
        write_atomically(name, lambda part: shutil.copyfile(path, part))
