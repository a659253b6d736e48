"""metrics.csv: a Lightning logger whose file, after a kill and a resume, equals that of a run never interrupted."""

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from callbacks.csv_table import CsvTable, Row
from datamodules.errors import UserError


class MetricsCSV(Logger):
    """Write `<output_dir>/metrics.csv`: columns step, epoch, then the metrics in order of first appearance.

    Each call is a line, and is on disk when the call returns, so that a kill loses none that a checkpoint vouches for.
    There is no time in it.

    Args:
        output_dir: folder of the run.
        first_step: rows from this step on are dropped at the start; 0 starts afresh. When resuming give
            `resume_step(checkpoint)`.

    Raises:
        ValueError: the file to continue is no table of metrics.
    """

    def __init__(self, output_dir: str, first_step: int = 0) -> None:
        super().__init__()
        self.output_dir = output_dir
        self.first_step = first_step
        self._table = CsvTable(Path(output_dir) / "metrics.csv", {"step": int})
        self._started = False
        self._ahead: tuple[int | None, str] | None = None  # the step, and the metrics, that `log_ahead` was given last
        if first_step:  # what is wrong with the file is said before anything is trained
            self._table.read()

    @property
    def name(self) -> str:
        """Nothing: the folder of the run says what this is."""
        return ""

    @property
    def version(self) -> str:
        """Nothing: the folder of the run says what this is."""
        return ""

    @property
    def save_dir(self) -> str:
        """Folder of the run."""
        return self.output_dir

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Do nothing: config.yaml has them."""

    @rank_zero_only
    def log_ahead(self, metrics: dict[str, float], step: int) -> None:
        """Add a line that Lightning is going to give again, for a checkpoint that vouches for it is written now."""
        self.log_metrics(metrics, step)
        self._ahead = (step, repr(sorted(metrics.items())))

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add a line, unless it is the one that was added ahead."""
        if self._ahead == (step, repr(sorted(metrics.items()))):
            return
        if not self._started:
            self._table.keep(self._is_before_the_start if self.first_step else None)
            self._started = True
        row: dict[str, Any] = {"step": step, "epoch": metrics.get("epoch")}
        if row["epoch"] is not None:
            row["epoch"] = int(row["epoch"])
        row |= {name: float(value) for name, value in metrics.items() if name != "epoch"}
        self._table.append(row)

    def _is_before_the_start(self, row: Row) -> bool:
        return row["step"] != "" and int(row["step"]) < self.first_step


def resume_step(saved: Mapping[str, Any]) -> int:
    """Return the first step that training resumed from a checkpoint will log, 0 if it holds no training.

    The same number is right for MetricsCSV(first_step=...) and TensorBoardLogger(purge_step=...).

    Raises:
        ValueError: it is not a Trainer's checkpoint.
    """
    if "global_step" not in saved:
        raise UserError("the checkpoint holds no global_step: it is not one that training can go on from.")
    loop = saved.get("loops", {}).get("fit_loop", {})
    manual = loop.get("epoch_loop.manual_optimization.optim_step_progress", {})
    if manual.get("total", {}).get("completed", 0) > 0:
        # Two optimisers may count two steps a batch, while the loggers' steps count batches.
        return int(loop["epoch_loop.batch_progress"]["total"]["ready"])
    return int(saved["global_step"])
