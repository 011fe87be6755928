"""Locality-sensitive hashing with bucket tables: E2LSH with query-directed multi-probe."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fpq import _checks, _native, _settings, threads, tuning
from fpq._arrays import GrowingArray
from fpq._checks import Array, Float32, Float64, Int64, UInt8, UInt32, UInt64
from fpq.indexes.base import Bits, Nearest, SearchResult
from fpq.indexes.lsh import (
    MAX_ROWS,
    LSHIndex,
    LSHStats,
    collision_probability,
    pair_distances,
    sketch_size,
    width_in_range,
)
from fpq.indexes.parts.ids import Commit, Removal, nothing
from fpq.indexes.parts.lock import reads
from fpq.storage import Check, FormatError, State, Stored

WIDTH = 3.0  # default width, in distances to the 10th neighbour
TABLES = 8  # default n_tables where memory allows
PROBES = 64  # default n_probe, a table
BUCKET_ROWS = 600  # default n_hashes: so many that a row shares its bucket with at most this many on average
MAX_HASHES = 32
MAX_TABLES = 1024
MAX_PROBES = 1 << 16  # that `tune` measures
MOST_PROBES = 1 << 20  # that a search takes
STEP = 1.25  # between the numbers of probes that `tune` measures
WAITING = 8  # tables take new rows in when one row in so many is new
ROW_BITS = np.uint64(32)
ROW_MASK = np.uint64(MAX_ROWS)


class Tables(NamedTuple):
    """The hash tables, as the search reads them."""

    entries: UInt64  # (n_tables, n) key << 32 | row, in ascending order
    starts: UInt32  # (n_tables, 2^bits + 1) directories of the entries
    bits: int
    sketches: UInt8 | None  # (n_tables, n, size), in the order of the entries

    @classmethod
    def of(cls, entries: UInt64, sketches: UInt8 | None) -> Tables:
        """With the directories that belong to these entries."""
        return cls(entries, directories(entries), directory_bits(entries.shape[1]), sketches)

    @property
    def n(self) -> int:
        """The rows in each table."""
        return int(self.entries.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.entries.nbytes + self.starts.nbytes + (0 if self.sketches is None else self.sketches.nbytes)


def _width(name: str, value: Any) -> float:
    return width_in_range(name, value, 1.0)


class E2LSHIndex(LSHIndex, kind="E2LSHIndex"):
    """Nearest neighbours among the vectors that share hash buckets with the query, by exact distances.

    A hash function is ``floor((a . x + b) / width)``, a normal and b uniform, so that near vectors get the same value
    more probably than far ones; ``n_hashes`` of them make the key of a bucket, and each of ``n_tables`` tables has
    functions of its own. A search reads ``n_probe`` buckets over all tables: the query's own first, then those whose
    boundaries are nearest to it. FPQ paper, section II.A; Datar et al., SoCG 2004; Lv et al., VLDB 2007.

    Vectors are kept as they come and candidates are ranked by exact distances. "cosine" scales vectors to length 1,
    where the order of angles is that of Euclidean distances. From 32 dimensions on a table holds a sketch of 16 to 64
    bytes beside each row number: principal coordinates that give a lower bound of the distance, so that most candidates
    are passed over without reading their vectors. The bound is exact: results do not depend on it.

    A table takes 8 bytes a row and the sketch, and a directory of 0.5 to 1 byte a row. New rows wait until they are one
    in 8 of all, or until a call reads the tables (`search`, `tune`, `remove`, `save`); the tables are then merged with
    these rows, which takes time in proportion to all rows, and the room of the new tables meanwhile. Any number of
    threads may search at the same time; a call that changes the index waits for them, and they for it. Results do not
    depend on the number of threads.

    Parameters
    ----------
    n_tables : int, optional
        1 to 1024. Default: 8, or as many as `memory_limit` allows.
    n_hashes : int, optional
        Functions a table, 1 to 32. Default: the least for which the bucket of a row of X holds at most 600 others on
        average, by the closed form of the collision probability over distances of sampled pairs.
    width : float, optional
        In units of distance (not squared). Default: 3 times the median distance of a row to its 10th neighbour, among
        at most 131,072 rows of X.
    metric : {"l2", "cosine"}, default "l2"
    memory_limit : int, optional
        Bytes that the tables (not the vectors) may take for as many rows as `fit` gets.
    seed : int, default 0
    n_threads : int or None, default None
        Threads; None is what the environment says.

    Attributes
    ----------
    n_tables, n_hashes, width
        As given, or as chosen by `fit`.
    n_probe : int
        What `search` uses unless told: 64 a table, or what `tune` chose.
    last_stats : LSHStats or None
        What the last search did.

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

    _state_names: tuple[str, ...] = ("n_tables", "n_hashes", "width", "n_probe", "_tables", "_waiting")

    _tables: Tables
    _waiting: tuple[GrowingArray, GrowingArray]  # entries and sketches of the rows behind those in the tables

    def __init__(
        self,
        n_tables: int | None = None,
        n_hashes: int | None = None,
        width: float | None = None,
        *,
        metric: str = "l2",
        memory_limit: int | None = None,
        seed: int = 0,
        n_threads: int | None = None,
    ) -> None:
        super().__init__(metric, seed, n_threads)
        self.n_tables, self.n_hashes, self.width = n_tables, n_hashes, width
        self._given = self.n_tables, self.n_hashes, self.width
        self.memory_limit = memory_limit
        vars(self).update(n_probe=None, **self._no_rows(self.n_tables or 0, 0))  # n_probe: until `fit`

    def _no_rows(self, n_tables: int, size: int) -> dict[str, Any]:
        """The attributes of an index without rows, with sketches of `size` bytes."""
        return {
            "_tables": Tables(np.empty((n_tables, 0), np.uint64), np.empty((n_tables, 0), np.uint32), 1, None),
            "_waiting": (GrowingArray((n_tables,), np.uint64), GrowingArray((size,), np.uint8)),
        }

    @property
    def nbytes(self) -> int:
        """Bytes that the index holds in arrays."""
        waiting = sum(array.data.nbytes for array in self._waiting)
        return self._tables.nbytes + waiting + self._vectors.nbytes + self._ids.nbytes

    def _choose(
        self, x: Array, sample: Array, rng: np.random.Generator, n_threads: int
    ) -> tuple[_native.LSHHashes, dict[str, Any]]:
        n_tables, n_hashes, width = self._given
        if width is None:
            width = WIDTH * self._neighbour_distance(x, rng, n_threads)
        if n_hashes is None:
            n_hashes = hashes_for(len(x), collision_probability(pair_distances(sample, rng), width))
        one = table_bytes(len(x), x.shape[1])
        fitting = MAX_TABLES if self.memory_limit is None else self.memory_limit // one
        if fitting < (n_tables or 1):
            raise ValueError(
                f"memory_limit: expected at least {(n_tables or 1) * one} bytes for {n_tables or 1} table(s) of "
                f"{len(x)} rows, got {self.memory_limit}"
            )
        n_tables = n_tables or min(TABLES, fitting)
        centre = sample.mean(0, dtype=np.float64).astype(np.float32)
        hashes = self._draw(n_tables, n_hashes, width, centre, rng)
        chosen = {"n_tables": n_tables, "n_hashes": n_hashes, "width": width, "n_probe": PROBES * n_tables}
        return hashes, chosen | self._no_rows(n_tables, sketch_size(x.shape[1]))

    def _hashing(self, x: Array, n_threads: int) -> Commit:
        assert self._hashes is not None
        first, old, n = self._tables.n, len(self), len(self) + len(x)
        new = np.empty((len(self._tables.entries), len(x)), dtype=np.uint64)
        self._hashes.entries(x, old, new, n_threads)
        by_row = self._sketches(x, n_threads)
        if WAITING * (n - first) < n:
            for waiting, rows in zip(self._waiting, (new.T, by_row), strict=True):
                if rows is not None:
                    waiting.reserve(n - first)
                    waiting.data[old - first : n - first] = rows
            return nothing
        tables = self._merged(new, by_row, n_threads)

        def commit() -> None:
            self._tables = tables

        return commit

    def _whole_tables(self, n_threads: int) -> Tables:
        """The tables with the rows that wait."""
        if self._tables.n < len(self):  # threads that search at the same time may both merge them
            self._tables = self._merged(np.empty((len(self._tables.entries), 0), np.uint64), None, n_threads)
        return self._tables

    def _merged(self, new: UInt64, new_sketches: UInt8 | None, n_threads: int) -> Tables:
        """The tables with the rows that wait and with new ones behind them."""
        tables, waiting = self._tables, len(self) - self._tables.n
        n_tables, old = tables.entries.shape
        fresh = np.concatenate([self._waiting[0].data[:waiting].T, new], axis=1)
        n = old + fresh.shape[1]
        entries = np.empty((n_tables, n), dtype=np.uint64)
        by_row = sketches = None
        if self._sketcher is not None:
            by_row = np.empty((n, self._sketch_size), dtype=np.uint8)
            if tables.sketches is not None:
                by_row[(tables.entries[0] & ROW_MASK).astype(np.int64)] = tables.sketches[0]
            by_row[old : old + waiting] = self._waiting[1].data[:waiting]
            if new_sketches is not None:
                by_row[old + waiting :] = new_sketches
            sketches = np.empty((n_tables, n, self._sketch_size), dtype=np.uint8)

        def merge(table: int) -> None:
            entries[table, :old] = tables.entries[table]
            entries[table, old:] = np.sort(fresh[table])
            entries[table].sort(kind="stable")  # two runs, which it merges
            if sketches is not None and by_row is not None:
                np.take(by_row, (entries[table] & ROW_MASK).astype(np.int64), axis=0, out=sketches[table], mode="clip")

        threads.parallel_map(merge, range(n_tables), n_threads)
        return Tables.of(entries, sketches)

    def _removing(self, removal: Removal) -> Commit:
        before = self._whole_tables(threads.resolve(self.n_threads))
        n_tables, n = before.entries.shape
        left = n - len(removal.rows)
        renumbered = np.full(n, -1, dtype=np.int64)
        renumbered[removal.sources] = removal.targets
        stays = np.ones(n, dtype=np.bool_)
        stays[removal.rows] = stays[removal.sources] = False
        entries = np.empty((n_tables, left), dtype=np.uint64)
        sketches = None
        if before.sketches is not None:
            sketches = np.empty((n_tables, left, before.sketches.shape[2]), dtype=np.uint8)
        for table in range(n_tables):
            old = before.entries[table]
            stay = stays[(old & ROW_MASK).astype(np.int64)]
            others = np.flatnonzero(~stay)
            rows = renumbered[(old[others] & ROW_MASK).astype(np.int64)]
            moved = others[rows >= 0]
            changed = (old[moved] & ~ROW_MASK) | rows[rows >= 0].astype(np.uint64)
            order = np.argsort(changed, kind="stable")
            kept = old[stay]
            at = np.searchsorted(kept, changed[order])
            entries[table] = np.insert(kept, at, changed[order])
            if sketches is not None and before.sketches is not None:
                kept_sketches = before.sketches[table][stay]
                sketches[table] = np.insert(kept_sketches, at, before.sketches[table][moved[order]], axis=0)
        tables = Tables.of(entries, sketches)

        def commit() -> None:
            self._tables = tables

        return commit

    @reads
    def search(
        self,
        Q: Any,
        k: int = 10,
        *,
        n_probe: int | None = None,
        allowed: Any = None,
        n_threads: int | None = None,
    ) -> SearchResult:
        """The k nearest vectors of each query among those in the probed buckets; ties by id.

        Parameters
        ----------
        Q : array (nq, d) or (d,)
        k : int, default 10
        n_probe : int, optional
            Buckets to probe, over all tables; more than 2**20 means 2**20. Default: the attribute `n_probe`.
        allowed : array of ids, or boolean mask by id, optional
            Only these may be returned.
        n_threads : int, optional

        Returns
        -------
        SearchResult
            Exact distances; id -1 where fewer than k vectors were found.

        Raises
        ------
        ValueError, TypeError
            If the index is not trained or an argument is not as described.
        """
        self._require_trained()
        return self._search(Q, k, allowed, n_threads, self._find(n_probe))

    def _find(self, effort: int | None) -> Nearest:
        wanted = min(MOST_PROBES, _checks.integer("n_probe", self.n_probe if effort is None else effort, 1))

        def find(queries: Float32, k: int, allowed: Bits | None, n_threads: int) -> tuple[Float32, Int64]:
            distances = np.empty((len(queries), k), dtype=np.float32)
            ids = np.empty((len(queries), k), dtype=np.int64)
            stats = np.empty((len(queries), 3), dtype=np.int64)
            tables = self._whole_tables(n_threads)
            _native.e2lsh_search(
                self._hashes, tables.entries, tables.sketches, tables.starts, tables.bits,
                self._vectors.data, self._sketcher, self._ids.native, allowed, self._metric.inner_product,
                queries, wanted, distances, ids, stats, n_threads,
            )  # fmt: skip
            self.last_stats = LSHStats(*stats.T.copy())
            return distances, ids

        return find

    @reads
    def tune(self, Q: Any, k: int = 10, recall: float = 0.95, *, n_threads: int | None = None) -> tuning.Tuning:
        """Set `n_probe` to the least number of buckets that reaches a recall on sample queries.

        Numbers from 1 to 65,536 are tried in steps of a quarter, the smallest first, against exact search.

        Parameters
        ----------
        Q : array (nq, d)
            Queries like those to come; not the rows in the index, which find themselves.
        k : int, default 10
        recall : float, default 0.95
            Share of the k true neighbours that must be found.
        n_threads : int, optional

        Returns
        -------
        fpq.tuning.Tuning
            What was measured; prints as a table.

        Raises
        ------
        ValueError, TypeError
            If the recall is not reached (the message gives the best), the index is empty or not trained, or an argument
            is not as described. `n_probe` is then as before.
        """
        tuned = self._tune("n_probe", probe_counts(), Q, k, recall, n_threads)
        self.n_probe = tuned.best.setting["n_probe"]
        return tuned

    def _state(self) -> State:
        n_tables, n_hashes, width = self._given
        chosen = {"n_tables": self.n_tables, "n_hashes": self.n_hashes, "width": self.width, "n_probe": self.n_probe}
        state = self._shared_state(chosen)
        state.params.update(n_tables=n_tables, n_hashes=n_hashes, width=width, memory_limit=self.memory_limit)
        if len(self):
            tables = self._whole_tables(threads.resolve(self.n_threads))
            state.arrays.update(entries=tables.entries, starts=tables.starts)
            if tables.sketches is not None:
                state.arrays["table_sketches"] = tables.sketches
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
        vars(index).update(index._no_rows(n_tables, index._sketch_size))
        if len(index):
            index._restore_tables(stored, n_tables, len(index))
        return index

    def _restore_tables(self, stored: Stored, n_tables: int, n: int) -> None:
        """Mapped entries are not checked: the search passes over rows that there are not."""
        bits = directory_bits(n)
        entries = stored.array("entries", np.uint64, (n_tables, n), ordered, permuted, bulk=True)
        within = Check(f"numbers that rise from 0 to {n}", lambda starts: _rise(starts, n))
        starts = stored.array("starts", np.uint32, (n_tables, (1 << bits) + 1), within)
        if stored.checked and not np.array_equal(starts, directories(entries)):
            raise FormatError("starts: expected the directories of the entries")
        sketches = None
        if size := self._sketch_size:
            sketches = stored.array("table_sketches", np.uint8, (n_tables, n, size), bulk=True)
        self._tables = Tables(entries, starts, bits, sketches)

    def __repr__(self) -> str:
        return (
            f"E2LSHIndex(n_tables={self.n_tables}, n_hashes={self.n_hashes}, width={self.width}, "
            f"metric={self.metric!r}, n={len(self)}, dim={self.dim}, nbytes={self.nbytes})"
        )


ordered = Check("entries in order", lambda entries: bool((entries[:, 1:] >= entries[:, :-1]).all()))
permuted = Check(
    "every row once in each table",
    lambda entries: all(
        np.array_equal(np.sort(table.astype(np.uint32)), np.arange(len(table), dtype=np.uint32)) for table in entries
    ),
)


def _rise(starts: Array, n: int) -> bool:
    return bool((starts[:, 0] == 0).all() and (starts[:, -1] == n).all() and (starts[:, 1:] >= starts[:, :-1]).all())


def directories(entries: Array) -> Array:
    """Where each slot of the directory begins among the sorted entries (n_tables, n) of each table."""
    bits = directory_bits(entries.shape[1])
    starts = np.zeros((len(entries), (1 << bits) + 1), dtype=np.uint32)
    for table in range(len(entries) if entries.size else 0):
        _native.lsh_starts(entries[table], bits, starts[table])
    return starts


def hashes_for(n: int, probabilities: Float64) -> int:
    """The least number of hashes with at most BUCKET_ROWS of n rows in a bucket, on average over pairs of rows."""
    for n_hashes in range(1, MAX_HASHES):
        if n * float((probabilities**n_hashes).mean()) <= BUCKET_ROWS:
            return n_hashes
    return MAX_HASHES


def directory_bits(n: int) -> int:
    """Bits of the keys that a table's directory goes by: one to two entries of 4 bytes for 8 rows."""
    return min(28, max(1, n.bit_length() - 3))


def table_bytes(n: int, d: int) -> int:
    """Bytes of a table of n rows: entries, sketches, directory."""
    return n * (8 + sketch_size(d)) + 4 * ((1 << directory_bits(n)) + 1)


def probe_counts() -> list[int]:
    """1, ..., MAX_PROBES, each a quarter more than the last."""
    counts = [1]
    while counts[-1] < MAX_PROBES:
        counts.append(min(MAX_PROBES, max(counts[-1] + 1, int(counts[-1] * STEP))))
    return counts
