"""Columns of a data set as arrays, for as many rows as fit: of Python objects there are those of a batch."""

from collections.abc import Iterable, Iterator
from copy import copy
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from bertcls.process import remembered
from bertcls.text import comparison_key

ROWS_AT_A_TIME = 10_000
_TAKEN_FROM = 2**28  # bytes; beyond, rows that are far apart are gathered one by one


def tables(dataset: Dataset, *names: str) -> Iterator[pa.Table]:
    """The columns as Arrow has them, a batch of rows at a time; selected rows are gathered a batch at once."""
    view = dataset.select_columns([*names])
    for start in range(0, len(view), ROWS_AT_A_TIME):
        count = min(ROWS_AT_A_TIME, len(view) - start)
        if view._indices is None:
            yield view.data.fast_slice(start, count)
            continue
        rows = view._indices.fast_slice(start, count)[0].to_numpy().astype(np.int64)
        first, last = int(rows.min()), int(rows.max())
        span = view.data.fast_slice(first, last + 1 - first)
        if span.nbytes <= _TAKEN_FROM:
            yield span.take(pa.array(rows - first))
        else:
            yield view.data.fast_gather(rows).combine_chunks()  # else a chunk, which is an object, a row


def row_batches(dataset: Dataset, *names: str) -> Iterator[dict[str, list]]:
    """The columns, a batch of rows at a time."""
    return (table.to_pydict() for table in tables(dataset, *names))


def column(dataset: Dataset, name: str) -> pa.ChunkedArray:
    """A column in the order of the rows."""
    chunks = [chunk for table in tables(dataset, name) for chunk in table[name].chunks]
    return pa.chunked_array(chunks, type=dataset.data.schema.field(name).type)


def numbers_in(dataset: Dataset, name: str) -> np.ndarray:
    """A column of numbers `[rows]`, which may be read-only."""
    return column(dataset, name).to_numpy()


class WithLengths(Dataset):
    """Rows whose column `length` comes as a list: Trainer's sampler asks for one number after another, and a lazy
    column looks for each through all pieces of its file, so that sorting would grow with the square of the rows."""

    @classmethod
    def of(cls, rows: Dataset) -> "WithLengths":
        """The same rows."""
        found = copy(rows)
        found.__class__ = cls
        return found

    def __getitem__(self, key):
        if isinstance(key, str) and key == "length":
            return numbers_in(self, key).tolist()
        return super().__getitem__(key)


def is_missing(dataset: Dataset, name: str, *, blank: bool = False) -> np.ndarray:
    """Rows `[rows]` without a text, or with nothing but `blank` characters."""
    texts = column(dataset, name)
    missing = pc.equal(pc.utf8_trim_whitespace(pc.fill_null(texts, "")), "") if blank else pc.is_null(texts)
    return missing.to_numpy()


def text_batches(dataset: Dataset) -> Iterator[list[tuple[str, ...]]]:
    """The text of each row, or both of a pair, a batch of rows at a time; a missing one is an empty one."""
    names = [name for name in ("text", "text_pair") if name in dataset.column_names]
    for batch in row_batches(dataset, *names):
        yield [tuple(text or "" for text in row) for row in zip(*(batch[name] for name in names))]


def key_of(texts: tuple[str, ...]) -> str:
    """`comparison_key` of a text, or of both of a pair."""
    return "\n".join(map(comparison_key, texts))


def digests(texts: Iterable[str]) -> np.ndarray:
    """64 bits that stand for each text, uint64 `[texts]`: of 10 million different ones two have the same with a chance
    of 3 in a million.

    >>> one, same, other = digests(["a", "a", "b"])
    >>> bool(one == same), bool(one == other)
    (True, False)
    """
    return np.frombuffer(b"".join(blake2b(text.encode(), digest_size=8).digest() for text in texts), np.uint64)


@remembered
def key_digests(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The digest of the key of each row, uint64 `[rows]`, and whether that is empty."""
    found, empty = [], []
    for texts in text_batches(dataset):
        keys = [*map(key_of, texts)]
        found.append(digests(keys))
        empty.append([not key.strip() for key in keys])
    return np.concatenate(found), np.concatenate(empty)
