"""The base of the LSH indexes with one table: the hashes of every row, sketches by row, a number of candidates."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fpq import _checks, _native, _settings, progress, tuning
from fpq._arrays import GrowingArray
from fpq._checks import Array, Float32, Int64, Rows
from fpq.indexes.base import Bits, Nearest, SearchResult
from fpq.indexes.changes import Addition
from fpq.indexes.lsh import LSHIndex, LSHStats
from fpq.indexes.parts.ids import Commit, Removal, no_op
from fpq.indexes.parts.lock import reads
from fpq.indexes.parts.sketches import sketch_size
from fpq.indexes.parts.streaming import searches_blocks
from fpq.indexes.parts.vectors import Vectors
from fpq.metric import MetricName
from fpq.storage import State, Stored

BLOCK_ROWS = 64

Self = TypeVar("Self", bound="LSHRowsIndex")


class LSHRowsIndex(LSHIndex):
    """Kept vectors; a search reads the hashes of all rows, which lie in blocks of 64 rows."""

    n_candidates = _settings.Setting(_settings.optional(_settings.integer(1)))

    _state_names: tuple[str, ...] = ("width", "n_candidates", "_blocks", "_row_sketches")
    _options: tuple[str, ...]  # options that a file stores, beside width, metric and seed

    _code_type: DTypeLike

    n_hashes: int
    width: float | None

    _blocks: GrowingArray  # entries of BLOCK_ROWS rows
    _row_sketches: GrowingArray | None

    def __init__(self, metric: MetricName, seed: int, n_threads: int | None) -> None:
        super().__init__(metric, seed, n_threads)
        self._given_width = self.width
        self.n_candidates = None
        vars(self).update(self._no_rows())

    @abstractmethod
    def _no_blocks(self) -> GrowingArray:
        """The blocks of an index without rows."""

    @abstractmethod
    def _encode(self, x: Array, codes: Array, n_threads: int) -> None:
        """Write the hashes of prepared rows as bytes, to codes (n, n_hashes)."""

    @abstractmethod
    def _put(self, codes: Array, rows: Int64, n_threads: int = 1) -> None:
        """Put codes into these rows of the blocks. With one thread, this cannot fail."""

    @abstractmethod
    def _get(self, rows: Int64, codes: Array) -> None:
        """Write the codes of these rows."""

    @abstractmethod
    def _candidates(
        self, n_candidates: int | None, queries: Float32, sketches: Array | None, allowed: Bits | None,
        distances: Float32, ids: Int64, stats: Int64, n_threads: int,
    ) -> None:  # fmt: skip
        """Search among this number of candidates, or by the rules of the index."""

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays of the index."""
        sketches = 0 if self._row_sketches is None else self._row_sketches.data.nbytes
        return self._blocks.data.nbytes + sketches + self._vectors.nbytes + self._ids.nbytes

    def _drawn_hashes(
        self, sample: Array, width: float, buckets: float, rng: np.random.Generator
    ) -> tuple[_native.LSHHashes, dict[str, Any]]:
        """Hash functions with so many buckets per width, and the attributes of an index without rows that uses them."""
        centre = sample.mean(0, dtype=np.float64).astype(np.float32)
        hashes = self._draw(1, self.n_hashes, width / buckets, centre, rng)
        return hashes, {"width": width, "n_candidates": None, **self._no_hashes(sketch_size(sample.shape[1]))}

    def _no_rows(self) -> dict[str, Any]:
        return {"_vectors": Vectors(), **self._no_hashes(self._sketch_size)}

    def _no_hashes(self, size: int) -> dict[str, Any]:
        """Attributes of an index without rows, with sketches of `size` bytes."""
        return {
            "_blocks": self._no_blocks(),
            "_row_sketches": GrowingArray((size,), np.uint8) if size else None,
        }

    def _reserve(self, n: int) -> None:
        super()._reserve(n)
        self._reserve_codes(n)

    def _reserve_codes(self, n: int) -> None:
        self._blocks.reserve(-(-n // BLOCK_ROWS))
        if self._row_sketches is not None:
            self._row_sketches.reserve(n)

    def _hashing(self, x: Array, n_threads: int) -> Addition:
        first, n = len(self), len(self) + len(x)
        codes: Array = np.empty((len(x), self.n_hashes), self._code_type)
        self._encode(x, codes, n_threads)
        sketches = self._sketches(x, n_threads)
        rows = np.arange(first, n)
        self._reserve_codes(n)

        def write(advance: progress.Advance) -> None:
            self._put(codes, rows, n_threads)
            self._blocks.clear_after(n)
            if self._row_sketches is not None:
                _native.copy_rows(sketches, None, self._row_sketches.data[first:n], n_threads)
            advance(len(x))

        return Addition(no_op, write, self._clearing())

    def _clearing(self) -> Commit:
        return partial(self._blocks.clear_after, len(self))

    def _removing(self, removal: Removal, places: Int64) -> Commit:
        codes: Array = np.empty((len(removal.sources), self.n_hashes), self._code_type)
        self._get(removal.sources, codes)
        n = len(self) - len(removal.rows)
        sketches = None if self._row_sketches is None else self._row_sketches.data[removal.sources]

        def commit() -> None:
            self._put(codes, removal.targets)
            self._blocks.clear_after(n)
            if self._row_sketches is not None:
                self._row_sketches.data[removal.targets] = sketches

        return commit

    @reads
    @searches_blocks
    def search(
        self,
        Q: Rows,
        k: int = 10,
        *,
        n_candidates: int | None = None,
        allowed: ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> SearchResult:
        """The k nearest vectors of each query among the candidates; the lower id wins ties.

        Parameters
        ----------
        Q : array (nq, d) or (d,), or in blocks as the rows of `add`
        k : int, default 10
        n_candidates : int, optional
            Replaces the threshold and the stop rules: verify this number of rows. C2LSH: those with the most
            collisions, at the first level at which that number of rows collide at least once. PM-LSH: those with the
            nearest projections. Default: the attribute `n_candidates`; if the attribute is None, the rules apply.
        allowed : array of ids, or boolean mask by id, optional
            Return only these ids.
        n_threads : int, optional

        Returns
        -------
        SearchResult
            Exact distances; id -1 where fewer than k vectors are found.

        Raises
        ------
        ValueError, TypeError
            If the index is not trained or an argument is not as described.
        """
        return self._search(Q, k, allowed, n_threads, self._find(n_candidates))

    def _find(self, effort: int | None) -> Nearest:
        n_candidates = self.n_candidates if effort is None else effort
        if n_candidates is not None:
            n_candidates = _checks.integer("n_candidates", n_candidates, 1)

        def find(queries: Float32, k: int, allowed: Bits | None, n_threads: int) -> tuple[Float32, Int64]:
            distances = np.empty((len(queries), k), dtype=np.float32)
            ids = np.empty((len(queries), k), dtype=np.int64)
            stats = np.empty((len(queries), 3), dtype=np.int64)
            count = None if n_candidates is None else min(max(k, n_candidates), len(self))
            sketches = None if self._row_sketches is None else self._row_sketches.data
            self._candidates(count, queries, sketches, allowed, distances, ids, stats, n_threads)
            self.last_stats = LSHStats(*stats.T.copy())
            return distances, ids

        return find

    @reads
    @progress.reported
    def tune(self, Q: Rows, k: int = 10, recall: float = 0.95, *, n_threads: int | None = None) -> tuning.Tuning:
        """Set `n_candidates` to the smallest number that reaches a recall on sample queries.

        `tune` compares searches to exact search, with numbers that grow from k to all rows by a quarter per step.

        Parameters
        ----------
        Q : array (nq, d), or in blocks as the rows of `add`
            Queries like those of the application. Rows of the index would find themselves.
        k : int, default 10
        recall : float, default 0.95
            Required share of the k true neighbours among the k neighbours found.
        n_threads : int, optional

        Returns
        -------
        fpq.tuning.Tuning
            The measurements; prints as a table.

        Raises
        ------
        ValueError, TypeError
            If the index is empty or not trained, or an argument is not as described. `n_candidates` is then unchanged.
        """
        return self._tune(Q, k, recall, n_threads)

    @staticmethod
    def _efforts(k: int, n: int) -> list[dict[str, int]]:
        return [{"n_candidates": count} for count in tuning.steps(n, first=min(k, n))]

    def _state(self) -> State:
        state = self._shared_state({"width": self.width, "n_candidates": self.n_candidates})
        state.params.update({name: getattr(self, name) for name in self._options}, width=self._given_width)
        if len(self):
            state.arrays["codes"] = self._blocks.data[: -(-len(self) // BLOCK_ROWS)]
            if self._row_sketches is not None:
                state.arrays["sketches"] = self._row_sketches.data[: len(self)]
        return state

    @classmethod
    def _from_state(cls: type[Self], stored: Stored) -> Self:
        index = cls(**stored.take(*cls._options, "width", "metric", "seed"), n_threads=stored.n_threads)
        index._restore_shared(stored)
        if index._dim is None:
            stored.take("chosen")
            return index
        chosen = stored.part("chosen")
        vars(index).update(width=_checks.positive("width", chosen.number("width")))
        index.n_candidates = chosen.optional_count("n_candidates", 1)
        index._restore_hashes(stored, 1, index.n_hashes)
        n, size = len(index), index._sketch_size
        vars(index).update(index._no_hashes(size))
        if n:
            empty = index._blocks.data
            shape = (-(-n // BLOCK_ROWS), *empty.shape[1:])
            index._blocks = GrowingArray.of(stored.array("codes", empty.dtype, shape, bulk=True))
            if size:
                index._row_sketches = GrowingArray.of(stored.array("sketches", np.uint8, (n, size), bulk=True))
        return index
