"""The tokens of the documents in an index: their lists, their codes and, if kept, their vectors."""

from __future__ import annotations

import copy
from typing import NamedTuple

import numpy as np

from fpq import _native
from fpq._arrays import GrowingArray
from fpq._checks import Array, Float32, Int32, Int64, UInt8
from fpq.indexes.parts.ids import Commit, Removal
from fpq.indexes.parts.vectors import Vectors
from fpq.metric import Metric
from fpq.storage import Check, FormatError, State, Stored, below, non_negative

PIECE = 1 << 16  # documents that move at a time: Python handles Ctrl-C between two pieces
PRODUCTS = 1 << 22  # exact distances that are in memory at a time


class Postings(NamedTuple):
    """The documents with a token in list l: rows[first[l]:first[l + 1]], ascending."""

    first: Int64
    rows: Int32


class Tokens:
    """Tokens in the order of their documents. Documents are only added at the end; a removal makes a new object.

    The rows of the lists follow from the lists of the tokens. The first search after a change computes them.
    """

    def __init__(self, code_size: int) -> None:
        self.n = 0  # documents
        self._first = GrowingArray.of(np.zeros(1, np.int64))
        self._lists = GrowingArray((), np.int32)
        self._codes = GrowingArray((code_size,), np.uint8)
        self.vectors = Vectors()
        self._postings: Postings | None = None

    @property
    def first(self) -> Int64:
        """Document i has the tokens first[i] to first[i + 1] - 1; int64 (n + 1,)."""
        return self._first.data[: self.n + 1]

    @property
    def n_tokens(self) -> int:
        """The number of tokens of all documents."""
        return int(self._first.data[self.n])

    @property
    def lists(self) -> Int32:
        """The list of each token, int32 (n_tokens,)."""
        return self._lists.data[: self.n_tokens]

    @property
    def codes(self) -> UInt8:
        """The code of each token, uint8 (n_tokens, code_size)."""
        return self._codes.data[: self.n_tokens]

    @property
    def nbytes(self) -> int:
        """Bytes in use and in reserve."""
        arrays = [self._first.data, self._lists.data, self._codes.data, *(self._postings or ())]
        return sum(int(array.nbytes) for array in arrays) + self.vectors.nbytes

    def postings(self, n_lists: int) -> Postings:
        """The rows of each list."""
        found = self._postings  # a concurrent search may compute the same rows
        if found is None:
            lists = _lists_below(n_lists, self.lists)
            first = np.empty(n_lists + 1, np.int64)
            _native.postings(self.first, lists, first, None)
            rows = np.empty(int(first[-1]), np.int32)
            _native.postings(self.first, lists, first, rows)
            self._postings = found = Postings(first, rows)
        return found

    def lists_of(self, numbers: Int64, n_lists: int) -> Int32:
        """The lists of these tokens."""
        return _lists_below(n_lists, self.lists[numbers])

    def of(self, rows: Int64) -> tuple[Int64, Int64]:
        """The numbers of the tokens of these documents, and where each document begins among them, (len(rows) + 1,)."""
        starts = self.first[rows]
        begins = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.first[rows + 1] - starts)])
        within = np.arange(begins[-1], dtype=np.int64)
        return within + np.repeat(starts - begins[:-1], np.diff(begins)), begins

    def reserve(self, n: int, n_tokens: int) -> None:
        """Allocate memory for `n` documents of `n_tokens` tokens in total; vectors take their memory by themselves."""
        self._first.reserve(n + 1)
        self._lists.reserve(n_tokens)
        self._codes.reserve(n_tokens)

    def place(self, first: Int64, vectors: GrowingArray | None) -> tuple[Int32, UInt8, Commit]:
        """Room for the lists and codes of further documents of tokens `first`, and the commit that makes them visible.

        vectors: what `Vectors.write` returned for the tokens, or None.
        """
        n, start = self.n + len(first) - 1, self.n_tokens
        end = start + int(first[-1])
        self.reserve(n, end)
        self._first.data[self.n + 1 : n + 1] = start + first[1:]

        def commit() -> None:
            self.n, self._postings = n, None
            if vectors is not None:
                self.vectors.commit(vectors, end)

        return self._lists.data[start:end], self._codes.data[start:end], commit

    def snapshot(self) -> Tokens:
        """The present documents, valid while documents are only added."""
        tokens = copy.copy(self)
        tokens.vectors = self.vectors.snapshot()
        return tokens

    def without(self, removal: Removal) -> Tokens:
        """A copy without the removed documents; documents from the end have taken their rows."""
        n, gone = self.n - len(removal.rows), removal.rows
        n_tokens = self.n_tokens - int((self.first[gone + 1] - self.first[gone]).sum())
        rows = np.arange(n, dtype=np.int64)
        rows[removal.targets] = removal.sources
        kept = Tokens(self._codes.data.shape[1])
        kept.reserve(n, n_tokens)
        for start in range(0, n, PIECE):
            numbers, begins = self.of(rows[start : start + PIECE])
            x = self.vectors.data[numbers] if self.vectors.n else None
            vectors = None if x is None else kept.vectors.write(x, numbers)
            lists, codes, commit = kept.place(begins, vectors)
            lists[:], codes[:] = self.lists[numbers], self.codes[numbers]
            commit()
            kept.vectors.reserve(n_tokens)
        return kept

    def distances(self, queries: Float32, rows: Int64, metric: Metric, n_threads: int) -> Float32:
        """The exact distances of a query (t, d) to these documents, from their vectors."""
        out = np.empty(len(rows), np.float32)
        ends = np.cumsum(self.first[rows + 1] - self.first[rows]) * len(queries) // PRODUCTS
        for part in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(ends)) + 1):
            numbers, begins = self.of(rows[part])
            each = np.broadcast_to(numbers, (len(queries), len(numbers)))
            least = np.minimum.reduceat(self.vectors.distances(queries, each, metric, n_threads), begins[:-1], axis=1)
            out[part] = least.sum(axis=0, dtype=np.float64)
        return out

    def state(self) -> State:
        """The state that a file stores."""
        arrays: dict[str, Array] = {"first": self.first, "lists": self.lists, "codes": self.codes}
        return State({}, arrays).joined(self.vectors.state())

    @classmethod
    def from_state(cls, stored: Stored, n: int, n_lists: int, code_size: int, dim: int, *, keeps: bool) -> Tokens:
        """Read the tokens of `n` documents from a file."""
        tokens = cls(code_size)
        ascending = Check("numbers that ascend from 0", _ascends)
        first = stored.array("first", np.int64, (n + 1,), ascending)
        n_tokens = int(first[-1])
        tokens.n, tokens._first = n, GrowingArray.of(first)
        lists = stored.array("lists", np.int32, (n_tokens,), non_negative, below(n_lists), bulk=True)
        tokens._lists = GrowingArray.of(lists)
        tokens._codes = GrowingArray.of(stored.array("codes", np.uint8, (n_tokens, code_size), bulk=True))
        if keeps and (n or stored.has("vectors")):
            tokens.vectors = Vectors.from_state(stored, n_tokens, dim)
        return tokens


def _lists_below(n_lists: int, lists: Int32) -> Int32:
    """Raise FormatError for other numbers, which a mapped file, which is not checked, can hold."""
    if len(lists) and (lists.min() < 0 or lists.max() >= n_lists):
        raise FormatError("lists: the data are damaged: expected numbers of lists")
    return lists


def _ascends(first: Int64) -> bool:
    return bool(first[0] == 0 and (np.diff(first) > 0).all())
