"""Columns of text and of numbers, made and compared in little memory: a manifest may have ten million rows."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.findings import UNKNOWN

CHUNK = 1 << 17  # rows that are held as Python objects at once


def text(chunks: Iterable[pa.Array]) -> pa.ChunkedArray:
    """A column as trimmed strings without nulls, chunk by chunk."""
    tidied = []
    for chunk in chunks:
        if pa.types.is_null(chunk.type):
            tidied.append(blank(len(chunk)))
        else:
            tidied.append(pc.utf8_trim_whitespace(pc.fill_null(chunk.cast(pa.string()), "")))
        del chunk
    pa.default_memory_pool().release_unused()
    return pa.chunked_array(tidied, pa.string())


def blank(n: int) -> pa.Array:
    """N empty texts."""
    return pa.repeat(pa.scalar(""), n)


def coded(texts: pa.ChunkedArray) -> pa.DictionaryArray:
    """Each of a few different texts once, and for each row its number, of as few bytes as do."""
    found = whole(texts.dictionary_encode())
    small = len(found.dictionary) < 128
    return pa.DictionaryArray.from_arrays(found.indices.cast(pa.int8()), found.dictionary) if small else found


def whole(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column in one piece, copied only where it is in several."""
    if isinstance(column, pa.Array):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def hashes(texts: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """A number for each text, int64 [N], the same for equal ones within this process."""
    found = np.empty(len(texts), dtype=np.int64)
    for start in range(0, len(texts), CHUNK):
        some = texts.slice(start, CHUNK).to_pylist()
        found[start : start + len(some)] = np.fromiter(map(hash, some), dtype=np.int64, count=len(some))
    return found


def encoded(texts: pa.ChunkedArray | pa.Array) -> pa.DictionaryArray:
    """Each of many different texts once, in the order of first appearance, and for each row its number.

    By hashes, which are sorted: Arrow's own table of texts takes three times the memory of ten million of them.
    """
    first, codes = _first_and_codes(hashes(texts))
    found = pa.DictionaryArray.from_arrays(pa.array(codes), whole(texts.take(pa.array(first))))
    for start in range(0, len(texts), CHUNK):
        some = found.slice(start, CHUNK).cast(pa.string())
        if not pc.all(pc.equal(texts.slice(start, CHUNK), some)).as_py():  # two texts share a hash: one in 10^19
            return whole(texts.dictionary_encode())
    return found


def _first_and_codes(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each different number its first row, ascending, and for each row the place of its number among them.

    np.unique gives the same and holds twice as many arrays at once.
    """
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    begins = np.ones(len(hashes), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=begins[1:])
    del ordered
    first = order[begins]
    rank = np.empty(len(first), dtype=np.int8 if len(first) < 128 else np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=rank.dtype)
    codes = np.empty(len(hashes), dtype=rank.dtype)
    codes[order] = rank[np.cumsum(begins, dtype=np.int32) - 1]
    return np.sort(first), codes


def unknown(n: int) -> pa.Array:
    """A finding that nobody annotated, int8 [N]."""
    return pa.array(np.full(n, UNKNOWN, dtype=np.int8))
