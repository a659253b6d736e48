"""More checkpoints than the newest and the best: the last few, and the few best; known again in a folder that moved."""

import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from callbacks.atomic_checkpoint_io import finish_writing
from callbacks.due import BestCheckpoint
from callbacks.files import write_atomically
from callbacks.metrics_csv import MetricsCSV
from callbacks.weights_file import is_plain

log = logging.getLogger(__name__)

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
        """As L.Trainer's, once the row of the step that it is of is in `metrics.csv`."""
        self._log_ahead()
        path = Path(filepath)
        if self._keep_last > 1 and self.is_global_zero and path.name == LAST:
            finish_writing(self)
            self._keep(path)
        super().save_checkpoint(filepath, weights_only, storage_options)

    def _log_ahead(self) -> None:
        """Let loggers have the metrics of this step, which Lightning logs after the callbacks that save at its end."""
        connector, loop = self._logger_connector, self.fit_loop
        at_step = self.training and connector._first_loop_iter is not None and not loop._should_accumulate()
        if not at_step or not connector.should_update_logs or not connector.metrics["log"]:
            return
        metrics = convert_tensors_to_scalars(connector.metrics["log"])
        for logger in self.loggers:
            if isinstance(logger, MetricsCSV):
                logger.log_ahead({"epoch": self.current_epoch, **metrics}, loop.epoch_loop._batches_that_stepped)

    def _keep(self, last: Path) -> None:
        if not last.exists():
            return
        try:
            step = self._progress(last)["global_step"]
        except ValueError:  # the run went on from another, for this one is damaged
            step = self.global_step
        if step < self.global_step:
            name_also(last, last.with_name(KEPT.replace("*", f"{step:08d}")))
        for old in sorted(last.parent.glob(KEPT))[: 1 - self._keep_last]:
            old.unlink()


class BestCheckpoints(BestCheckpoint):
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


class MovedFolder(Callback):
    """Let what a checkpoint says of other checkpoints be of those in the folder where they are now.

    Lightning keeps absolute paths, and forgets what was best in a folder that has been moved, copied or mounted
    elsewhere. Here files are known by their names, on all processes as the first sees them. One that is not there, as
    in the new folder of a run that begins with another's checkpoint, is forgotten; and so is one that is not whole, or
    a state that is of another kind, with a warning.

    Args:
        progress: reads what a checkpoint says of the training; ValueError for one that is not whole.
    """

    def __init__(self, progress: Callable[[Path], Mapping[str, Any]]) -> None:
        self._progress = progress

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Change the states of all checkpoint callbacks, before they take them up."""
        states, there = checkpoint.get("callbacks") or {}, {}
        for callback in trainer.checkpoint_callbacks:
            if not (isinstance(callback, ModelCheckpoint) and callback.dirpath and callback.state_key in states):
                continue
            if not _is_known(states[callback.state_key]):
                said = "what the checkpoint says of %s is not what a run writes: the best is chosen from here on"
                log.warning(said, callback.state_key)
                del states[callback.state_key]
                continue
            folder = Path(callback.dirpath)
            if folder not in there:
                there[folder] = trainer.strategy.broadcast(self._whole(folder) if trainer.is_global_zero else [])
            states[callback.state_key] = _of_this_folder(states[callback.state_key], callback, there[folder])

    def _whole(self, folder: Path) -> list[str]:
        """Names of the whole checkpoints of a folder, which need not exist."""
        found = []
        for path in sorted(folder.glob("*.ckpt")):
            try:
                self._progress(path)
                found.append(path.name)
            except ValueError as error:
                log.warning("%s Until then it is passed over.", error)
        return found


def _is_known(state: Any) -> bool:
    """Whether this is what a ModelCheckpoint says of itself: names of files, and figures by them."""
    best = state.get("best_k_models", {}) if isinstance(state, Mapping) else None
    if not isinstance(best, Mapping):
        return False
    names = [*best, state.get("best_model_path", ""), state.get("last_model_path", "")]
    return all(isinstance(name, str) for name in names) and all(map(_is_figure, best.values()))


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) or (is_plain(value) and value.numel() == 1)


def _of_this_folder(state: Mapping[str, Any], callback: ModelCheckpoint, there: Sequence[str]) -> dict[str, Any]:
    """A callback's state with the files that are there, and the best and the worst among them."""

    def moved(path: str) -> str:
        return str(Path(callback.dirpath or "", Path(path).name)) if Path(path).name in there else ""

    best = {moved(path): value for path, value in state.get("best_k_models", {}).items() if moved(path)}
    ranked = sorted(best, key=lambda path: float(best[path]), reverse=callback.mode == "max")
    paths = {name: moved(state.get(name, "")) for name in ("best_model_path", "last_model_path")}
    state = {**state, **paths, "dirpath": callback.dirpath, "best_k_models": best}
    if not ranked:
        nothing = {"best_model_score": None, "kth_best_model_path": "", "kth_value": callback.kth_value}
        return state | nothing
    return state | {
        "best_model_path": ranked[0],
        "best_model_score": best[ranked[0]],
        "kth_best_model_path": ranked[-1],
        "kth_value": best[ranked[-1]],
    }


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
