"""Search over product-quantized vectors."""

from __future__ import annotations

from typing import Any

import numpy as np

from fpq import _checks, _native, threads
from fpq._arrays import GrowingArray
from fpq._checks import Float32, Int64, UInt8
from fpq.indexes.base import Bits, Index, SearchResult
from fpq.indexes.vectors import Vectors
from fpq.open_indexing import OpenIndexing
from fpq.quantizer import ProductQuantizer

BLOCK_ROWS = 64


class PQIndex(Index):
    """Nearest neighbours by the asymmetric distances (ADC) of product quantization codes.

    A vector takes ``m * nbits / 8`` bytes. `search` gives the exact ADC answer: the same ids and float32 distances as
    sorting all sums of table entries, added in the order of the subspaces. FPQ paper, section II.B; Jegou et al. 2011.

    Any number of threads may search at the same time, but not while vectors are added or removed.

    Parameters
    ----------
    m, nbits, rotation, rotation_dim, open_indexing, seed, n_threads, verbose
        As in `ProductQuantizer`. With `open_indexing`, n in the limit is the number of vectors that the index holds
        after an `add`: counts go on from one add to the next, and the limit grows.
    metric : {"l2", "ip", "cosine"}, default "l2"
        Squared Euclidean distance, inner product, or cosine similarity (vectors and queries are scaled to length 1).
    keep_vectors : bool, default False
        Keep the vectors too, in the element type they come in, for `rerank` and for an exact `reconstruct`.

    Attributes
    ----------
    quantizer : ProductQuantizer

    Examples
    --------
    >>> import numpy as np, fpq
    >>> X = np.random.default_rng(0).normal(size=(2000, 32)).astype(np.float32)
    >>> index = fpq.PQIndex(m=8, keep_vectors=True).fit(X).add(X)
    >>> distances, ids = index.search(X[:3], k=5, rerank=4)
    >>> ids[:, 0].tolist()
    [0, 1, 2]
    """

    def __init__(
        self,
        m: int = 16,
        nbits: int = 8,
        *,
        rotation: str | None = None,
        rotation_dim: int | None = None,
        open_indexing: OpenIndexing | float | None = None,
        metric: str = "l2",
        keep_vectors: bool = False,
        seed: int = 0,
        n_threads: int | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(metric, n_threads)
        self.quantizer = ProductQuantizer(
            m, nbits, rotation=rotation, rotation_dim=rotation_dim, open_indexing=open_indexing,
            seed=seed, n_threads=n_threads, verbose=verbose,
        )  # fmt: skip
        self.keep_vectors = _checks.choice("keep_vectors", keep_vectors, (False, True))
        self._reset()

    def _reset(self) -> None:
        pq = self.quantizer
        self._blocks = GrowingArray((pq.code_size, BLOCK_ROWS), np.uint8)
        self._vectors = Vectors()
        self._counts = pq.open_indexing.new_counts(pq.m, 1 << pq.nbits) if pq.open_indexing else None

    @property
    def dim(self) -> int | None:
        """Dimension of the vectors; None until `fit`."""
        return self.quantizer.dim if self.is_trained else None

    @property
    def is_trained(self) -> bool:
        """Whether `fit` has been called."""
        return self.quantizer.is_trained

    @property
    def nbytes(self) -> int:
        """Bytes that the index holds in arrays: codes, codebooks, ids, kept vectors."""
        arrays = self._blocks.data.nbytes + (0 if self._counts is None else self._counts.nbytes)
        return arrays + self.quantizer.nbytes + self._vectors.nbytes + self._ids.nbytes

    @property
    def codes(self) -> UInt8:
        """The codes, uint8 (n, code_size), in the order of `ids`."""
        return self._codes(np.arange(len(self), dtype=np.int64))

    def fit(self, X: Any) -> PQIndex:
        """Learn rotation and codebooks from (a sample of) the rows of X; X is not kept.

        Parameters
        ----------
        X : array (n, d)

        Raises
        ------
        ValueError, TypeError
            If X is not a finite 2-d array of at least one row and m dimensions, or the index holds vectors already. The
            index is then as before.
        """
        if len(self):
            raise ValueError(f"fit: the index holds {len(self)} vectors coded by its present codebooks")
        x: Any = X
        if self.metric == "cosine":
            n_threads = threads.resolve(self.n_threads)
            x = _checks.vectors("X", X, min_rows=1, n_threads=n_threads)
            size = self.quantizer.training_rows(len(x))
            if size < len(x):
                x = x[np.sort(np.random.default_rng(self.quantizer.seed).choice(len(x), size, replace=False))]
            x = self._prepare(x, n_threads)
        self.quantizer.fit(x)
        self._reset()
        return self

    def add(self, X: Any, ids: Any = None) -> PQIndex:
        """Encode and add vectors.

        Parameters
        ----------
        X : array (n, d)
            Read in blocks; float32, float64, float16, uint8 and int8 are not copied.
        ids : int array (n,), optional
            Unique and not in the index yet, at least 0. Default: on from the largest id ever used.

        Raises
        ------
        ValueError, TypeError
            If the index is not trained, or X or ids are not as described. The index is then as before.
        """
        self._require_trained()
        n_threads = threads.resolve(self.n_threads)
        x = _checks.vectors("X", X, dim=self.dim, n_threads=n_threads)
        new_ids = self._ids.new(ids, len(x))
        n = len(self) + len(x)
        self._blocks.reserve(-(-n // BLOCK_ROWS))
        counts = None if self._counts is None else self._counts.copy()
        row = len(self)
        for codes in self.quantizer.encode_chunks(x, counts, n, n_threads, self._prepare):
            _native.put_codes(codes, np.arange(row, row + len(codes), dtype=np.int64), self._blocks.data)
            row += len(codes)
        rows = self._vectors.write(self._prepare(x, n_threads)) if self.keep_vectors else None
        self._ids.append(new_ids, len(x))
        if rows is not None:
            self._vectors.commit(rows, n)
        self._counts = counts
        return self

    def search(
        self, Q: Any, k: int = 10, *, rerank: int | None = None, allowed: Any = None, n_threads: int | None = None
    ) -> SearchResult:
        """The k nearest codes of each query; ties by id.

        Parameters
        ----------
        Q : array (nq, d) or (d,)
        k : int, default 10
        rerank : int, optional
            Score the ``rerank * k`` nearest codes again by the exact distances of the kept vectors.
        allowed : array of ids, or boolean mask by id, optional
            Only these may be returned.
        n_threads : int, optional

        Raises
        ------
        ValueError, TypeError
            If the index is not trained, an argument is not as described, or `rerank` is asked of an index that keeps no
            vectors.
        """
        if rerank is None:
            return self._search(Q, k, allowed, n_threads)
        rerank = _checks.integer("rerank", rerank, 1)
        if not self.keep_vectors:
            raise ValueError("rerank: the index keeps no vectors, build it with keep_vectors=True")
        count = threads.resolve(self.n_threads if n_threads is None else n_threads)
        k = _checks.integer("k", k, 1)
        queries, single = self._queries(Q, count)
        candidates = self._search(Q, max(k, min(rerank * k, len(self))), allowed, n_threads).ids
        candidates = candidates[None] if single else candidates
        if self._vectors.dim is None:
            found = np.full(candidates.shape, np.inf, dtype=np.float32)
        else:
            rows = self._ids.rows_or_missing(candidates)
            found = self._vectors.distances(queries, rows, self._similarity, count)
        order = np.lexsort((candidates, found), axis=-1)[:, :k]
        found, ids = np.take_along_axis(found, order, -1), np.take_along_axis(candidates, order, -1)
        if self._similarity:
            np.negative(found, out=found)
        return SearchResult(found[0], ids[0]) if single else SearchResult(found, ids)

    def _nearest(self, queries: Float32, k: int, allowed: Bits | None, n_threads: int) -> tuple[Float32, Int64]:
        distances = np.empty((len(queries), k), dtype=np.float32)
        ids = np.empty((len(queries), k), dtype=np.int64)
        _native.adc_search(
            *self.quantizer.adc(self._similarity), self.quantizer.rotate(queries, n_threads),
            self._blocks.data, self._ids.native, allowed, len(self), distances, ids, n_threads,
        )  # fmt: skip
        return distances, ids

    def _distances(self, queries: Float32, first: int, n: int, n_threads: int) -> Float32:
        out = np.empty((len(queries), n), dtype=np.float32)
        _native.adc_all(
            *self.quantizer.adc(self._similarity), self.quantizer.rotate(queries, n_threads),
            self._blocks.data, first, out, n_threads,
        )  # fmt: skip
        return out

    def remove(self, ids: Any) -> int:
        """Remove the vectors with these ids; other ids stay as they are. Ids that are not there are passed over.

        Returns
        -------
        int
            How many were removed.
        """
        removal = self._ids.plan_removal(ids)
        if self._counts is not None:
            self.quantizer.count(self._codes(removal.rows), self._counts, -1)
        _native.put_codes(self._codes(removal.sources), removal.targets, self._blocks.data)
        self._vectors.remove(removal)
        self._ids.remove(removal)
        return len(removal.rows)

    def _codes(self, rows: Int64) -> UInt8:
        codes = np.empty((len(rows), self.quantizer.code_size), dtype=np.uint8)
        _native.get_codes(self._blocks.data, rows, codes)
        return codes

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
        return self.quantizer.decode(self._codes(rows))

    def __repr__(self) -> str:
        return (
            f"PQIndex(m={self.quantizer.m}, nbits={self.quantizer.nbits}, rotation={self.quantizer.rotation!r}, "
            f"metric={self.metric!r}, n={len(self)}, dim={self.dim}, nbytes={self.nbytes})"
        )
