"""Locality-sensitive hashing with bucket tables: E2LSH with query-directed multi-probe."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fpq import _checks, _native, _settings, progress, threads, tuning
from fpq._arrays import GrowingArray
from fpq._checks import Array, Float32, Float64, Int64, Rows, UInt8, UInt64
from fpq.indexes import lsh
from fpq.indexes.base import Bits, Nearest, SearchResult
from fpq.indexes.changes import Addition
from fpq.indexes.lsh import DrawnRows, LSHIndex, LSHStats, collision_probability, width_in_range
from fpq.indexes.parts.ids import Commit, Removal, no_op
from fpq.indexes.parts.lock import reads
from fpq.indexes.parts.sketches import sketch_size
from fpq.indexes.parts.streaming import searches_blocks
from fpq.indexes.parts.tables import Tables, directory_bits
from fpq.indexes.parts.vectors import Vectors
from fpq.metric import MetricName
from fpq.storage import State, Stored

WIDTH = 3.0  # default width, in median distances to the 10th neighbour
TABLES = 8  # default n_tables, if memory_limit permits
PROBES = 64  # default n_probe per table
BUCKET_ROWS = 600  # the default n_hashes gives a row at most this many others in its bucket, on average
MAX_HASHES = 32
MAX_TABLES = 1024
MAX_TUNED_PROBES = 1 << 16  # the largest n_probe that `tune` measures
MAX_PROBES = 1 << 20  # the largest n_probe of a search

ROWS_PER_PENDING = 8  # `add` merges pending rows into the tables when they are 1/8 of all rows


def _width(name: str, value: Any) -> float:
    return width_in_range(name, value, 1.0)


class E2LSHIndex(LSHIndex, kind="E2LSHIndex"):
    """Nearest neighbours among the vectors that share hash buckets with the query, by exact distances.

    A hash function is ``floor((a . x + b) / width)`` with normal a and uniform b: near vectors get the same value with
    a higher probability than far vectors. The values of ``n_hashes`` functions are the key of a bucket. Each of the
    ``n_tables`` tables has its own functions. A search probes ``n_probe`` buckets in all tables together: first the
    buckets of the query, then those with the nearest boundaries. FPQ paper, II.A; Datar et al., SoCG 2004; Lv et al.,
    VLDB 2007.

    Vectors keep their dtype, and candidates are ranked by exact distances. "cosine" scales vectors to length 1, where
    angles and Euclidean distances have the same order, and keeps them as a `FlatIndex` does. From 32 dimensions on, a
    table holds a sketch of 16 to 64 bytes with each row number: principal coordinates, which give a lower bound of the
    distance. The bound excludes most candidates without reading their vectors and does not change results.

    A table takes 8 bytes per row, the sketch, and a directory of 0.5 to 1 byte per row. New rows are pending until they
    are 1/8 of all rows, or until a call reads the tables (`search`, `tune`, `remove`, `update`, `copy`, `save`). The
    merge of pending rows takes time proportional to the number of all rows, and memory for a second copy of the tables.
    Results do not depend on the number of threads. Any number of threads may search at the same time; a call that
    changes the index runs alone.

    Parameters
    ----------
    n_tables : int, optional
        Number of tables, 1 to 1024. Default: 8, or fewer if `memory_limit` requires.
    n_hashes : int, optional
        Functions per table, 1 to 32. Default: the smallest number for which the bucket of a row of X holds at most 600
        other rows on average, by the collision probability at the distances of sampled pairs.
    width : float, optional
        Width of a bucket, in units of distance (not squared). Default: 3 times the median distance of a row to its 10th
        neighbour among at most 131,072 rows of X.
    metric : {"l2", "cosine"}, default "l2"
    memory_limit : int, optional
        Maximum bytes of the tables (without the vectors) for the number of rows that `fit` gets.
    seed : int, default 0
    n_threads : int or None, default None
        Number of threads. None: all available cores, or OMP_NUM_THREADS.

    Attributes
    ----------
    n_tables, n_hashes, width
        As given, or as chosen by `fit`.
    n_probe : int
        Default of the argument `n_probe` of `search`. Initially 64 per table; `tune` sets another number.
    last_stats : LSHStats or None
        Statistics of the last search.

    Examples
    --------
    >>> import numpy as np, fpq
    >>> X = np.random.default_rng(0).normal(size=(2000, 32)).astype(np.float32)
    >>> index = fpq.E2LSHIndex().fit(X).add(X)
    >>> distances, ids = index.search(X[:3], k=5)
    >>> ids[:, 0].tolist()
    [0, 1, 2]
    """

    n_tables = _settings.Fixed(_settings.optional(_settings.integer(1, MAX_TABLES)))
    n_hashes = _settings.Fixed(_settings.optional(_settings.integer(1, MAX_HASHES)))
    width = _settings.Fixed(_settings.optional(_width))
    memory_limit = _settings.Fixed(_settings.optional(_settings.integer(1)))
    n_probe = _settings.Setting(_settings.integer(1))

    _state_names: tuple[str, ...] = ("n_tables", "n_hashes", "width", "n_probe", "_tables", "_pending")

    _tables: Tables
    _pending: tuple[GrowingArray, GrowingArray]  # entries and sketches of the rows that are not in the tables

    def __init__(
        self,
        *,
        n_tables: int | None = None,
        n_hashes: int | None = None,
        width: float | None = None,
        metric: MetricName = "l2",
        memory_limit: int | None = None,
        seed: int = 0,
        n_threads: int | None = None,
    ) -> None:
        super().__init__(metric, seed, n_threads)
        self.n_tables, self.n_hashes, self.width = n_tables, n_hashes, width
        self._given = self.n_tables, self.n_hashes, self.width
        self.memory_limit = memory_limit
        vars(self).update(n_probe=None, **self._no_rows())  # `fit` sets n_probe

    def _no_rows(self) -> dict[str, Any]:
        return {"_vectors": Vectors(), **self._no_tables(self.n_tables or 0, self._sketch_size)}

    @staticmethod
    def _no_tables(n_tables: int, size: int) -> dict[str, Any]:
        """Attributes of an index without rows, with sketches of `size` bytes."""
        return {
            "_tables": Tables.empty(n_tables),
            "_pending": (GrowingArray((n_tables,), np.uint64), GrowingArray((size,), np.uint8)),
        }

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays of the index."""
        pending = sum(array.data.nbytes for array in self._pending)
        return self._tables.nbytes + pending + self._vectors.nbytes + self._ids.nbytes

    @property
    def _sample_sizes(self) -> tuple[int, ...]:
        return lsh.SAMPLES[: 2 if self._given[2] is None else 1]

    def _choose(
        self, drawn: DrawnRows, sample: Array, rng: np.random.Generator, n_threads: int
    ) -> tuple[_native.LSHHashes, dict[str, Any]]:
        n_tables, n_hashes, width = self._given
        n, d = drawn.total, sample.shape[1]
        if width is None:
            width = WIDTH * self._neighbour_distance(drawn, rng, n_threads)
        if n_hashes is None:
            n_hashes = hashes_for(n, collision_probability(lsh.pair_distances(sample, rng), width))
        n_tables = table_count(n, d, n_tables, self.memory_limit)
        centre = sample.mean(0, dtype=np.float64).astype(np.float32)
        hashes = self._draw(n_tables, n_hashes, width, centre, rng)
        chosen = {"n_tables": n_tables, "n_hashes": n_hashes, "width": width, "n_probe": PROBES * n_tables}
        return hashes, chosen | self._no_tables(n_tables, sketch_size(d))

    def _hashing(self, x: Array, n_threads: int) -> Addition:
        assert self._hashes is not None
        first, old, n = self._tables.n, len(self), len(self) + len(x)
        new = np.empty((len(self._tables.entries), len(x)), dtype=np.uint64)
        self._hashes.entries(x, old, new, n_threads)
        by_row = self._sketches(x, n_threads)
        if ROWS_PER_PENDING * (n - first) < n:
            for pending, rows in zip(self._pending, (new.T, by_row), strict=True):
                if rows is not None:
                    pending.reserve(n - first)
                    pending.data[old - first : n - first] = rows
            return Addition(no_op)
        tables = self._merged(self._tables, new, by_row, n_threads)
        changed = self._no_tables(len(new), self._sketch_size) | {"_tables": tables}
        return Addition(lambda: vars(self).update(changed))

    def _complete_tables(self, n_threads: int) -> Tables:
        """The tables after the merge of the pending rows."""
        tables = self._tables  # a concurrent search may merge the same rows
        if tables.n < len(self):
            no_rows = np.empty((len(tables.entries), 0), np.uint64)
            self._tables = tables = self._merged(tables, no_rows, None, n_threads)
        return tables

    def _merged(self, tables: Tables, new: UInt64, new_sketches: UInt8 | None, n_threads: int) -> Tables:
        """The present tables merged with the pending rows, followed by new rows."""
        n_pending = len(self) - tables.n
        pending, sketches = (array.data[:n_pending] for array in self._pending)
        entries = np.concatenate([pending.T, new], axis=1)
        if self._sketcher is None:
            return tables.merged(entries, None, n_threads)
        added = sketches if new_sketches is None else np.concatenate([sketches, new_sketches])
        return tables.merged(entries, added, n_threads)

    def _removing(self, removal: Removal, places: Int64) -> Commit:
        tables = self._complete_tables(threads.resolve(self.n_threads)).without(removal)
        return lambda: vars(self).update(_tables=tables)

    @reads
    @searches_blocks
    def search(
        self,
        Q: Rows,
        k: int = 10,
        *,
        n_probe: int | None = None,
        allowed: ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> SearchResult:
        """The k nearest vectors of each query in the probed buckets; the lower id wins ties.

        Parameters
        ----------
        Q : array (nq, d) or (d,), or in blocks as the rows of `add`
        k : int, default 10
        n_probe : int, optional
            Number of buckets to probe in all tables together; numbers above 2**20 mean 2**20. Default: the attribute
            `n_probe`.
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
        self._require_trained()
        return self._search(Q, k, allowed, n_threads, self._find(n_probe))

    def _find(self, effort: int | None) -> Nearest:
        n_probe = min(MAX_PROBES, _checks.integer("n_probe", self.n_probe if effort is None else effort, 1))

        def find(queries: Float32, k: int, allowed: Bits | None, n_threads: int) -> tuple[Float32, Int64]:
            distances = np.empty((len(queries), k), dtype=np.float32)
            ids = np.empty((len(queries), k), dtype=np.int64)
            stats = np.empty((len(queries), 3), dtype=np.int64)
            tables = self._complete_tables(n_threads)
            _native.e2lsh_search(
                self._hashes, tables.entries, tables.sketches, tables.starts, tables.bits,
                self._vectors.data, self._sketcher, self._ids.native, allowed, self._metric.kernel,
                queries, n_probe, distances, ids, stats, n_threads,
            )  # fmt: skip
            self.last_stats = LSHStats(*stats.T.copy())
            return distances, ids

        return find

    @reads
    @progress.reported
    def tune(self, Q: Rows, k: int = 10, recall: float = 0.95, *, n_threads: int | None = None) -> tuning.Tuning:
        """Set `n_probe` to the smallest number of buckets that reaches a recall on sample queries.

        `tune` compares searches to exact search, with numbers that grow from 1 to 65,536 by a quarter per step.

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
            If no number reaches the recall (the message gives the best), the index is empty or not trained, or an
            argument is not as described. `n_probe` is then unchanged.
        """
        return self._tune(Q, k, recall, n_threads)

    @staticmethod
    def _efforts(k: int, n: int) -> list[dict[str, int]]:
        return [{"n_probe": n_probe} for n_probe in tuning.steps(MAX_TUNED_PROBES)]

    def _state(self) -> State:
        n_tables, n_hashes, width = self._given
        chosen = {"n_tables": self.n_tables, "n_hashes": self.n_hashes, "width": self.width, "n_probe": self.n_probe}
        state = self._shared_state(chosen)
        state.params.update(n_tables=n_tables, n_hashes=n_hashes, width=width, memory_limit=self.memory_limit)
        if len(self):
            state.arrays.update(self._complete_tables(threads.resolve(self.n_threads)).arrays)
        return state

    @classmethod
    def _from_state(cls, stored: Stored) -> E2LSHIndex:
        given = stored.take("n_tables", "n_hashes", "width", "metric", "memory_limit", "seed")
        index = cls(**given, n_threads=stored.n_threads)
        index._restore_shared(stored)
        if index._dim is None:
            stored.take("chosen")
            return index
        chosen = stored.part("chosen")
        n_tables = _checks.integer("n_tables", chosen.count("n_tables"), 1, MAX_TABLES)
        n_hashes = _checks.integer("n_hashes", chosen.count("n_hashes"), 1, MAX_HASHES)
        width = _checks.positive("width", chosen.number("width"))
        vars(index).update(n_tables=n_tables, n_hashes=n_hashes, width=width)
        index.n_probe = chosen.count("n_probe", 1)
        index._restore_hashes(stored, n_tables, n_hashes)
        vars(index).update(index._no_tables(n_tables, index._sketch_size))
        if len(index):
            index._tables = Tables.restored(stored, n_tables, len(index), index._sketch_size)
        return index

    def __repr__(self) -> str:
        return (
            f"E2LSHIndex(n_tables={self.n_tables}, n_hashes={self.n_hashes}, width={self.width}, "
            f"metric={self.metric!r}, n={len(self)}, dim={self.dim}, nbytes={self.nbytes})"
        )


def hashes_for(n: int, probabilities: Float64) -> int:
    """The smallest number of hashes with which a bucket holds at most BUCKET_ROWS of n rows, on average over pairs."""
    for n_hashes in range(1, MAX_HASHES):
        if n * float((probabilities**n_hashes).mean()) <= BUCKET_ROWS:
            return n_hashes
    return MAX_HASHES


def table_bytes(n: int, d: int) -> int:
    """Bytes per table of n rows: entries, sketches, directory."""
    return n * (8 + sketch_size(d)) + 4 * ((1 << directory_bits(n)) + 1)


def table_count(n: int, d: int, n_tables: int | None, memory_limit: int | None) -> int:
    """The number of tables of n rows: as given, or as many as the limit permits, up to the default."""
    nbytes = table_bytes(n, d)
    limit = MAX_TABLES if memory_limit is None else memory_limit // nbytes
    if limit < (n_tables or 1):
        raise ValueError(
            f"memory_limit: expected at least {(n_tables or 1) * nbytes} bytes for {n_tables or 1} table(s) of {n} "
            f"rows, got {memory_limit}"
        )
    return n_tables or min(TABLES, limit)
