"""What indexes over product-quantized vectors share: the quantizer, kept vectors, re-ranking."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from fpq import _checks, threads
from fpq._checks import Array, Float32, Int64, UInt8
from fpq.indexes.base import Index, Nearest, SearchResult
from fpq.indexes.lock import reads
from fpq.indexes.vectors import Vectors
from fpq.open_indexing import OpenIndexing
from fpq.quantizer import ProductQuantizer
from fpq.storage import Check, Stored


class CodeIndex(Index):
    """An index that holds codes, and the vectors themselves if asked to."""

    def __init__(
        self,
        m: int,
        nbits: int,
        *,
        rotation: str | None,
        rotation_dim: int | None,
        open_indexing: OpenIndexing | float | None,
        metric: str,
        keep_vectors: bool,
        seed: int,
        n_threads: int | None,
        verbose: bool,
    ) -> None:
        super().__init__(metric, n_threads)
        self.quantizer = ProductQuantizer(
            m, nbits, rotation=rotation, rotation_dim=rotation_dim, open_indexing=open_indexing,
            seed=seed, n_threads=n_threads, verbose=verbose,
        )  # fmt: skip
        self.verbose = verbose
        self.keep_vectors = _checks.choice("keep_vectors", keep_vectors, (False, True))
        self._vectors = Vectors()
        self._counts: Int64 | None = None  # of OpenIndexing, from the first add on

    @property
    def dim(self) -> int | None:
        """Dimension of the vectors; None until `fit`."""
        return self.quantizer.dim if self.is_trained else None

    @property
    def is_trained(self) -> bool:
        """Whether `fit` has been called."""
        return self.quantizer.is_trained

    def _training_rows(self, X: Any, size: int) -> Array:
        """At most `size` checked rows for `fit`, which needs an empty index, as the metric wants them."""
        if len(self):
            raise ValueError(f"fit: the index holds {len(self)} vectors coded by its present codebooks")
        n_threads = threads.resolve(self.n_threads)
        x = _checks.vectors("X", X, min_rows=1, n_threads=n_threads)
        rows = self._choose(len(x), size)
        return self._prepare(x if rows is None else x[rows], n_threads)

    def _choose(self, n: int, size: int) -> Int64 | None:
        """`size` of `n` row numbers in rising order; None when all rows serve."""
        if n <= size:
            return None
        return np.sort(np.random.default_rng(self.quantizer.seed).choice(n, size, replace=False))

    @property
    def _training_size(self) -> int:
        """How many rows `fit` learns from at most."""
        return self.quantizer.max_training_rows

    @abstractmethod
    def _drawn(self, n: int) -> Int64 | None:
        """Which of n rows `fit` learns from; None for all."""

    @abstractmethod
    def _fit_drawn(self, x: Array, n: int) -> None:
        """As `fit`, from the rows that it would draw of n: the same bits."""

    def _reserve(self, n: int) -> None:
        if isinstance(self._vectors, Vectors):
            self._vectors.reserve(n)

    @property
    def _limited(self) -> bool:
        return self.quantizer.open_indexing is not None

    def _next_counts(self) -> Int64 | None:
        """The counters of OpenIndexing, to be moved on."""
        pq = self.quantizer
        if self._counts is None and pq.open_indexing:
            return pq.open_indexing.new_counts(pq.m, 1 << pq.nbits)
        return None if self._counts is None else self._counts.copy()

    @abstractmethod
    def _decode(self, ids: Any) -> Float32:
        """What the codes of these ids stand for."""

    @abstractmethod
    def _codes(self, rows: Int64) -> UInt8:
        """The codes (len(rows), code_size) in these places."""

    def _search_codes(
        self, Q: Any, k: int, rerank: int | None, allowed: Any, n_threads: int | None, find: Nearest | None = None
    ) -> SearchResult:
        """The k nearest codes, or the k nearest vectors among the rerank * k nearest codes."""
        if rerank is None:
            return self._search(Q, k, allowed, n_threads, find)
        rerank = _checks.integer("rerank", rerank, 1)
        if not self.keep_vectors:
            raise ValueError("rerank: the index keeps no vectors, build it with keep_vectors=True")
        count = threads.resolve(self.n_threads if n_threads is None else n_threads)
        k = _checks.integer("k", k, 1)
        queries, single = self._queries(Q, count)
        candidates = self._search(Q, max(k, min(rerank * k, len(self))), allowed, n_threads, find).ids
        candidates = candidates[None] if single else candidates
        found = self._exact(queries, candidates, count)
        order = np.lexsort((candidates, found), axis=-1)[:, :k]
        found, ids = np.take_along_axis(found, order, -1), np.take_along_axis(candidates, order, -1)
        if self._similarity:
            np.negative(found, out=found)
        return SearchResult(found[0], ids[0]) if single else SearchResult(found, ids)

    def _exact(self, queries: Float32, candidates: Int64, n_threads: int) -> Float32:
        """The distances of prepared queries to the kept vectors of these ids (nq, r), ascending; +inf for id -1."""
        if self._vectors.dim is None:
            return np.full(candidates.shape, np.inf, dtype=np.float32)
        return self._vectors.distances(queries, self._ids.rows_or_missing(candidates), self._similarity, n_threads)

    @reads
    def reconstruct(self, ids: Any) -> Float32:
        """The vectors with these ids, float32 (len(ids), d): the kept ones, else what their codes stand for.

        Raises
        ------
        ValueError
            If the index is not trained or an id is not in it.
        """
        self._require_trained()
        rows = self._ids.rows(ids)
        if self.keep_vectors and len(rows):
            return self._vectors.data[rows].astype(np.float32)
        return self._decode(ids)

    def _describe(self, *parameters: str) -> str:
        pq = self.quantizer
        parts = [*parameters, f"m={pq.m}", f"nbits={pq.nbits}", f"rotation={pq.rotation!r}", f"metric={self.metric!r}"]
        return f"{type(self).__name__}({', '.join(parts)}, n={len(self)}, dim={self.dim}, nbytes={self.nbytes})"


def stored_counts(stored: Stored, pq: ProductQuantizer, n: int) -> Int64 | None:
    """The counters of OpenIndexing from the file of an index of `n` vectors."""
    if not pq.open_indexing or not (n or stored.has("open_indexing_counts")):
        return None
    shape = (1 if pq.open_indexing.scope == "shared" else pq.m, 1 << pq.nbits)
    each = n * (pq.m // shape[0])
    counted = Check(f"counters that add up to {each} in each row", lambda counts: _add_up(counts, each))
    return stored.array("open_indexing_counts", np.int64, shape, counted)


def _add_up(counts: Int64, each: int) -> bool:
    """Whether every row of counters is at least 0 and adds up to `each`."""
    return bool(((counts >= 0) & (counts <= each)).all() and (counts.sum(axis=1) == each).all())
