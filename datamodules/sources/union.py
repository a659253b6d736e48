"""Several datasets as one: patients kept apart across them, official test splits kept as tests."""

import hashlib
import itertools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.errors import UserError
from datamodules.manifest import SPACE, SPLITS, STRICTEST, Manifest, ManifestError
from datamodules.sources.base import Source, alike, is_one_file

log = logging.getLogger(__name__)


class UnionSource:
    """The images of several sources. What a source does not annotate stays unknown in its rows.

    Ids and paths begin with the source's name, patients with the people that it numbers (`patient_space`) and `::`, so
    that sets which share people keep them together and others never confuse two. A patient whom one source tests on and
    another trains on is a test patient of the union.

    Args:
        sources: by name. Masks are delivered when all sources that have some name their levels alike.

    Raises:
        ValueError: no source; two of which one holds the other's images under other patients.
    """

    name = "union"

    def __init__(self, sources: Mapping[str, Source]) -> None:
        if not sources:
            raise UserError("data.sources is empty: name the sources, e.g. data.sources=[aptos2019,idrid].")
        for (name, source), (other, held) in itertools.permutations(sources.items(), 2):
            if held.name in getattr(source, "contains", ()):
                raise UserError(
                    f"data.sources: {name!r} holds the images of {other!r} too, under other patients: the same image "
                    "could be trained and tested with. Remedy: leave one of the two out."
                )
        self.sources = dict(sources)
        self._manifest: Manifest | None = None

    @property
    def mask_levels(self) -> tuple[str, ...]:
        """Names of the values of a mask; none where the sources differ in them."""
        found = {tuple(source.mask_levels) for source in self.sources.values() if getattr(source, "mask_levels", ())}
        return found.pop() if len(found) == 1 else ()

    def index(self) -> Manifest:
        """All rows, one source after the other."""
        if self._manifest is None:
            self._index_each()
            tables = [self._prefixed(name, source) for name, source in self.sources.items()]
            table = pa.concat_tables(tables, promote_options="default").unify_dictionaries().combine_chunks()
            manifest = Manifest.from_table(_one_side(table), origin="the union")
            self._refuse_shared(manifest)
            self._manifest = manifest
        return self._manifest

    def _refuse_shared(self, manifest: Manifest) -> None:
        """See that no file is in the union under two patients: a folder read twice, or links to another's files."""
        none = np.zeros(0, dtype=np.int64)
        each = [(getattr(source, "nodes", none), len(source.index())) for source in self.sources.values()]
        nodes = np.concatenate([nodes if len(nodes) == n else np.zeros(n, dtype=np.int64) for nodes, n in each])
        for rows in alike(nodes):
            one, other = (manifest.table.column("path")[row].as_py() for row in rows)
            people = {manifest.table.column("patient")[row].as_py() for row in rows}
            if len(people) > 1 and is_one_file(self._file(one), self._file(other)):
                raise ManifestError(
                    f"data.sources: {one!r} and {other!r} are one file, of two patients ({', '.join(people)}): it "
                    "could be trained and tested with. Remedy: leave one of the sources out, or the file out of one."
                )

    def _file(self, path: str) -> Path:
        name, _, rest = path.partition("/")
        return self.sources[name].root / rest

    def _index_each(self) -> None:
        """Index every source, and name all that cannot be: a person with six downloads corrects them at once."""
        refused: dict[str, Exception] = {}
        for name, source in self.sources.items():
            try:
                source.index()
            except (OSError, ValueError) as error:
                refused[name] = error
        if refused:
            said = "\n".join(f"- {name}: {error}" for name, error in refused.items())
            kind = (
                FileNotFoundError if all(isinstance(e, FileNotFoundError) for e in refused.values()) else ManifestError
            )
            raise kind(
                f"data.sources: {len(refused)} of {len(self.sources)} cannot be read. The folder of one that lies "
                f"elsewhere is named by +data.roots.{next(iter(refused))}=FOLDER, where it says data.root.\n{said}"
            )

    def _prefixed(self, name: str, source: Source) -> pa.Table:
        table = source.index().table
        space = getattr(source, "patient_space", "") or name
        for column, prefix, between in (("id", name, "/"), ("path", name, "/"), ("patient", space, SPACE)):
            texts = pc.binary_join_element_wise(prefix, table.column(column).cast(pa.string()), between)
            table = table.set_column(table.column_names.index(column), column, texts)
        if "mask" in table.column_names:
            if self.mask_levels:
                masks = [
                    "|".join(f"{name}/{part}" for part in mask.split("|")) if mask else ""
                    for mask in table.column("mask").to_pylist()
                ]
                table = table.set_column(table.column_names.index("mask"), "mask", pa.array(masks, pa.string()))
            else:
                log.warning("union: the sources' masks name other levels than one another: %s's are left out", name)
                table = table.drop_columns("mask")
        return table

    def read(self, path: str, image_size: int) -> np.ndarray:
        """The image, as its source reads it."""
        name, _, rest = path.partition("/")
        return self.sources[name].read(rest, image_size)

    def read_mask(self, path: str, mask: str, image_size: int) -> np.ndarray:
        """The mask of an image, as its source reads it."""
        name, _, rest = path.partition("/")
        parts = "|".join(part.partition("/")[2] for part in mask.split("|"))
        return self.sources[name].read_mask(rest, parts, image_size)

    def identity(self) -> str:
        """A hash of what the sources answer."""
        each = "\n".join(f"{name}\0{source.identity()}" for name, source in self.sources.items())
        return f"union-{hashlib.blake2b(each.encode(), digest_size=16).hexdigest()}"

    def __getstate__(self) -> dict[str, Any]:
        """Without the index, which the processes that only read images do not need."""
        return {**self.__dict__, "_manifest": None}


def _one_side(table: pa.Table) -> pa.Table:
    """The table with every patient of several official splits in the strictest of them."""
    patients = table.column("patient").combine_chunks().dictionary_encode()
    splits = table.column("split").combine_chunks().cast(pa.string()).dictionary_encode()
    ranks = np.array([STRICTEST.index(name) for name in splits.dictionary.to_pylist()], dtype=np.int8)
    rank = ranks[splits.indices.to_numpy()]
    strictest = np.full(len(patients.dictionary), len(SPLITS), dtype=np.int8)
    codes = patients.indices.to_numpy()
    np.minimum.at(strictest, codes, rank)
    moved = (rank < len(SPLITS)) & (strictest[codes] < rank)
    if moved.any():
        log.warning(
            "union: %d images of %d patients are in several official splits, and go to the strictest of them (test "
            "before val before train)", moved.sum(), len(np.unique(codes[moved])),
        )  # fmt: skip
    chosen = np.array(STRICTEST, dtype=object)[strictest[codes]]
    return table.set_column(table.column_names.index("split"), "split", pa.array(chosen, pa.string()))
