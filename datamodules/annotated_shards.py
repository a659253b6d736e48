"""SyntheticSource: the shards of a set made by `+exp=synthesize`, with its conditions or its annotations as labels.

Annotations lie beside the conditions, as `annotations/shard-00000-of-00008.parquet` …, with the same rows in the same
row groups as the shards in `data`.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.errors import UserError, did_you_mean
from datamodules.findings import NAMES
from datamodules.manifest import Manifest
from datamodules.parquet import open_parquet
from datamodules.shard_files import ShardError
from datamodules.shards import Footers, ShardSource
from datamodules.synthetic import SyntheticSet, SyntheticSetError
from datamodules.synthetic.layout import ANNOTATIONS, DATA, MANIFEST

LABELS = ("condition", "annotation")
ACCEPTED = "accepted"  # the column of shards by which a filter says whether an image fits its condition


class SyntheticSource(ShardSource):
    """A synthetic set below `root`, which must be whole unless `partial`.

    Args:
        labels: `condition`, what the generator was told; or `annotation`, what the classifiers of `+exp=annotate` saw,
            unknown where they do not tell.
        accepted: only the images that the filter of `+exp=synthesize` has accepted.
        num_images: only so many of them, drawn by `seed`: those of a smaller number are among those of a larger.
        seed: of that draw.

    Raises:
        ValueError: other labels, or no image wanted. Of a set without a filter, or with fewer images, when it is read.
    """

    name = "synthetic"

    def __init__(
        self, root: str | Path, partial: bool = False, labels: str = "condition", accepted: bool = False,
        num_images: int | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(root, partial)
        if labels not in LABELS:
            hint = did_you_mean(labels, LABELS)
            raise UserError(f"data.labels is {labels!r}, and must be one of: {', '.join(LABELS)}.{hint}")
        if num_images is not None and num_images < 1:
            raise UserError(f"num_images of the set is {num_images}, and must be at least 1, or null for all of them.")
        self.labels, self.accepted, self.num_images, self.seed = labels, accepted, num_images, seed

    def index(self) -> Manifest:
        """As that of ShardSource, of the images that are wanted."""
        if self._manifest is None:
            whole = super().index()
            self.rows = self._wanted_rows(len(whole))
            self._manifest = whole if self.rows is None else whole.take(self.rows)
        return self._manifest

    def _wanted_rows(self, number: int) -> np.ndarray | None:
        """Of `number` rows those that are accepted and drawn, ascending; None for all of them."""
        if not self.accepted and self.num_images is None:
            return None
        rows = self._accepted_rows() if self.accepted else np.arange(number)
        if self.num_images is None:
            return rows
        if self.num_images > len(rows):
            raise UserError(
                f"{self.num_images} images of the set {str(self.root)!r} are wanted, and it has {len(rows)}"
                f"{' that were accepted' if self.accepted else ''}. Remedy: fewer, or a larger set."
            )
        stream = np.random.default_rng(np.random.SeedSequence((self.seed, 0x5E7)))
        return np.sort(stream.permutation(rows)[: self.num_images])

    def _accepted_rows(self) -> np.ndarray:
        """Rows that the filter has accepted, ascending."""
        found = []
        for file in self.footers.files:
            with open_parquet(file, ShardError, "take it from a whole copy of the set") as parquet:
                if ACCEPTED not in parquet.schema_arrow.names:
                    raise ShardError(
                        f"{str(file)!r} does not say which images were accepted: the set was made without a filter. "
                        "Remedy: take all of it (accepted=false); or make it with job.filter (docs/synthesis.md)."
                    )
                found.append(parquet.read([ACCEPTED]).column(ACCEPTED).to_numpy())
        if not len(rows := np.flatnonzero(np.concatenate(found).astype(bool))):
            raise UserError(f"no image of the set {str(self.root)!r} was accepted. Remedy: accepted=false.")
        return rows

    @property
    def footers(self) -> Footers:
        """The ends of the data shards, checked against the manifest and, where labels are annotations, against those.

        Raises ShardError, SyntheticSetError or FileNotFoundError for a set that is not whole, or not annotated.
        """
        if self._footers is None:
            manifest = self._manifest_of_set()
            footers = super().footers
            self._footers = None  # until it is checked
            _check_files(footers, manifest)
            if self.labels == "annotation":
                self._check_annotations(footers)
                footers = replace(footers, columns=tuple(name for name in footers.columns if name not in NAMES))
            self._footers = footers
        return self._footers

    def _manifest_of_set(self) -> Mapping[str, Any] | None:
        """`manifest.json`; None for a set of which a part will do."""
        if self.partial:
            return None
        try:
            return SyntheticSet(self.root).manifest
        except SyntheticSetError as error:
            raise SyntheticSetError(f"{error} Or train on what is there: data.partial=true.") from error
        except FileNotFoundError as error:
            raise FileNotFoundError(f"data.root: {error} Shards of another maker are read by data=shards.") from error

    def _check_annotations(self, footers: Footers) -> None:
        """See that every shard has its annotations, row group by row group."""
        missing = [file.name for file in footers.files if not self._annotations(file).is_file()]
        command = f"python -m experiments.run +exp=annotate job.dataset={self.root} job.annotators=[RUN]"
        if missing:
            raise ShardError(
                f"data.labels=annotation, and {len(missing)} of {len(footers.files)} shards in {str(self.root)!r} are "
                f"not annotated ({', '.join(missing[:3])}{', …' if missing[3:] else ''}). Remedy: {command}, with the "
                "folder of a run of classifier_train; or data.labels=condition."
            )
        for place, file in enumerate(footers.files):
            with self._seen(file) as parquet:
                metadata, schema = parquet.metadata, parquet.schema_arrow
            self._check_schema(file, schema)
            mine = footers.groups.shard == place
            theirs = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
            ours = np.zeros(len(theirs), dtype=np.int64)
            numbers = footers.groups.number[mine]
            if len(numbers) and numbers.max() < len(theirs):
                ours[numbers] = footers.groups.num_rows[mine]
            if ours.tolist() != theirs:
                raise ShardError(
                    f"{str(self._annotations(file))!r} has other row groups ({metadata.num_rows} rows) than its shard "
                    f"{file.name} ({footers.groups.num_rows[mine].sum()} rows): it is of another set. Remedy: delete "
                    f"the folder {ANNOTATIONS}, and annotate again: {command}."
                )

    def _check_schema(self, file: Path, schema: pa.Schema) -> None:
        """See that annotations have ids of text, and levels that are whole numbers or truths."""
        levels = [field.type for field in schema if field.name in NAMES]
        wrong = [kind for kind in levels if not (pa.types.is_integer(kind) or pa.types.is_boolean(kind))]
        found = schema.field("id").type if "id" in schema.names else None
        if found not in (pa.string(), pa.large_string()) or wrong:
            columns = ", ".join(f"{field.name} {field.type}" for field in schema)
            raise ShardError(
                f"{str(self._annotations(file))!r} holds no annotations, in which id is text, and levels are whole "
                f"numbers. Its columns are: {columns[:300]}. Remedy: delete the folder {ANNOTATIONS}, and annotate "
                "again with +exp=annotate."
            )

    def _annotations(self, file: Path) -> Path:
        """Where the annotations of a data shard lie."""
        return self.root / ANNOTATIONS / file.name

    def _seen(self, file: Path) -> AbstractContextManager[pq.ParquetFile]:
        """The annotations of a data shard; raises ShardError where they are not whole."""
        return open_parquet(self._annotations(file), ShardError, "delete it, and annotate again with +exp=annotate")

    def _columns(self, file: Path) -> pa.Table:
        table = super()._columns(file)
        if self.labels == "condition":
            return table
        with self._seen(file) as parquet:
            return self._annotated(file, table, parquet.read(_wanted(parquet)))

    def read_group(self, group: int) -> pa.Table:
        """As ShardSource reads it, with the labels that are asked for."""
        table = super().read_group(group)
        if self.labels == "condition":
            return table
        footers = self.footers
        file, number = footers.files[footers.groups.shard[group]], int(footers.groups.number[group])
        with self._seen(file) as parquet:
            found = parquet.read_row_group(number, _wanted(parquet), use_threads=False)
        return self._annotated(file, table, found).combine_chunks()

    def _annotated(self, file: Path, table: pa.Table, annotations: pa.Table) -> pa.Table:
        """The table with the findings of the annotations, null where they do not tell."""
        ids, theirs = (each.column("id").cast(pa.string()).combine_chunks() for each in (table, annotations))
        if not ids.equals(theirs):
            raise ShardError(
                f"{str(self._annotations(file))!r} has other ids than its shard {file.name}: it is of another set. "
                f"Remedy: delete the folder {ANNOTATIONS}, and annotate again with +exp=annotate."
            )
        for name in (name for name in NAMES if name in annotations.column_names):
            table = table.append_column(name, annotations.column(name))
        return table


def _wanted(parquet: pq.ParquetFile) -> list[str]:
    """The columns of annotations that are labels."""
    return [name for name in ("id", *NAMES) if name in parquet.schema_arrow.names]


def _check_files(footers: Footers, manifest: Mapping[str, Any] | None) -> None:
    """See that the shards are those of the manifest, by name, rows and size."""
    if manifest is None:
        return
    found = {
        f"{DATA}/{file.name}": (int(footers.groups.num_rows[footers.groups.shard == place].sum()), file.stat().st_size)
        for place, file in enumerate(footers.files)
    }
    written = {each["file"]: (each["num_rows"], each["num_bytes"]) for each in manifest["files"]}
    for name in (*written, *found):
        if found.get(name) != written.get(name):
            said = [f"{rows} rows in {size} bytes" if rows else "nothing" for rows, size in
                    (each.get(name, (0, 0)) for each in (found, written))]  # fmt: skip
            raise ShardError(
                f"{name} of {footers.files[0].parent.parent} is {said[0]}, and {MANIFEST} has {said[1]}. Remedy: "
                "take that shard from a whole copy, or make it again by the same command with resume=auto."
            )
