"""AnnotationWriter: what an annotator says of shards, as shards of the same rows beside them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.files import write_atomically
from callbacks.metrics.consistency import decided

TRUTH = "is_"  # findings whose names begin so are written as true or false, others as the number of the level


class AnnotationWriter(Callback):
    """Write the annotations of a shard when the last batch of a data shard is there: same rows, order and row groups.

    Columns: `id`; of every finding its label, null where the annotator does not tell it; then of every finding of two
    levels `p_<finding>`, the probability of level 1, and of others `p_<finding>_<level>`, float32; `advice`. A process
    writes whole shards, each with its checksum before it appears, and holds the annotations of one shard in memory.

    The batches are those of datamodules/synthetic/batches.py; the module's predict step returns {"id": list[str],
    "probabilities": {finding: float [B, K]}}.

    Args:
        shard: where the annotations of a data shard lie, by its name without ending.
        note: keeps the checksum of a shard, from its name, where it lies for now, and its number of rows.
        thresholds: of findings of two levels; 0.5 for others.
        levels: number of levels of every finding there is, in the order of the columns.
        advise: the levels of an image (None where not told) to a text.
    """

    def __init__(
        self, shard: Callable[[str], Path], note: Callable[[str, Path, int], None], thresholds: Mapping[str, float],
        levels: Mapping[str, int], advise: Callable[[Mapping[str, int | None]], str],
    ) -> None:  # fmt: skip
        self.shard, self.note, self.thresholds = shard, note, dict(thresholds)
        self.levels, self.advise = dict(levels), advise
        self.schema = schema_of(levels)
        self._batches: list[dict[str, Any]] = []  # of the row group at hand
        self._groups: list[pa.Table] = []  # of the shard at hand

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *rest: Any
    ) -> None:
        """Keep what is said of a batch; write the shard with its last one."""
        if batch["row"] == 0:
            self._batches = []
            self._groups = self._groups if batch["row_group"] else []
        chances = {name: values.float().cpu().numpy() for name, values in outputs["probabilities"].items()}
        self._batches.append({"id": list(outputs["id"]), "probabilities": chances})
        if batch["row"] + len(outputs["id"]) == batch["num_rows"]:
            self._groups.append(self._table())
            if batch["row_group"] + 1 == batch["num_row_groups"]:
                self._write(Path(batch["shard"]).stem)

    def _table(self) -> pa.Table:
        """The rows of a row group."""
        batches, self._batches = self._batches, []
        ids = [name for batch in batches for name in batch["id"]]
        told = {name: np.concatenate([batch["probabilities"][name] for batch in batches])
                for name in batches[0]["probabilities"]}  # fmt: skip
        levels = {name: decided(values, self.thresholds.get(name, 0.5)) for name, values in told.items()}
        columns: dict[str, Any] = {"id": ids}
        for name, num_levels in self.levels.items():
            columns[name] = levels.get(name)
            for level in range(num_levels):
                columns[f"p_{name}_{level}"] = told[name][:, level] if name in told else None
            columns[f"p_{name}"] = columns[f"p_{name}_1"]
        of_rows = np.stack(list(levels.values()), axis=1).tolist()
        columns["advice"] = [self.advise(dict(zip(levels, row, strict=True))) for row in of_rows]
        return pa.table([_column(columns[field.name], field.type, len(ids)) for field in self.schema], self.schema)

    def _write(self, name: str) -> None:
        groups, self._groups = self._groups, []

        def write(path: Path) -> None:
            with pq.ParquetWriter(path, self.schema) as writer:
                for group in groups:
                    writer.write_table(group, row_group_size=group.num_rows)
            self.note(name, path, sum(group.num_rows for group in groups))

        write_atomically(self.shard(name), write)


def schema_of(levels: Mapping[str, int]) -> pa.Schema:
    """Columns of a shard of annotations, for findings with so many levels."""
    labels = [(name, pa.bool_() if name.startswith(TRUTH) else pa.int8()) for name in levels]
    chances = [
        (column, pa.float32()) for name, num_levels in levels.items() for column in chance_columns(name, num_levels)
    ]
    return pa.schema([("id", pa.string()), *labels, *chances, ("advice", pa.string())])


def chance_columns(name: str, num_levels: int) -> list[str]:
    """Names of the columns with a finding's probabilities: of level 1 alone where there are two."""
    return [f"p_{name}"] if num_levels == 2 else [f"p_{name}_{level}" for level in range(num_levels)]


def _column(values: Any, kind: pa.DataType, num_rows: int) -> pa.Array:
    if values is None:
        return pa.nulls(num_rows, kind)
    return pa.array(values.astype(bool) if pa.types.is_boolean(kind) else values, kind)
