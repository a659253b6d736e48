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


def paths(chunks: Iterable[pa.Array]) -> pa.ChunkedArray:
    """A column of paths, each written in one way: `./a//b.png` and `a/./b.png` are `a/b.png`."""
    return _rewritten(text(chunks), (("//", "/{2,}", "/"), ("./", r"(^|/)(?:\./)+", r"\1")))


def people(chunks: Iterable[pa.Array]) -> pa.ChunkedArray:
    """A column of names of patients: numbers without a fraction of zeros, letters in one Unicode form.

    `17.0`, as a table of numbers is written once a cell of it was blank, is `17`. Blanks of any kind are spaces, marks
    without width are left out. `017` and `17` may be two people, and stay two.
    """
    chunks = [chunk if pc.all(pc.string_is_ascii(chunk)).as_py() else _composed(chunk) for chunk in text(chunks).chunks]
    return _rewritten(pa.chunked_array(chunks, pa.string()), ((".", r"^(\d+)\.0*$", r"\1"),))


def _composed(chunk: pa.Array) -> pa.Array:
    """Texts in NFC, with plain spaces and without marks that have no width."""
    chunk = pc.utf8_normalize(chunk, form="NFC")
    chunk = pc.replace_substring_regex(chunk, "[\\x{200b}-\\x{200f}\\x{2060}\\x{feff}]", "")
    chunk = pc.replace_substring_regex(chunk, "[\\x{a0}\\x{2000}-\\x{200a}\\x{202f}\\x{3000}]", " ")
    return pc.utf8_trim_whitespace(chunk)


def _rewritten(texts: pa.ChunkedArray, rules: Iterable[tuple[str, str, str]]) -> pa.ChunkedArray:
    """Texts after rules, chunk by chunk: a sign that one may apply, a regular expression, what to put in its place."""
    chunks = []
    for chunk in texts.chunks:
        for sign, pattern, instead in rules:
            if pc.any(pc.match_substring(chunk, sign)).as_py():
                chunk = pc.replace_substring_regex(chunk, pattern, instead)
        chunks.append(chunk)
    return pa.chunked_array(chunks, pa.string())


def blank(n: int) -> pa.Array:
    """N empty texts."""
    return pa.repeat(pa.scalar(""), n)


def coded(chunks: Iterable[pa.Array]) -> pa.DictionaryArray:
    """Each of a few different texts of a column once, and for each row its number, of as few bytes as do."""
    encoded = [part.dictionary_encode() for chunk in chunks for part in text([chunk]).chunks]
    kind = pa.dictionary(pa.int32(), pa.string())
    found = whole(pa.chunked_array(encoded, kind).unify_dictionaries())
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
