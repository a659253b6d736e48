"""Labels out of shards as CSV: what the generator was told, and what annotators saw; unknown is an empty cell."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from datamodules.files import write_csv
from datamodules.findings import NAMES, UNKNOWN
from datamodules.synthetic import SyntheticSet, SyntheticSetError
from datamodules.synthetic.annotations import Annotations
from datamodules.synthetic.counts import levels_of
from datamodules.synthetic.tables import opened, read_columns
from experiments.export.layouts import Layout
from experiments.export.pictures import columns, rows_of


def write_tables(
    dataset: SyntheticSet, annotations: Annotations | None, layout: Layout, root: Path, only_accepted: bool
) -> list[Path]:
    """Write the table of the conditions, and where there are annotations theirs; in memory are the labels of a shard.

    Raises:
        SyntheticSetError: annotations of other images than those of the shard.
    """
    found = {"condition": dataset.shards} | ({} if annotations is None else {"annotation": annotations.files})
    for kind, files in found.items():
        write_csv(root / layout.tables[kind], lines(pieces(dataset, files, layout, only_accepted)))
    return [root / layout.tables[kind] for kind in found]


def pieces(
    dataset: SyntheticSet, files: Sequence[Path], layout: Layout, only_accepted: bool
) -> Iterator[dict[str, Sequence[Any]]]:
    """Columns of the table, shard by shard; `files` hold the labels."""
    format = dataset.recipe["image"]["format"]
    for number, (shard, file) in enumerate(zip(dataset.shards, files, strict=True)):
        table = read_columns(shard, [*columns(only_accepted), *layout.carried])
        with opened(file) as parquet:
            there = [name for name in NAMES if name in parquet.schema_arrow.names]
        labels = read_columns(file, ["id", *there])
        if not labels.column("id").equals(table.column("id")):
            raise SyntheticSetError(
                f"{file} has not the ids of {shard}, row for row. Remedy: annotate the set again, or take both from "
                "one copy."
            )
        rows = rows_of(table, layout, format, only_accepted, shard, dataset.bounds(number)[0])
        piece = layout.keys(rows.indices, rows.ids, rows.paths)
        for name in layout.carried:
            carried = table.column(name).to_pylist()
            piece[name] = [carried[row] for row in rows.kept]
        for name in NAMES:
            levels = levels_of(labels.column(name).combine_chunks(), name, file).tolist() if name in there else None
            piece[name] = cells([UNKNOWN if levels is None else levels[row] for row in rows.kept])
        yield piece


def cells(levels: Sequence[int]) -> list[int | str]:
    """Levels of a finding as cells of a table, of which an unknown one is empty."""
    return ["" if level == UNKNOWN else level for level in levels]


def lines(pieces: Iterable[dict[str, Sequence[Any]]]) -> Iterator[Sequence[Any]]:
    """The lines of a table, its head first, of pieces with the same columns."""
    for number, piece in enumerate(pieces):
        if number == 0:
            yield list(piece)
        yield from zip(*piece.values(), strict=True)
