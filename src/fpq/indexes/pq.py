"""Exhaustive search over product-quantized vectors."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fpq import _native, progress, threads
from fpq._arrays import GrowingArray
from fpq._checks import Array, Float32, Int64, Rows, UInt8
from fpq.indexes.base import Bits, SearchResult
from fpq.indexes.changes import Addition
from fpq.indexes.parts.ids import PIECE, Commit, Ids, Removal
from fpq.indexes.parts.lock import reads, writes
from fpq.indexes.parts.plan import searched
from fpq.indexes.parts.refinement import Refinement, RefineName, n_blocks, residuals_of
from fpq.indexes.parts.streaming import adds_blocks, fits_blocks, searches_blocks
from fpq.indexes.pq_base import CodeIndex
from fpq.indexes.pq_file import optional_state, restore_settings, stored_counts, stored_options
from fpq.indexes.pq_training import learned_quantizer, learned_refinement
from fpq.learning.lloyd import TrainingRows
from fpq.learning.open_indexing import OpenIndexing
from fpq.learning.quantizer import ProductQuantizer, RotationName
from fpq.metric import MetricName
from fpq.progress import Progress
from fpq.storage import FormatError, State, Stored

BLOCK_ROWS = 64


def _no_codes(quantizer: ProductQuantizer) -> GrowingArray:
    return GrowingArray((quantizer.code_size, BLOCK_ROWS), np.uint8)


class PQIndex(CodeIndex, kind="PQIndex"):
    """Nearest neighbours by the asymmetric distances (ADC) of product quantization codes.

    A vector takes ``m * nbits / 8`` bytes. `search` is exact with respect to ADC: the ids and float32 distances are
    those of sorting the sums of table entries of all codes, added in the order of the subspaces. FPQ paper, section
    II.B; Jegou et al. 2011.

    Any number of threads may search at the same time. A call that changes the index runs alone.

    Parameters
    ----------
    m, nbits, rotation, rotation_dim, open_indexing, seed, n_threads, verbose
        As in `ProductQuantizer`. With `open_indexing`, n in the limit is the number of vectors in the index after an
        `add`: the counters carry over from one `add` to the next, and the limit grows.
    metric : {"l2", "ip", "cosine"}, default "l2"
        Squared Euclidean distance, inner product, or cosine similarity (vectors and queries are scaled to length 1).
    anisotropy : float, optional
        For "ip" and "cosine": the weight of a code's error along the vector, as a multiple of that of the error across
        it, at least 1 (anisotropic vector quantization: Guo et al., ICML 2020). Codes then rank large inner products
        better, and are encoded more slowly. A threshold T of ScaNN is the weight ``(d - 1) * T**2 / (1 - T**2)``.
        Default: 4; 1 (the squared error) for "l2" and with `open_indexing`.
    keep_vectors : bool or path, default False
        True: keep the vectors too, for `rerank` and for an exact `reconstruct`, in the dtype of the input (float64
        becomes float32). For "cosine", vectors of length 1 are kept, rounded to float16 or bfloat16 if the input has
        this type, else float32. A path: read the vectors from this memory-mapped .npy file instead: (n, d) in C order,
        float32, float64, float16, uint8 or int8; row i is the vector with id i. A saved index stores the path as given
        (relative paths start at the working directory), the shape and the dtype. The values are not checked. The file
        must not change while an index uses it.
    refine : {"sq4", "sq6", "sq8"}, optional
        Keep scalar codes of 4, 6 or 8 bits per dimension of what the product quantizer leaves over. `search` ranks the
        ``10 * k`` nearest codes (or ``rerank * k``) by distances that include the scalar codes. They take an eighth to
        a quarter of the bytes of float32 vectors, and 4 or 8 bytes per vector. With `keep_vectors` too, the nearest
        by the scalar codes are ranked by exact distances.

    Attributes
    ----------
    quantizer : ProductQuantizer
    rerank : int or None
        Default of the argument `rerank` of `search`. Initially None: no re-ranking.

    Examples
    --------
    >>> import numpy as np, fpq
    >>> X = np.random.default_rng(0).normal(size=(2000, 32)).astype(np.float32)
    >>> index = fpq.PQIndex(m=8, keep_vectors=True).fit(X).add(X)
    >>> distances, ids = index.search(X[:3], k=5, rerank=4)
    >>> ids[:, 0].tolist()
    [0, 1, 2]
    """

    _state_names: tuple[str, ...] = ("_blocks",)

    _blocks: GrowingArray  # (blocks, code_size, BLOCK_ROWS)

    def __init__(
        self,
        m: int | None = 16,
        *,
        nbits: int = 8,
        rotation: RotationName | None = None,
        rotation_dim: int | None = None,
        open_indexing: OpenIndexing | float | None = None,
        metric: MetricName = "l2",
        anisotropy: float | None = None,
        keep_vectors: bool | str | os.PathLike[str] = False,
        refine: RefineName | None = None,
        seed: int = 0,
        n_threads: int | None = None,
        verbose: bool | Callable[[Progress], None] = False,
    ) -> None:
        super().__init__(
            m, nbits=nbits, rotation=rotation, rotation_dim=rotation_dim, open_indexing=open_indexing, metric=metric,
            anisotropy=anisotropy, init="k-means++", keep_vectors=keep_vectors, refine=refine, seed=seed,
            n_threads=n_threads, verbose=verbose,
        )  # fmt: skip
        vars(self).update(self._no_rows())

    def _no_rows(self) -> dict[str, Any]:
        return {**super()._no_rows(), "_blocks": _no_codes(self.quantizer)}

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays of the index: codes, codebooks, ids, kept vectors, refinement codes."""
        return self._common_nbytes + self._blocks.data.nbytes

    @property
    @reads
    def codes(self) -> UInt8:
        """The codes, uint8 (n, code_size), in the order of `ids`."""
        return self._codes(np.arange(len(self), dtype=np.int64))

    @writes
    @progress.reported
    @fits_blocks
    def fit(self, X: Rows) -> PQIndex:
        """Learn the rotation and the codebooks from (a sample of) the rows of X. X is not kept.

        Parameters
        ----------
        X : array (n, d), or in blocks as the rows of `add`

        Raises
        ------
        ValueError, TypeError
            If X is not a finite 2-d array of at least one row and m dimensions, or the index holds vectors. The index
            is then unchanged.
        """
        self._fit(self._fitting, X)
        return self

    def _reserve(self, n: int) -> None:
        super()._reserve(n)
        self._reserve_codes(n)

    def _reserve_codes(self, n: int) -> None:
        self._blocks.reserve(n_blocks(n))
        self._columns.reserve(n)

    def _drawn(self, n: int) -> Int64 | None:
        return self._choose(n, self._training_size) if self._metric.unit_length else self.quantizer.drawn(n)

    def _learning(self, rows: TrainingRows, n: int) -> Commit:
        self._require_file_fits(rows.dim)
        if self._metric.unit_length:
            rows, n = rows.changed(self._metric.prepare), rows.n
        quantizer = learned_quantizer(self, rows, n, rows)
        refinement = learned_refinement(self, quantizer, rows, rows, threads.resolve(self.n_threads))
        return self._learned(quantizer, refinement, _blocks=_no_codes(quantizer))

    @writes
    @adds_blocks
    def add(self, X: Rows, ids: ArrayLike | None = None) -> PQIndex:
        """Encode and add vectors.

        Parameters
        ----------
        X : array (n, d), memory-mapped or not, Dask array (n, d), or iterable of arrays (n_i, d)
            float32, float64, float16, bfloat16, uint8 and int8 are read in place. Input that is not in memory is read
            in pieces: one Dask chunk, one item of the iterable, or 2**18 rows of a memory-mapped array. With
            OpenIndexing, each chunk or item is an `add` of its own.
        ids : int array (n,), optional
            Unique, not in the index, at least 0. By default, ids continue after the largest id used so far.

        Raises
        ------
        ValueError, TypeError
            If the index is not trained, or X or ids are not as described. The index is then unchanged.
        """
        self._add(X, ids)
        return self

    def _adding(self, x: Array, ids: Int64, kept: Array | None, leaving: Int64, n_threads: int) -> Addition:
        first = len(self)
        self._reserve_codes(first + len(x))
        counts = self._next_counts()

        def write(advance: progress.Advance) -> None:
            row = first
            prepare = self._metric.prepare
            for codes, rotated in self._encoded(x, counts, leaving, n_threads, prepare, prepare):
                rows = np.arange(row, row + len(codes), dtype=np.int64)
                _native.put_codes(codes, rows, self._blocks.data, n_threads)
                if self._refinement is not None:
                    both = residuals_of(self.quantizer, rotated, codes, n_threads)
                    self._columns.write(row, self._refinement.encode(*both, n_threads))
                row += len(codes)
                advance(len(codes))
            self._blocks.clear_after(row)

        def commit() -> None:
            self._counts = counts

        return Addition(commit, write, self._clearing())

    def _merging(self, other: PQIndex, ids: Int64, kept: Array | None, n_threads: int) -> Addition:
        first = len(self)
        self._reserve_codes(first + len(other))
        counts = self._merged_counts(other)

        def write(advance: progress.Advance) -> None:
            for start in range(0, len(other), PIECE):
                rows = np.arange(start, min(len(other), start + PIECE), dtype=np.int64)
                _native.put_codes(other._codes(rows), first + rows, self._blocks.data)
                advance(len(rows))
            self._blocks.clear_after(first + len(other))
            self._columns.extend(first, other._columns, len(other))

        def commit() -> None:
            self._counts = counts

        return Addition(commit, write, self._clearing())

    def _clearing(self) -> Commit:
        n = len(self)

        def clear() -> None:
            self._blocks.clear_after(n)
            self._columns.clear_after(n)

        return clear

    @reads
    @searches_blocks
    def search(
        self,
        Q: Rows,
        k: int = 10,
        *,
        rerank: int | None = None,
        recall: float | None = None,
        allowed: ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> SearchResult:
        """The k nearest codes of each query; the lower id wins ties.

        Parameters
        ----------
        Q : array (nq, d) or (d,), or in blocks as the rows of `add`
        k : int, default 10
        rerank : int, optional
            Sort the ``rerank * k`` nearest codes by the exact distances to the kept vectors. Default: the attribute
            `rerank`.
        recall : float, optional
            Instead of `rerank`: the fastest setting that reaches this recall@k by the measurements of `tune`,
            or that lies between measured settings. The recall differs for other queries, with `allowed`, and after
            many changes of the index.
        allowed : array of ids, or boolean mask by id, optional
            Return only these ids.
        n_threads : int, optional

        Raises
        ------
        ValueError, TypeError
            If the index is not trained, an argument is not as described, `rerank` is given and the index keeps no
            vectors, or `recall` is given and `tune` has not measured it.
        """
        return self._search_codes(Q, k, recall, allowed, n_threads, rerank=rerank)

    @property
    def _largest(self) -> float:
        return self.quantizer.largest

    def _native_codes(self, refined: _native.Refined | None, power: int, allowed: Bits | None) -> _native.Codes:
        adc = self.quantizer.adc(self._metric, power)
        return _native.FlatCodes(adc, refined, self._blocks.data, self._ids.native, allowed, len(self))

    def _scan(
        self, queries: Float32, power: int, answers: _native.Answers, allowed: Bits | None, n_threads: int,
        refined: int = 0, **_: Any,
    ) -> None:  # fmt: skip
        searched(self, power, allowed).search(self.quantizer.rotate(queries, n_threads), answers, n_threads, refined)

    def _removing(self, removal: Removal, places: Int64) -> Commit:
        codes, counts, n = self._codes(removal.sources), self._counts_without(places), len(self) - len(removal.rows)
        commit_columns = self._columns.removing(removal, n)

        def commit() -> None:
            _native.put_codes(codes, removal.targets, self._blocks.data)
            self._blocks.clear_after(n)
            commit_columns()
            self._counts = counts

        return commit

    def _codes(self, rows: Int64) -> UInt8:
        codes = np.empty((len(rows), self.quantizer.code_size), dtype=np.uint8)
        _native.get_codes(self._blocks.data, rows, codes)
        return codes

    def _decode(self, ids: Any) -> Float32:
        rows = self._ids.rows(ids)
        return self._decoded(rows, rows)

    def _state(self) -> State:
        quantizer = self.quantizer._state()
        params: dict[str, Any] = {
            "metric": self.metric,
            "keep_vectors": bool(self.keep_vectors),
            "quantizer": quantizer.params,
        }
        state = State(params, quantizer.arrays)
        if self.is_trained:
            state.arrays["codes"] = self._blocks.data[: n_blocks(len(self))]
        return state.joined(optional_state(self), self._ids.state(), self._vectors.state())

    @classmethod
    def _from_state(cls, stored: Stored) -> PQIndex:
        index = cls(**stored_options(stored), n_threads=stored.n_threads)
        index.quantizer = pq = ProductQuantizer._from_state(stored.part("quantizer"))
        vars(index).update(index._no_rows())
        restore_settings(index, stored, has_lists=False)
        index._ids = Ids.from_state(stored)
        if not pq.is_trained:
            if len(index):
                raise FormatError(f"n: expected 0 of an index that is not trained, got {len(index)}")
            return index
        shape = n_blocks(len(index)), pq.code_size, BLOCK_ROWS
        index._blocks = GrowingArray.of(stored.array("codes", np.uint8, shape, bulk=True))
        if index.refine is not None:
            index._refinement = Refinement.from_state(stored, index.refine, int(pq.offsets[-1]))
            index._columns = index._refinement.stored_columns(stored, len(index))
        index._counts = stored_counts(stored, pq, len(index))
        index._restore_vectors(stored)
        return index

    def __repr__(self) -> str:
        return self._describe()
