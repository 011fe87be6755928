"""Search over product-quantized vectors in inverted lists (IVFADC)."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from numpy.typing import ArrayLike

from fpq import _checks, _native, _settings, progress, threads
from fpq._checks import Array, Float32, Int64, Rows, UInt8, UInt64
from fpq.indexes import ivf_file, ivf_rows
from fpq.indexes.base import Bits, RangeResult, SearchResult
from fpq.indexes.changes import Addition
from fpq.indexes.parts.coarse import CoarseQuantizer, residuals, rotated_by_lists, rows_per_list
from fpq.indexes.parts.ids import Commit, Entries, Removal
from fpq.indexes.parts.lists import InvertedLists
from fpq.indexes.parts.lock import reads, writes
from fpq.indexes.parts.refinement import RefineName
from fpq.indexes.parts.streaming import adds_blocks, fits_blocks, searches_blocks
from fpq.indexes.pq_base import CodeIndex
from fpq.indexes.pq_training import learned_quantizer, learned_refinement
from fpq.learning.defaults import default_lists, default_m
from fpq.learning.lloyd import LocalRows, TrainingRows
from fpq.learning.local_rotation import LocalRotations
from fpq.learning.open_indexing import OpenIndexing
from fpq.learning.quantizer import RotationName
from fpq.metric import MetricName
from fpq.progress import Progress
from fpq.storage import State, Stored


class IVFPQIndex(CodeIndex, kind="IVFPQIndex"):
    """Nearest neighbours among the codes of the lists near a query (an inverted file, IVFADC).

    Each vector belongs to the list of its nearest centroid, one of `n_lists`. A query probes the `n_probe` lists of its
    nearest centroids; with "ip" and "cosine", of the largest products plus a share of the spread of the list. Within
    the probed lists the search is exact with respect to ADC: the ids and float32 distances are those of sorting the
    sums of table entries of all codes. Jegou, Douze, Schmid, Product Quantization for Nearest Neighbor Search, 2011.
    The capacity of lists is that of OpenIndexing (FPQ paper), with another order of moves.

    Parameters
    ----------
    n_lists : int or None
        Number of lists, up to 2**24; one to several times the square root of the number of vectors is a good choice.
        None: `fit` chooses 1.5 times the square root of the number of rows of X. The attribute is None until then. If
        you train on a part of the vectors, give a number that suits all of them.
        From 8,192 lists on, rows are assigned in two levels (nearest coarse cells, then the centroids in these cells).
        From 32,768 lists on, queries select their lists in two levels too, except for "ip". Measured on sift500k: 0.2
        to 0.3 % of the rows get a list other than the nearest, and with 65,536 lists and 16 probes, less than 2 % of
        the probed lists are not among the nearest 16.
    m, nbits, rotation, rotation_dim, open_indexing, metric, anisotropy, keep_vectors, refine, seed, n_threads, verbose
        As in `PQIndex`. The rotation and the codebooks are learned from residuals if `residual` is True.
    residual : bool, default True
        True: codes are those of residuals, the differences to the centroid of the list (more accurate). False: codes
        are those of the vectors (faster, as one look-up table serves all lists).
    local_rotations : bool, default False
        Learn a rotation of the residuals of each list (locally optimized product quantization: Kalantidis, Avrithis,
        CVPR 2014), to `rotation_dim` dimensions. The codes are more accurate by far. But the rotations take
        ``4 * n_lists * d * rotation_dim`` bytes, as much as longer codes unless lists have more than some
        ``d**2 / 3`` vectors, and a search multiplies each query with the rotation of each list that it probes. Half of
        the dimensions mostly give the same recall. Not with `rotation`, `refine` or `residual=False`.
    list_capacity : float, optional
        No list holds more than ``ceil(list_capacity * n / n_lists)`` of the n vectors in the index after an `add`. At
        least 1. Of the vectors that a list has no room for, those move to their next nearest list whose squared
        distance grows least. The limit grows with n and holds after every `add`; after a removal, lists may exceed the
        limit. The centroids are trained under the same limit.

    Attributes
    ----------
    quantizer : ProductQuantizer
    centroids : float32 (n_lists, d)
    n_probe : int
        Default of the argument `n_probe` of `search`. Initially 16, or n_lists if that is less.
    rerank : int or None
        Default of the argument `rerank` of `search`. Initially None: no re-ranking.

    Examples
    --------
    >>> import numpy as np, fpq
    >>> X = np.random.default_rng(0).normal(size=(5000, 32)).astype(np.float32)
    >>> index = fpq.IVFPQIndex(n_lists=50, m=8, keep_vectors=True).fit(X).add(X)
    >>> distances, ids = index.search(X[:3], k=5, n_probe=8, rerank=4)
    >>> ids[:, 0].tolist()
    [0, 1, 2]
    """

    n_lists = _settings.Fixed(_settings.known_after_fit(_settings.integer(1, 1 << 24)))
    residual = _settings.Fixed(_settings.choice(True, False))
    local_rotations = _settings.Fixed(_settings.flag)
    list_capacity = _settings.Fixed(_settings.optional(_settings.real(1.0)))
    n_probe = _settings.Setting(_settings.integer(1))

    _state_names: tuple[str, ...] = ("n_lists", "_coarse", "_rotated", "_rotations", "_lists", "_max_residual")

    _coarse: CoarseQuantizer | None
    _rotated: Float32  # the centroids after the rotation of the quantizer
    _rotations: LocalRotations | None
    _rotation_dim: int | None  # of rotations of the lists; None: all dimensions
    _lists: InvertedLists
    _max_residual: Float32  # (n_lists,) upper bounds of the norms of the decoded residuals of each list

    def __init__(
        self,
        n_lists: int | None,
        m: int | None = 16,
        *,
        nbits: int = 8,
        residual: bool = True,
        local_rotations: bool = False,
        list_capacity: float | None = None,
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
        self.n_lists = n_lists
        self.residual = residual
        self.local_rotations = local_rotations
        if self.local_rotations and not (self.residual and rotation is None and refine is None):
            raise ValueError(
                "local_rotations: expected False with residual=False, rotation or refine, got True: they rotate "
                "residuals, without another rotation or refinement codes"
            )
        self.list_capacity = list_capacity
        self._rotation_dim = None
        super().__init__(
            m, nbits=nbits, rotation=rotation, rotation_dim=None if self.local_rotations else rotation_dim,
            open_indexing=open_indexing, metric=metric, anisotropy=anisotropy, init="random",
            keep_vectors=keep_vectors, refine=refine, seed=seed, n_threads=n_threads, verbose=verbose,
        )  # fmt: skip
        if self.local_rotations and rotation_dim is not None:
            self._rotation_dim = _checks.integer("rotation_dim", rotation_dim, self.quantizer.m or 1)
        self.n_probe = min(16, self.n_lists or 16)
        self._coarse = self._rotations = None
        vars(self).update(self._no_rows())

    def _no_rows(self) -> dict[str, Any]:
        return {**super()._no_rows(), **ivf_rows.no_lists(self.n_lists or 0, self.quantizer)}

    @property
    def dim(self) -> int | None:
        """Dimension of the vectors; None until `fit`."""
        return None if self._coarse is None else self._coarse.centroids.shape[1]

    @property
    def is_trained(self) -> bool:
        """Whether `fit` has been called."""
        return self._coarse is not None

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays: lists, centroids, rotations, codebooks, ids, kept vectors, refinement codes."""
        centroids = 0 if self._coarse is None else self._coarse.nbytes + self._rotated.nbytes
        rotations = 0 if self._rotations is None else self._rotations.nbytes
        return self._common_nbytes + centroids + rotations + self._lists.nbytes + self._max_residual.nbytes

    @property
    def centroids(self) -> Float32 | None:
        """The centroids of the lists, float32 (n_lists, d); None until `fit`."""
        return None if self._coarse is None else self._coarse.centroids

    @property
    @reads
    def list_sizes(self) -> Int64:
        """The number of vectors in each list, int64 (n_lists,)."""
        return self._lists.layout.sizes.copy()

    @reads
    def lists_of(self, ids: ArrayLike) -> Int64:
        """The list of each of the vectors with these ids, int64 (len(ids),).

        Raises
        ------
        ValueError
            If an id is not in the index.
        """
        return self._lists.lists_of(self._lists.find(self._ids.present(ids)[0]))

    @writes
    @progress.reported
    @fits_blocks
    def fit(self, X: Rows) -> IVFPQIndex:
        """Learn the centroids, the rotation and the codebooks from (a sample of) the rows of X. X is not kept.

        Parameters
        ----------
        X : array (n, d), or in blocks as the rows of `add`
            At least n_lists rows. Blocks of unknown number need a number of lists, not None.

        Raises
        ------
        ValueError, TypeError
            If X is not a finite 2-d array of at least n_lists rows and m dimensions, or the index holds vectors. The
            index is then unchanged.
        """
        self._fit(self._fitting, X)
        return self

    def _learning(self, rows: TrainingRows, n: int) -> Commit:
        n_threads = threads.resolve(self.n_threads)
        pq, n_lists = self.quantizer, self.n_lists or default_lists(n)
        if rows.n < n_lists:
            raise ValueError(f"X: expected at least one row for each of the {n_lists} lists, got {rows.n} row(s)")
        pq.check_dim(rows.dim)
        if (width := self._rotation_dim or rows.dim) > rows.dim:
            raise ValueError(f"rotation_dim: expected at most the {rows.dim} dimension(s) of X, got {width}")
        self._require_file_fits(rows.dim)
        if self._metric.unit_length or isinstance(rows, LocalRows):  # a contiguous copy of the sample is read faster
            rows = rows.changed(self._metric.prepare)
        coarse = CoarseQuantizer.train(
            rows, n_lists, capacity=self.list_capacity, metric=self._metric, seed=pq.seed, n_threads=n_threads
        )
        rotations = None
        if self.local_rotations:
            in_lists, m = rows.grouped(coarse.nearest, n_lists), pq.m or default_m(width)
            rotations = LocalRotations.learned(in_lists, coarse.centroids, m, width, n_threads)
        rows = vectors = rows.sampled(self._choose(rows.n, pq.max_training_rows))
        if self.residual:
            rows = rows.changed(partial(residuals, coarse, rotations=rotations), width)
        if rotations is not None and self.anisotropy > 1:
            vectors = vectors.changed(partial(rotated_by_lists, coarse, rotations), width)
        quantizer = learned_quantizer(self, rows, rows.n, vectors)
        rotated = quantizer.rotate(coarse.centroids, n_threads)
        centroids = rotated if self.residual else None
        refinement = learned_refinement(self, quantizer, rows, vectors, n_threads, centroids)
        return self._learned(
            quantizer, refinement, n_lists=n_lists, n_probe=min(self.n_probe, n_lists), _coarse=coarse,
            _rotated=rotated, _rotations=rotations, **ivf_rows.no_lists(n_lists, quantizer),
        )  # fmt: skip

    @property
    def _training_size(self) -> int:
        if self.n_lists is None:
            raise ValueError("n_lists: expected a number for blocks of unknown number, got None")
        return self._largest_sample(self.n_lists)

    def _largest_sample(self, n_lists: int) -> int:
        """The maximum number of rows that `fit` learns `n_lists` lists and the codebooks from."""
        return max(n_lists * rows_per_list(n_lists), self.quantizer.max_training_rows)

    def _reserve(self, n: int) -> None:
        super()._reserve(n)
        self._lists.reserve(n)

    @property
    def _limited(self) -> bool:
        return self.list_capacity is not None or super()._limited

    def _drawn(self, n: int) -> Int64 | None:
        return self._choose(n, self._largest_sample(self.n_lists or default_lists(n)))

    @writes
    @adds_blocks
    def add(self, X: Rows, ids: ArrayLike | None = None) -> IVFPQIndex:
        """Encode and add vectors.

        Parameters
        ----------
        X : array (n, d), memory-mapped or not, Dask array (n, d), or iterable of arrays (n_i, d)
            float32, float64, float16, bfloat16, uint8 and int8 are read in place. Input that is not in memory is read
            in pieces: one Dask chunk, one item of the iterable, or 2**18 rows of a memory-mapped array. With
            OpenIndexing or `list_capacity`, each chunk or item is an `add` of its own.
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
        return ivf_rows.adding(self, x, ids, leaving, n_threads)

    def _training(self) -> dict[str, Any]:
        names = ("n_lists", "residual", "local_rotations", "list_capacity", "centroids")
        packed = self._rotations and self._rotations.packed
        return {**super()._training(), **{name: getattr(self, name) for name in names}, "rotations": packed}

    def _merging(self, other: IVFPQIndex, ids: Int64, kept: Array | None, n_threads: int) -> Addition:
        return ivf_rows.merging(self, other, ids)

    def _clearing(self) -> Commit:
        return ivf_rows.clearing(self, self._lists.clearing())

    @reads
    @searches_blocks
    def search(
        self,
        Q: Rows,
        k: int = 10,
        *,
        n_probe: int | None = None,
        rerank: int | None = None,
        recall: float | None = None,
        allowed: ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> SearchResult:
        """The k nearest codes in the probed lists of each query; the lower id wins ties.

        Parameters
        ----------
        Q : array (nq, d) or (d,), or in blocks as the rows of `add`
        k : int, default 10
        n_probe : int, optional
            Number of lists to probe, at least 1; more than n_lists means all. Default: the attribute `n_probe`.
        rerank : int, optional
            Sort the ``rerank * k`` nearest codes by the exact distances to the kept vectors. Default: the attribute
            `rerank`.
        recall : float, optional
            Instead of `n_probe` and `rerank`: the fastest setting that reaches this recall@k by the measurements of
            `tune`, or that lies between measured settings. The recall differs for other queries, with `allowed`, and
            after many changes of the index.
        allowed : array of ids, or boolean mask by id, optional
            Return only these ids.
        n_threads : int, optional

        Raises
        ------
        ValueError, TypeError
            If the index is not trained, an argument is not as described, `rerank` is given and the index keeps no
            vectors, or `recall` is given and `tune` has not measured it.
        """
        return self._search_codes(Q, k, recall, allowed, n_threads, n_probe=n_probe, rerank=rerank)

    @property
    def _largest(self) -> float:
        assert self._coarse is not None
        return max(self.quantizer.largest, self._coarse.largest)

    def _native_codes(self, refined: _native.Refined | None, power: int, allowed: Bits | None) -> _native.Codes:
        return ivf_rows.native(self, refined, power, allowed)

    def _scan(
        self, queries: Float32, power: int, answers: _native.Answers, allowed: Bits | None, n_threads: int,
        n_probe: int = 1, probes: Int64 | None = None, refined: int = 0, **_: Any,
    ) -> None:  # fmt: skip
        ivf_rows.scan(self, queries, power, answers, allowed, n_threads, n_probe, probes, refined)

    @reads
    def _probes(self, queries: Float32, n_probe: int | None, n_threads: int) -> Int64:
        """The lists that a search for these queries probes, int64 (nq, n_probe)."""
        assert self._coarse is not None
        prepared, power = self._scaled(self._metric.prepare(queries, n_threads))
        n_probe = min(self.n_probe if n_probe is None else n_probe, len(self._coarse.centroids))
        return self._coarse.probe(prepared, n_probe, n_threads, power)

    @reads
    def _search_lists(
        self, queries: Float32, k: int, probes: Int64, rerank: int | None, allowed: Any, n_threads: int
    ) -> SearchResult:
        """As `search`, in given lists of each query."""
        effort: dict[str, Any] = {"n_probe": probes.shape[1], "probes": probes, "rerank": rerank}
        return self._found(queries, k, allowed, n_threads, self._ranked, effort)

    def _allowed_bits(self, allowed: Any) -> UInt64 | None:
        return self._lists.allowed_rows(self._ids, allowed)

    @reads
    def range_search(
        self,
        Q: Rows,
        radius: float,
        *,
        n_probe: int | None = None,
        allowed: ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> RangeResult:
        """All vectors of the probed lists within a radius of each query.

        Parameters
        ----------
        Q : array (nq, d) or (d,)
        radius : float
            "l2": largest squared L2 distance. "ip" and "cosine": smallest similarity.
        n_probe : int, optional
            As in `search`.
        allowed : array of ids, or boolean mask by id, optional
            Return only these ids.
        n_threads : int, optional

        Returns
        -------
        RangeResult
            ``lims, distances, ids``, nearest first; the lower id wins ties.

        Raises
        ------
        ValueError, TypeError
            If the index is not trained or an argument is not as described.
        """
        n_probe = self.n_probe if n_probe is None else _checks.integer("n_probe", n_probe, 1)
        return self._range_search(Q, radius, allowed, n_threads, n_probe=n_probe)

    def _places(self, rows: Int64) -> Int64:
        return self._lists.find(self._ids.of(rows))

    def _removing(self, removal: Removal, places: Int64) -> Commit:
        counts, commit_lists = self._counts_without(places), self._lists.removing(places)
        commit_columns = self._columns.removing(removal, len(self) - len(places))

        def commit() -> None:
            commit_lists()
            commit_columns()
            self._counts = counts

        return commit

    def _codes(self, rows: Int64) -> UInt8:
        return self._lists.codes(rows)

    def _candidate_ids(self) -> tuple[Entries | None, Int64 | None]:
        return self._ids.native_table()

    def _decode(self, ids: Any) -> Float32:
        assert self._coarse is not None
        wanted, rows = self._ids.present(ids)
        slots = self._lists.find(wanted)
        decoded, lists = self._decoded(slots, rows), self._lists.lists_of(slots)
        if self._rotations is not None:
            decoded = self._rotations.inverse(decoded, lists, threads.resolve(self.n_threads))
        return decoded + self._coarse.centroids[lists] if self.residual else decoded

    def _state(self) -> State:
        return ivf_file.state(self)

    @classmethod
    def _from_state(cls, stored: Stored) -> IVFPQIndex:
        return ivf_file.restored(cls, stored)

    def __repr__(self) -> str:
        options = {"local_rotations": self.local_rotations, "rotation_dim": self._rotation_dim}
        rotations = [f"{name}={value}" for name, value in options.items() if value]
        return self._describe(f"n_lists={self.n_lists}", f"n_probe={self.n_probe}", *rotations)
