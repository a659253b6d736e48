"""Annotations, filters and other image formats for the tiny sets of synthetic_sets.py."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from callbacks.annotation_writer import chance_columns, schema_of
from datamodules.files import sha256
from datamodules.findings import NAMES, NUM_LEVELS

SAVED = {"png": {}, "jpeg": {"quality": 95}, "webp": {"lossless": True}}


def annotate(root: Path, untold: Sequence[str] = (), finish: bool = True) -> dict[str, list[int | None]]:
    """Write annotations that are one level above the condition, round the circle; returns the levels of each finding.

    Args:
        untold: findings that are null in every row.
        finish: False leaves annotation.json out.
    """
    folder, found = root / "annotations", {name: [] for name in NAMES}
    folder.mkdir(exist_ok=True)
    schema = schema_of(NUM_LEVELS)
    for shard in sorted((root / "data").glob("*.parquet")):
        table, columns = pq.read_table(shard), {}
        for name, num_levels in NUM_LEVELS.items():
            levels = (table.column(name).to_numpy() + 1) % num_levels
            seen = [None] * len(levels) if name in untold else levels.tolist()
            found[name] += seen
            columns[name] = pa.array(seen, pa.int8()).cast(schema.field(name).type)
            for column in chance_columns(name, num_levels):
                columns[column] = pa.array(np.full(len(levels), 0.5, dtype=np.float32))
        columns |= {"id": table.column("id"), "advice": ["Not medical advice."] * table.num_rows}
        rows = pq.ParquetFile(shard).metadata.row_group(0).num_rows
        pq.write_table(
            pa.table([columns[name] for name in schema.names], schema), folder / shard.name, row_group_size=rows
        )
    if finish:
        files = [{"file": f"annotations/{path.name}", "sha256": sha256(path)} for path in sorted(folder.iterdir())]
        told = {"annotators": [{"run": "/home/someone/runs/a", "weights": "9" * 32}], "files": files}
        (folder / "annotation.json").write_text(json.dumps(told))
    return found


def rewrite(root: Path, change: Callable[[pa.Table], pa.Table], **recipe: Any) -> None:
    """Write every shard anew with its table changed, and keys of the recipe, in both files that hold it, replaced."""
    for shard in sorted((root / "data").glob("*.parquet")):
        rows = pq.ParquetFile(shard).metadata.row_group(0).num_rows
        pq.write_table(change(pq.read_table(shard)), shard, row_group_size=rows)
    for name in ("recipe.json", "manifest.json"):
        told = json.loads((root / name).read_text())
        (root / name).write_text(json.dumps(told | recipe))


def as_format(root: Path, format: str) -> None:
    """Write the images anew in another format."""

    def change(table: pa.Table) -> pa.Table:
        pictures = [encoded(row["bytes"], format) for row in table.column("image").to_pylist()]
        kind = table.schema.field("image").type
        column = pa.array([{"bytes": pixels, "path": "x"} for pixels in pictures], kind)
        return table.set_column(0, table.schema.field("image"), column)

    size = json.loads((root / "recipe.json").read_text())["image"]["size"]
    rewrite(root, change, image={"format": format, "quality": None, "size": size})


def encoded(pixels: bytes, format: str) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(pixels)).save(file, format.upper(), **SAVED[format])
    return file.getvalue()


def filtered(root: Path, attempts: Sequence[int], accepted: Sequence[bool]) -> None:
    """Write the set anew as one of a filter, with these columns over all shards."""
    taken = 0

    def change(table: pa.Table) -> pa.Table:
        nonlocal taken
        mine = slice(taken, taken + table.num_rows)
        taken += table.num_rows
        place = table.column_names.index("attempts")
        table = table.set_column(place, "attempts", pa.array(attempts[mine], pa.int8()))
        return table.add_column(place + 1, "accepted", pa.array(accepted[mine]))

    settings = {"annotators": ["7" * 32], "findings": ["dr_grade", "is_gc"], "threshold": 0.5, "tolerance": 1,
                "max_attempts": 3}  # fmt: skip
    rewrite(root, change, filter=settings)


def pictures(root: Path) -> list[bytes]:
    """The bytes of every image of a set, in order."""
    shards = sorted((root / "data").glob("*.parquet"))
    return [row["bytes"] for shard in shards for row in pq.read_table(shard).column("image").to_pylist()]


def conditions(root: Path) -> np.ndarray:
    """The conditions of a set as its shards have them, int [N, F]."""
    table = pa.concat_tables(pq.read_table(shard) for shard in sorted((root / "data").glob("*.parquet")))
    return np.stack([table.column(name).to_numpy() for name in NAMES], axis=1)
